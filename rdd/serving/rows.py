"""Answers as rows of a table: one column a value, under names that stay."""

from typing import Any

import pyarrow as pa

from rdd.serving.answer import Answer

ROWS = pa.schema(
    [
        ("image", pa.string()),
        ("sha256", pa.string()),
        ("verdict", pa.string()),
        ("score", pa.float64()),
        ("probability", pa.float64()),
        ("prior", pa.float64()),
        ("threshold", pa.float64()),
        ("true_positive_rate", pa.float64()),
        ("true_positive_rate_low", pa.float64()),
        ("true_positive_rate_high", pa.float64()),
        ("false_positive_rate", pa.float64()),
        ("false_positive_rate_low", pa.float64()),
        ("false_positive_rate_high", pa.float64()),
        ("likely_real_to", pa.float64()),
        ("likely_generated_from", pa.float64()),
        ("band_false_positive_rate", pa.float64()),
        ("band_false_negative_rate", pa.float64()),
        ("model_version", pa.string()),
        ("reasons", pa.string()),
        ("reason_texts", pa.string()),
        ("credentials_state", pa.string()),
        ("credentials_validation", pa.string()),
        ("credentials_signer", pa.string()),
        ("credentials_claim_generator", pa.string()),
        ("credentials_source_types", pa.string()),
        ("credentials_detail", pa.string()),
        ("error_reason", pa.string()),
        ("error_detail", pa.string()),
        ("notice", pa.string()),
    ]
)
"""The columns of CSV and Parquet; ``reasons`` holds the codes, a space between, and ``reason_texts`` the sentences."""

_AS_THEY_ARE = ("image", "sha256", "verdict", "score", "probability", "prior", "threshold", "model_version", "notice")


def row_of(answer: Answer) -> dict[str, Any]:
    """An answer as a row of :data:`ROWS`; what it does not say is None."""
    bands, credentials, error = answer.bands, answer.content_credentials, answer.error
    row: dict[str, Any] = {name: getattr(answer, name) for name in _AS_THEY_ARE}
    for name in ("true_positive_rate", "false_positive_rate"):
        rate = getattr(answer, name)
        row[name] = rate.value
        row[f"{name}_low"], row[f"{name}_high"] = rate.interval or (None, None)
    return row | {
        "likely_real_to": bands.likely_real_to,
        "likely_generated_from": bands.likely_generated_from,
        "band_false_positive_rate": bands.false_positive_rate,
        "band_false_negative_rate": bands.false_negative_rate,
        "reasons": " ".join(reason.code for reason in answer.reasons) or None,
        "reason_texts": "; ".join(reason.text for reason in answer.reasons) or None,
        "credentials_state": credentials.state,
        "credentials_validation": credentials.validation,
        "credentials_signer": credentials.signer,
        "credentials_claim_generator": credentials.claim_generator,
        "credentials_source_types": " ".join(credentials.source_types) or None,
        "credentials_detail": credentials.detail,
        "error_reason": None if error is None else error.reason,
        "error_detail": None if error is None else error.detail,
    }
