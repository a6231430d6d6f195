"""Features to train on: a table indexed by image, its splits and text modes, and the sequence of global batches."""

from rdd.features.table import (
    Batch,
    FeatureTable,
    Part,
    TextMode,
    deal_batches,
    global_batches,
    hash_pair,
    index_images,
    rank_slice,
    read_manifest,
    split_records,
)

__all__ = [
    "Batch",
    "FeatureTable",
    "Part",
    "TextMode",
    "deal_batches",
    "global_batches",
    "hash_pair",
    "index_images",
    "rank_slice",
    "read_manifest",
    "split_records",
]
