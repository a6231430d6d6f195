"""The manifest of a directory that jobs/embed.py wrote, and what tells it from any other."""

import json
import os
from typing import Any

from rdd import storage
from rdd.features.columns import flaw_of_features
from rdd.hashing import sha256_bytes

_IN_EVERY_IDENTITY = "rows.npy"
"""Hashed since the first version; without it all finished runs would take their features for other ones."""


def identity_of(path: str, manifest: dict[str, Any]) -> str:
    """SHA-256 of the manifest and of the names and sizes of the files; each embedding run has its own."""
    files = [(os.path.basename(file.path), file.size) for file in storage.list_files(storage.join(path, "data"))]
    return sha256_bytes(json.dumps([_IN_EVERY_IDENTITY, manifest, files]).encode())


def read_manifest(path: str) -> tuple[dict[str, Any], str]:
    """The manifest of a feature directory and its SHA-256.

    Raises:
        ValueError: there is no finished embedding at ``path``.
        RuntimeError: the manifest is torn, or a field of it is wrong.
    """
    place = storage.join(path, "manifest.json")
    if not storage.exists(place):
        raise ValueError(f"{path} holds no manifest.json, so no finished embedding; run jobs/embed.py to its end")
    data = storage.read_bytes(place)
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise RuntimeError(f"{place} is torn or no JSON ({' '.join(str(error).split())}); embed again") from error
    _check_manifest(place, manifest)
    return manifest, sha256_bytes(data)


def encoder_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The identity of the encoder of a feature set, and the precision that it ran in, None where the manifest does not say."""
    return manifest["encoder"] | {"precision": manifest.get("config", {}).get("clip", {}).get("precision")}


def degradation_of(manifest: dict[str, Any]) -> str:
    """The transforms of a feature set's images, and the seed of their draws, on one line; ``none`` for clean images."""
    embed = manifest.get("config", {}).get("embed", {})
    texts = ", ".join(embed.get("degrade", []))
    return f"{texts} (seed {embed.get('degrade_seed', 0)})" if texts else "none"


def view_degradation_of(manifest: dict[str, Any]) -> str:
    """The transforms of a feature set's views, and the seed that theirs come after, on one line; ``none`` without views."""
    embed = manifest.get("config", {}).get("embed", {})
    if not embed.get("views"):
        return "none"
    return f"{', '.join(embed['view_degrade'])} (after seed {embed['degrade_seed']})"


_KINDS: dict[str, type] = {"encoder": dict, "embed_dim": int, "text": bool, "records_written": int, "images": int}


def _check_manifest(place: str, manifest: Any) -> None:
    """Refuse a manifest that lacks what readers use, or holds it in another form.

    Raises:
        RuntimeError: naming the file and the field.
    """
    if not isinstance(manifest, dict):
        raise RuntimeError(f"{place} must hold a mapping, got {type(manifest).__name__}; embed again")
    for name, kind in _KINDS.items():
        if type(manifest.get(name)) is not kind:
            raise RuntimeError(f"{place}: {name} must be of type {kind.__name__}, got {manifest.get(name)!r}; embed again")
    for name in ("embed_dim", "records_written", "images"):
        if manifest[name] < 1:
            raise RuntimeError(f"{place}: {name} must be at least 1, got {manifest[name]}; embed again")
    if (width := manifest["encoder"].get("embed_dim")) != manifest["embed_dim"]:
        raise RuntimeError(f"{place}: encoder.embed_dim must be embed_dim, {manifest['embed_dim']}, got {width!r}; embed again")
    if "features" in manifest:
        flaw = flaw_of_features(manifest["features"], text=manifest["text"])
    else:  # of the first layout
        dtype = manifest.get("dtype")
        flaw = None if dtype == "float16" else f"dtype must be float16, got {dtype!r}"
    if flaw is not None:
        raise RuntimeError(f"{place}: {flaw}; embed again")
