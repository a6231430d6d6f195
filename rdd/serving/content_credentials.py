"""Content Credentials (C2PA) of an image: read and validated here, and never fetched from elsewhere."""

import io
import json
from functools import cache
from typing import TYPE_CHECKING, Any

from rdd.serving.answer import ContentCredentials

if TYPE_CHECKING:
    import c2pa

_SETTINGS = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
"""By default an image could make the reader ask an address that the image names."""
NO_CREDENTIALS = ContentCredentials(state="none")
_MARKS = (b"c2pa", b"C2PA", b"dcterms:provenance")
"""One of them stands in every file with a manifest, or with the address of one; others need not be parsed."""


def read_credentials(data: bytes) -> ContentCredentials:
    """What a file claims of its origin; whatever is wrong with it is part of the answer.

    Args:
        data: the whole image file.
    """
    if not any(mark in data for mark in _MARKS):
        return NO_CREDENTIALS
    import c2pa

    try:
        reader = c2pa.Reader.try_create(None, io.BytesIO(data), context=_context())
        if reader is None:
            return NO_CREDENTIALS
        with reader:
            return _of_store(json.loads(reader.json()), reader.get_validation_state())
    except Exception as error:  # c2pa parses what strangers have written, and fails in many ways
        return ContentCredentials(state="unreadable", detail=" ".join(str(error).split()) or type(error).__name__)


@cache
def _context() -> "c2pa.Context":
    import c2pa

    return c2pa.Context(c2pa.Settings.from_dict(_SETTINGS))


def _of_store(store: dict[str, Any], validation: str | None) -> ContentCredentials:
    """What the active manifest of a store says."""
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    failures = store.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    return ContentCredentials(
        state="present",
        validation=validation,
        signer=manifest.get("signature_info", {}).get("issuer"),
        claim_generator=_generator_of(manifest),
        source_types=tuple(dict.fromkeys(_source_types(manifest.get("assertions", [])))),
        detail="; ".join(str(one.get("code")) for one in failures) or None,
    )


def _generator_of(manifest: dict[str, Any]) -> str | None:
    infos = manifest.get("claim_generator_info") or []
    named = [" ".join(str(info[key]) for key in ("name", "version") if info.get(key)) for info in infos]
    return ", ".join(named) or manifest.get("claim_generator")


def _source_types(value: Any) -> list[str]:
    """Last parts of the addresses under every ``digitalSourceType``."""
    if isinstance(value, list):
        return [found for one in value for found in _source_types(one)]
    if not isinstance(value, dict):
        return []
    own = value.get("digitalSourceType")
    return ([own.rsplit("/", 1)[-1]] if isinstance(own, str) else []) + _source_types(list(value.values()))
