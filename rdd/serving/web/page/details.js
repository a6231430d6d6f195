// What is said of one image.

import { element, foreign, terms } from "./elements.js";
import { scale } from "./scale.js";
import { VERDICTS, percent, rate, source, validation } from "./words.js";

/** The verdict, what it means, and how likely. */
export function verdict(answer) {
  const { title, meaning } = VERDICTS[answer.verdict];
  return element(
    "div",
    { class: `verdict ${answer.verdict}` },
    element("p", { class: "big" }, title),
    element("p", {}, meaning(answer.bands)),
    element(
      "p",
      {},
      "Probability of being generated: ",
      element("strong", { class: "probability" }, percent(answer.probability)),
      `, where ${percent(answer.prior)} of all images are generated; where the share is another, so is the probability.`,
    ),
    scale(answer, answer.score),
  );
}

/** Why the verdict deserves less trust: of this image first, then of every image. */
export function reasons(answer) {
  const of = (about) => answer.reasons.filter((reason) => reason.about === about);
  const parts = [element("h3", {}, "Reasons to doubt the verdict on this image")];
  const nothing = "None: no check found it unlike the images that the rates were measured on.";
  parts.push(of("image").length > 0 ? listed(of("image"), "warning") : element("p", {}, nothing));
  if (of("detector").length > 0) parts.push(element("h3", {}, "What holds for every image"), listed(of("detector"), ""));
  return element("section", { class: "reasons", "aria-label": "Reasons" }, ...parts);
}

function listed(found, kind) {
  const list = element("ul", { class: "statements" });
  for (const { code, text } of found) {
    list.append(element("li", { class: kind }, element("strong", {}, `${sentenceCase(code.replaceAll("_", " "))}: `), `${text}.`));
  }
  return list;
}

function sentenceCase(words) {
  return words[0].toUpperCase() + words.slice(1);
}

/** How often the detector was right, where it was measured. */
export function rates(answer) {
  return element(
    "section",
    { "aria-label": "Measured rates" },
    element("h3", {}, "How often it is right"),
    element("p", {}, "Measured on the detector's test images, with the threshold as the only edge:"),
    terms([
      ["Generated images that it finds", rate(answer.true_positive_rate)],
      ["Real images that it takes for generated", rate(answer.false_positive_rate)],
    ]),
  );
}

/** What the file claims, apart from the verdict. */
export function credentials(claimed) {
  return element(
    "aside",
    { class: "credentials", "aria-label": "Content Credentials" },
    element("h3", {}, "Content Credentials"),
    element("p", { class: "muted" }, "Claims by the file; they do not move the score."),
    ...claims(claimed),
  );
}

function claims(claimed) {
  if (claimed.state === "none") return [element("p", {}, "The file carries none, which says nothing about its origin.")];
  if (claimed.state === "unreadable") {
    return [element("p", {}, "The file carries some, and they could not be read: ", foreign(claimed.detail ?? "unknown"))];
  }
  const types = claimed.source_types.map(source).join("; ");
  return [
    terms([
      ["Validation", validation(claimed.validation)],
      ["Signed by", named(claimed.signer)],
      ["Made with, by its own word", named(claimed.claim_generator)],
      ["The claim", types && foreign(types)],
      ["What failed", claimed.detail && foreign(claimed.detail)],
    ]),
  ];
}

function named(value) {
  return value === null ? "not named" : foreign(value);
}

/** The picture, from this computer; a sentence where the browser does not show its kind. */
export function preview(item) {
  item.address ??= URL.createObjectURL(item.file);
  const picture = element("img", { src: item.address, alt: `The image ${item.name}` });
  picture.addEventListener("error", () => {
    picture.replaceWith(element("p", { class: "no-picture" }, "This browser can not show this file."));
  });
  return element("figure", { class: "preview" }, picture);
}

/** Of the detector alone. */
export function facts(model) {
  return [
    scale(model),
    terms([
      ["Version", element("code", {}, model.model_version)],
      ["Encoder", model.encoder?.model ?? null],
      ["Generated images that it finds at its threshold", rate(model.true_positive_rate)],
      ["Real images that it takes for generated at its threshold", rate(model.false_positive_rate)],
      ["Real images that it calls likely generated", `at most ${percent(model.bands.false_positive_rate)}`],
      ["Generated images that it calls likely real", `at most ${percent(model.bands.false_negative_rate)}`],
      ["Share of generated images that a probability assumes", percent(model.prior)],
    ]),
  ];
}
