// The table as a CSV file, with the columns that `rdd predict --format csv` writes.

const COLUMNS = {
  image: (item) => text(item.name),
  sha256: ({ answer }) => answer?.sha256,
  verdict: ({ answer }) => answer?.verdict,
  score: ({ answer }) => answer?.score,
  probability: ({ answer }) => answer?.probability,
  prior: ({ answer }) => answer?.prior,
  threshold: ({ answer }) => answer?.threshold,
  true_positive_rate: ({ answer }) => answer?.true_positive_rate.value,
  true_positive_rate_low: ({ answer }) => answer?.true_positive_rate.interval?.[0],
  true_positive_rate_high: ({ answer }) => answer?.true_positive_rate.interval?.[1],
  false_positive_rate: ({ answer }) => answer?.false_positive_rate.value,
  false_positive_rate_low: ({ answer }) => answer?.false_positive_rate.interval?.[0],
  false_positive_rate_high: ({ answer }) => answer?.false_positive_rate.interval?.[1],
  likely_real_to: ({ answer }) => answer?.bands.likely_real_to,
  likely_generated_from: ({ answer }) => answer?.bands.likely_generated_from,
  band_false_positive_rate: ({ answer }) => answer?.bands.false_positive_rate,
  band_false_negative_rate: ({ answer }) => answer?.bands.false_negative_rate,
  model_version: ({ answer }) => answer?.model_version,
  reasons: ({ answer }) => answer?.reasons.map((reason) => reason.code).join(" "),
  reason_texts: ({ answer }) => text(answer?.reasons.map((reason) => reason.text).join("; ")),
  credentials_state: ({ answer }) => answer?.content_credentials.state,
  credentials_validation: ({ answer }) => text(answer?.content_credentials.validation),
  credentials_signer: ({ answer }) => text(answer?.content_credentials.signer),
  credentials_claim_generator: ({ answer }) => text(answer?.content_credentials.claim_generator),
  credentials_source_types: ({ answer }) => text(answer?.content_credentials.source_types.join(" ")),
  credentials_detail: ({ answer }) => text(answer?.content_credentials.detail),
  error_reason: ({ answer, problem, state }) => (answer ? null : (problem?.reason ?? state)),
  error_detail: ({ problem }) => text(problem?.message),
  notice: ({ answer }) => answer?.notice,
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
