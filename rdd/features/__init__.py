"""Features to train on: a table indexed by image, its splits and text modes, and the sequence of global batches."""

from rdd.features.batches import deal_batches, global_batches, hash_pair, rank_slice
from rdd.features.splits import Part, split_records
from rdd.features.table import Batch, FeatureTable
from rdd.features.text_modes import TextMode

__all__ = [
    "Batch",
    "FeatureTable",
    "Part",
    "TextMode",
    "deal_batches",
    "global_batches",
    "hash_pair",
    "rank_slice",
    "split_records",
]
