// The drawn scale of the score: the two bands, the threshold, and where an image lies.

import { drawn, element } from "./elements.js";
import { number } from "./words.js";

const TOP = 22;
const HEIGHT = 26;
const TICKS = [0.5, 0.1, 0.9, 0.01, 0.99, 0.001, 0.999, 0.0001, 0.9999];
const LEAST_GAP = 14; // per cent of the width between two labels, so that they stand apart on a phone
let drawings = 0; // patterns are named over the whole page

/**
 * The scale, and a legend of it.
 * @param {{bands: Object, threshold: number}} detector what a score is compared with
 * @param {?number} score of an image; null draws the bands alone
 */
export function scale({ bands, threshold }, score = null) {
  const place = placing([bands.likely_real_to, bands.likely_generated_from, threshold, score ?? 0.5]);
  const low = place(bands.likely_real_to);
  const high = place(bands.likely_generated_from);
  const name = `zone-${++drawings}`;
  const where = score === null ? "" : `This image has a score of ${number(score)}. `;
  const picture = drawn(
    "svg",
    { class: "scale", role: "img", "aria-label": where + sentences(bands, threshold) },
    patterns(name),
    zone(0, low, "real", name),
    zone(low, high, "uncertain", name),
    zone(high, 100, "generated", name),
    ...ticks(place),
    upright("threshold", place(threshold), TOP - 6, TOP + HEIGHT + 6),
    score === null ? null : marker(place(score)),
  );
  return element("figure", { class: "scale-figure" }, picture, legend(bands, threshold, score));
}

/** Scores in per cent of the width: spread by their logit, as far out as the furthest of those that must be seen. */
function placing(seen) {
  const furthest = Math.max(4, ...seen.map((one) => Math.abs(logit(one))).filter((one) => one < 12));
  const half = furthest * 1.12;
  return (score) => (Math.min(half, Math.max(-half, logit(score))) + half) * (50 / half);
}

function logit(score) {
  return Math.log(score) - Math.log1p(-score);
}

function zone(from, to, kind, name) {
  const box = { x: `${from}%`, y: TOP, width: `${Math.max(0, to - from)}%`, height: HEIGHT };
  return drawn("g", {}, drawn("rect", { ...box, class: `zone ${kind}` }), drawn("rect", { ...box, fill: `url(#${name}-${kind})` }));
}

/** Dots where it is uncertain, stripes where generated: the zones differ without their colours. */
function patterns(name) {
  const stripes = { id: `${name}-generated`, width: 8, height: 8, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
  return drawn(
    "defs",
    {},
    drawn("pattern", stripes, drawn("rect", { class: "stripe", width: 2, height: 8 })),
    drawn(
      "pattern",
      { id: `${name}-uncertain`, width: 8, height: 8, patternUnits: "userSpaceOnUse" },
      drawn("circle", { class: "speck", cx: 4, cy: 4, r: 1.2 }),
    ),
  );
}

function ticks(place) {
  const placed = [];
  for (const score of TICKS) {
    const x = place(score);
    if (x > 6 && x < 94 && placed.every((other) => Math.abs(other.x - x) >= LEAST_GAP)) placed.push({ x, score });
  }
  return placed.map(({ x, score }) => {
    const label = drawn("text", { x: `${x}%`, y: TOP + HEIGHT + 20, "text-anchor": "middle" }, String(score));
    return drawn("g", {}, upright("axis", x, TOP + HEIGHT, TOP + HEIGHT + 5), label);
  });
}

function marker(x) {
  const at = Math.min(98, Math.max(2, x));
  const arrow = drawn("path", { class: "marker", d: `M-8 2 H8 L0 ${TOP - 4} Z` });
  const placed = drawn("svg", { x: `${at}%`, overflow: "visible" }, arrow);
  return drawn("g", {}, placed, upright("marker", at, TOP - 6, TOP + HEIGHT));
}

function upright(kind, x, top, bottom) {
  return drawn("line", { class: kind, x1: `${x}%`, x2: `${x}%`, y1: top, y2: bottom });
}

function sentences(bands, threshold) {
  return (
    `Likely real up to ${number(bands.likely_real_to)}, likely generated from ${number(bands.likely_generated_from)} on, ` +
    `uncertain between; the threshold is ${number(threshold)}.`
  );
}

function legend(bands, threshold, score) {
  const low = number(bands.likely_real_to);
  const high = number(bands.likely_generated_from);
  const keys = [
    ["real", `likely real: up to ${low}`],
    ["uncertain", "uncertain: between"],
    ["generated", `likely generated: from ${high}`],
    ["threshold", `threshold of the two rates: ${number(threshold)}`],
  ];
  if (score !== null) keys.unshift(["marker", `this image: ${number(score)}`]);
  const list = element("ul", { class: "legend" });
  for (const [kind, text] of keys) list.append(element("li", {}, element("span", { class: `key ${kind}`, "aria-hidden": "true" }), text));
  return element("figcaption", {}, list);
}
