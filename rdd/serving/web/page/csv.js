// The table as a CSV file.

const COLUMNS = {
  image: (item) => text(item.name),
  sha256: (item) => item.answer?.sha256,
  verdict: (item) => item.answer?.verdict,
  score: (item) => item.answer?.score,
  probability: (item) => item.answer?.probability,
  prior: (item) => item.answer?.prior,
  threshold: (item) => item.answer?.threshold,
  likely_real_to: (item) => item.answer?.bands.likely_real_to,
  likely_generated_from: (item) => item.answer?.bands.likely_generated_from,
  true_positive_rate: (item) => item.answer?.true_positive_rate.value,
  false_positive_rate: (item) => item.answer?.false_positive_rate.value,
  reasons: (item) => item.answer?.reasons.map((reason) => reason.code).join(" "),
  credentials_state: (item) => item.answer?.content_credentials.state,
  credentials_validation: (item) => text(item.answer?.content_credentials.validation),
  credentials_signer: (item) => text(item.answer?.content_credentials.signer),
  credentials_claim_generator: (item) => text(item.answer?.content_credentials.claim_generator),
  credentials_source_types: (item) => text(item.answer?.content_credentials.source_types.join(" ")),
  model_version: (item) => item.answer?.model_version,
  error: (item) => (item.answer ? null : (item.problem?.reason ?? item.state)),
  error_detail: (item) => text(item.problem?.message),
};

/** The whole file, for spreadsheets too: with the mark by which they know UTF-8, and no text that they take for a formula. */
export function csv(items) {
  const lines = [Object.keys(COLUMNS), ...items.map((item) => Object.values(COLUMNS).map((value) => value(item)))];
  return "\ufeff" + lines.map((values) => values.map(quoted).join(",") + "\r\n").join("");
}

/** What others wrote; an apostrophe before what a spreadsheet would compute. */
function text(value) {
  return value && /^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|^[\t\r\n]/.test(value) ? `'${value}` : value;
}

function quoted(value) {
  const written = String(value ?? "");
  return /[",\r\n]|^\s|\s$/.test(written) ? `"${written.replaceAll('"', '""')}"` : written;
}
