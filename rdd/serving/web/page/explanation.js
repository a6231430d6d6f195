// Why a verdict: the parts of the picture that speak for it, and the training images that are nearest.

import { element, foreign } from "./elements.js";

/** What `POST /predict?explain=true` tells beside the answer. */
export function explanation({ nearest, note, occlusion }) {
  return element("div", { class: "explanation" }, overlay(occlusion), neighbours(nearest, note));
}

function overlay(occlusion) {
  const strongest = strongestParts(occlusion.logit_falls);
  const picture = element("img", { src: occlusion.png, alt: `The picture with its parts coloured. ${strongest}` });
  const seen = "Only what the detector sees is drawn, which may be the middle of the picture alone.";
  const words = element("figcaption", {}, element("p", {}, sentence(occlusion.legend)), element("p", { class: "muted" }, `${strongest} ${seen}`));
  return element("figure", { class: "overlay" }, picture, words);
}

/** In words, for those who do not see the colours. */
function strongestParts(falls) {
  const parts = falls.flatMap((row, y) => row.map((fall, x) => ({ fall, name: `row ${y + 1}, column ${x + 1}` })));
  const said = (part, verb) => `covering ${part.name} ${verb} the logit by ${Math.abs(part.fall).toFixed(2)}`;
  const most = parts.reduce((one, other) => (other.fall > one.fall ? other : one));
  const least = parts.reduce((one, other) => (other.fall < one.fall ? other : one));
  const found = [];
  if (most.fall > 0) found.push(said(most, "lowers"));
  if (least.fall < 0) found.push(said(least, "raises"));
  if (found.length === 0) return "No part of it changes the score.";
  return `Of ${falls.length} rows and ${falls[0].length} columns, ${found.join(", and ")}, the most of all parts.`;
}

function neighbours(nearest, note) {
  if (nearest.length === 0) return element("p", { class: "muted" }, sentence(note));
  const head = element(
    "tr",
    {},
    element("th", { scope: "col" }, "Training record"),
    element("th", { scope: "col" }, "Made by"),
    element("th", { scope: "col", class: "number" }, "Distance"),
  );
  const rows = nearest.map((one) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, foreign(String(one.record_id))),
      element("td", {}, foreign(String(one.generator))),
      element("td", { class: "number" }, one.distance.toFixed(3)),
    ),
  );
  const title = "Nearest training images";
  const table = element("table", {}, element("caption", {}, title), element("thead", {}, head), element("tbody", {}, ...rows));
  const scrolled = element("div", { class: "scroll", role: "region", "aria-label": title, tabindex: "0" }, table);
  return element("div", {}, scrolled, element("p", { class: "muted" }, sentence(note)));
}

function sentence(words) {
  return `${words[0].toUpperCase()}${words.slice(1)}.`;
}
