"""Which records and generators a detector was trained or selected on, so that no evaluation counts them as new."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from rdd import storage
from rdd.config import FeaturesConfig
from rdd.features import FeatureTable
from rdd.features.index import python_strings
from rdd.hashing import hash_strings
from rdd.schema import REAL


def write_trained_on(path: str, table: FeatureTable, config: FeaturesConfig) -> None:
    """Keep the hashed ids of the records of the training and the validation part."""
    parts = [_hashed_records(table, table.split(config, part)) for part in ("train", "validation")]
    storage.write_table(path, pa.table({"record_id_hash": np.concatenate(parts)}))


def noted_generators(table: FeatureTable, config: FeaturesConfig) -> dict[str, list[str]]:
    """Names of the generators in the training and the validation part, as the provenance of a detector holds them."""
    codes = [table.generator_of[table.split(config, part)].unique().tolist() for part in ("train", "validation")]
    names = {table.generators[code] for part in codes for code in part}
    return {"generators": sorted(names - {REAL})}


def seen_generators(provenance: Mapping[str, Any]) -> frozenset[str] | None:
    """What :func:`noted_generators` noted; None for a detector from before it did."""
    return frozenset(provenance["generators"]) if "generators" in provenance else None


def refuse_trained_on(path: str, table: FeatureTable, images: Tensor) -> None:
    """Refuse to evaluate on images of records that were trained on, whatever feature set they come in.

    Raises:
        ValueError: naming how many there are.
        RuntimeError: the list of what the run was trained on is missing or damaged.
    """
    way_out = "delete metrics.json of the run and start it again, which writes it anew"
    if not storage.exists(path):
        raise RuntimeError(f"{path} is missing, so nobody knows which records the run has seen; {way_out}")
    column = storage.read_table(path, ["record_id_hash"], way_out=way_out)["record_id_hash"]
    if column.type != pa.uint64() or column.null_count or not len(column):
        raise RuntimeError(f"{path} must hold hashes of records, got {len(column)} of type {column.type}; {way_out}")
    seen = column.to_numpy()
    records = _hashed_records(table, images)
    known = int(np.isin(records, seen).sum())
    if known:
        raise ValueError(
            f"{known} of {len(records)} records were trained or selected on by this run, so this would be no test; "
            "evaluate on its test part, or on records that it has never seen"
        )


def _hashed_records(table: FeatureTable, images: Tensor) -> np.ndarray:
    """``(R,)`` uint64 of the records that some images belong to."""
    records = np.unique(table.record_of[images].numpy())
    return hash_strings(python_strings(table.record_ids.take(pa.array(records))))
