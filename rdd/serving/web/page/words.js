// What the page says of an answer, in words.

/** By verdict: its title, and what it means at the stated rates. */
export const VERDICTS = {
  likely_generated: {
    title: "Likely generated",
    meaning: (bands) =>
      `At most ${percent(bands.false_positive_rate)} of real images like those of validation are called likely generated.`,
  },
  uncertain: {
    title: "Uncertain",
    meaning: () =>
      "The score lies between the two bands: at its stated error rates this detector can say neither. This is no middle verdict, but none.",
  },
  likely_real: {
    title: "Likely real",
    meaning: (bands) =>
      `At most ${percent(bands.false_negative_rate)} of generated images like those of validation are called likely real.`,
  },
};

const VALIDATION = {
  Trusted: "Trusted: unchanged since it was signed, by a signer on a trust list",
  Valid: "Valid: unchanged since it was signed, by a signer that is on no trust list of this server, so anyone may have signed it",
  Invalid: "Invalid: the credentials or the file were changed, or are broken",
};

const SOURCES = {
  trainedAlgorithmicMedia: "made by a trained model",
  compositeWithTrainedAlgorithmicMedia: "put together with parts made by a trained model",
  algorithmicMedia: "made by a program that was not trained",
  digitalCapture: "taken by a digital camera",
  computationalCapture: "taken by a digital camera from several exposures",
  compositeCapture: "put together from captures",
  screenCapture: "a capture of a screen",
  digitalCreation: "made by a person with digital tools",
};

/** A share in per cent, with enough decimals that it is not rounded to none or all. */
export function percent(share) {
  const whole = Math.round(share * 100);
  if (Math.abs(share * 100 - whole) < 1e-9) return `${whole}\u00a0%`;
  const fine = Math.min(share, 1 - share);
  const decimals = fine >= 0.001 ? 1 : Math.min(6, Math.ceil(-Math.log10(fine * 100)));
  return `${(share * 100).toFixed(decimals)}\u00a0%`;
}

/** A score, likewise. */
export function number(value) {
  const fine = Math.min(value, 1 - value);
  return value.toFixed(fine >= 0.001 || fine <= 0 ? 3 : Math.min(9, Math.ceil(-Math.log10(fine)) + 1));
}

/** A measured rate with its interval. */
export function rate(measured) {
  if (measured === null || measured === undefined || measured.value === null) return "not measured";
  if (measured.interval === null) return `${percent(measured.value)} (interval unknown: too few records)`;
  return `${percent(measured.value)} (95 % interval ${percent(measured.interval[0])} to ${percent(measured.interval[1])})`;
}

/** Bytes in the unit that people read. */
export function bytes(count) {
  if (count < 1000) return `${count} bytes`;
  const [size, unit] = count < 1e6 ? [count / 1e3, "kB"] : [count / 1e6, "MB"];
  return `${size < 100 ? size.toFixed(1).replace(/\.0$/, "") : size.toFixed(0)} ${unit}`;
}

/** A few words on the credentials, for a table. */
export function credentialsInShort(credentials) {
  if (credentials.state !== "present") return credentials.state;
  return [credentials.validation, credentials.signer].filter(Boolean).join(", ") || "present";
}

/** The validation state and what it means. */
export function validation(state) {
  return state === null ? "unknown" : (VALIDATION[state] ?? state);
}

/** A digital source type and what it means. */
export function source(type) {
  return type in SOURCES ? `${SOURCES[type]} (${type})` : type;
}

/** One image or many. */
export function images(count) {
  return count === 1 ? "1 image" : `${count.toLocaleString("en")} images`;
}
