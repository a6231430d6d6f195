"""What a growing feature set lacks: the images and the features that finished directories beside a new one do not hold.

An image counts as held by its record's id and its generator; where the index does not know the generators (D3), by its record.
A record that was rejected there is held by nobody, so it is tried again.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rdd import storage
from rdd.config import Config
from rdd.embedding.resume import read_tables
from rdd.encoder_identity import EncoderIdentity, differences
from rdd.feature_names import PROJECTED, TEXTS, block_of
from rdd.features.columns import columns_of
from rdd.features.feature_set import FeatureSet
from rdd.features.files import feature_files
from rdd.features.manifest import degradation_of, encoder_of

logger = logging.getLogger(__name__)


def missing_beside(config: Config, index: pa.Table) -> tuple[Config, pa.Table]:
    """What is left to embed beside the feature sets of ``embed.beside``.

    Args:
        config: of the embedding.
        index: of all its records (``schema.INDEX``).

    Returns:
        The config with the features that are missing, and the records and images that lack them.

    Raises:
        ValueError: nothing is missing; some images lack one feature and others another; or prompts are wanted and records whose
            images are all there have none.
    """
    held = _Held.read(config.embed.beside)
    usable = index.filter(pc.is_null(index["reason"]))
    lacking = held.lacking(usable, config.clip.features)
    if not _agree(lacking):
        tried = pc.is_in(usable["record_id"], value_set=held.rejected)
        usable = usable.filter(pc.invert(tried))
        lacking = held.lacking(usable, config.clip.features)
        logger.info(
            "%d records that were rejected there are not tried again, since they lack all features", pc.sum(tried).as_py()
        )
    images = _same_for_all(config, lacking)
    left = usable.filter(pa.array(images)) if _by_record(usable) else _with_images(usable, images)
    config = _reduced(config, list(lacking), text=config.embed.text and held.lack_text(usable, left))
    features = (*lacking, *TEXTS) if config.embed.text else lacking
    logger.info("%d of %d records are embedded beside what there is: %s", left.num_rows, index.num_rows, ", ".join(features))
    flawed = index.filter(pc.is_valid(index["reason"]))
    new = pc.invert(pc.is_in(flawed["key"], value_set=held.keys))
    return config, pa.concat_tables([left, flawed.filter(new)]).sort_by([("source", "ascending"), ("row", "ascending")])


def check_same_encoder(config: Config, encoder: EncoderIdentity) -> None:
    """Refuse to let a feature set grow by those of another encoder or precision, or of images that are degraded otherwise.

    Raises:
        ValueError: naming what differs.
    """
    here = vars(encoder) | {"precision": config.clip.precision}
    degraded = degradation_of({"config": {"embed": asdict(config.embed)}})
    for member in FeatureSet.open(config.embed.beside).members:
        found = differences(here, encoder_of(member.manifest))
        if found:
            what = ", ".join(f"{name} {ours!r} here and {theirs!r} there" for name, (ours, theirs) in found.items())
            raise ValueError(f"embed.beside must name features of the same encoder, got {member.path} with {what}")
        if (there := degradation_of(member.manifest)) != degraded:
            raise ValueError(
                f"embed.beside must name features of images that are degraded as embed.degrade says, {degraded}, "
                f"got {member.path} with {there}"
            )


def described_beside(paths: Iterable[str]) -> pa.Table:
    """Generators and hashes of the bytes of all images that finished feature sets hold."""
    files = [file for path in paths for file in feature_files(path)]
    return pa.concat_tables(read_tables(files, ["generators", "content_hashes"]))


@dataclass(frozen=True)
class _Held:
    """The records of some finished feature sets."""

    records: list[pa.Table]
    """Of each set ``key``, ``record_id``, ``generators``, ``reason``."""
    features: list[set[str]]
    """Names of those that each set holds."""

    @classmethod
    def read(cls, paths: Sequence[str]) -> "_Held":
        members = FeatureSet.open(paths).members
        columns = ["key", "record_id", "generators", "reason"]
        files = [feature_files(storage.absolute(member.path)) for member in members]
        tables = [pa.concat_tables(read_tables(some, columns)).combine_chunks() for some in files]
        return cls(tables, [set(columns_of(member.manifest)) for member in members])

    @property
    def keys(self) -> pa.Array:
        """Of all records, rejected ones too."""
        return pa.concat_arrays([table["key"].combine_chunks() for table in self.records])

    @property
    def rejected(self) -> pa.Array:
        """Ids of rejected records."""
        ids = [table.filter(pc.is_valid(table["reason"]))["record_id"].combine_chunks() for table in self.records]
        return pa.concat_arrays(ids).drop_null()

    def with_feature(self, name: str) -> list[pa.Table]:
        """Accepted records of the sets that hold a feature."""
        there = [table for table, names in zip(self.records, self.features, strict=True) if name in names]
        return [table.filter(pc.is_null(table["reason"])) for table in there]

    def lacking(self, index: pa.Table, features: Sequence[str]) -> dict[str, np.ndarray]:
        """By feature that something lacks, ``(n,)`` bool of the images of all records end to end, or of the records."""
        lacks = _lacks_record if _by_record(index) else _lacks_image
        found = {name: lacks(index, self.with_feature(name)) for name in features}
        return {name: lacking for name, lacking in found.items() if lacking.any()}

    def lack_text(self, index: pa.Table, left: pa.Table) -> bool:
        """Whether records that are left to embed lack features of their prompts.

        Raises:
            ValueError: others do.
        """
        without = index.filter(pa.array(_lacks_record(index, self.with_feature(TEXTS[0]))))
        others = int(pc.sum(pc.invert(pc.is_in(without["key"], value_set=left["key"].combine_chunks()))).as_py() or 0)
        if others:
            raise ValueError(f"embed.text must be false, since {others} records have all their images beside, without prompts")
        return bool(without.num_rows)


def _by_record(index: pa.Table) -> bool:
    """Whether the index knows no generators."""
    return index["generators"].null_count == index.num_rows


def _agree(lacking: Mapping[str, np.ndarray]) -> bool:
    """Whether the same images lack each feature."""
    masks = list(lacking.values())
    return all(np.array_equal(masks[0], other) for other in masks[1:])


def _lacks_record(index: pa.Table, held: Sequence[pa.Table]) -> np.ndarray:
    """``(records,)`` bool: in none of the tables."""
    lacks = np.ones(index.num_rows, dtype=bool)
    for table in held:
        lacks &= ~np.asarray(pc.is_in(index["record_id"], value_set=table["record_id"].combine_chunks()))
    return lacks


def _lacks_image(index: pa.Table, held: Sequence[pa.Table]) -> np.ndarray:
    """``(images,)`` bool of the images of all records, end to end: in none of the tables."""
    wanted = _image_names(index)
    lacks = np.ones(len(wanted), dtype=bool)
    for table in held:
        lacks &= ~np.asarray(pc.is_in(wanted, value_set=_image_names(table)))
    return lacks


def _image_names(table: pa.Table) -> pa.StringArray:
    """A name for each image, of its record's id and its generator."""
    generators = table["generators"].combine_chunks()
    ids = pc.take(table["record_id"].combine_chunks(), pc.list_parent_indices(generators))
    return pc.binary_join_element_wise(ids, pc.list_flatten(generators), "\0", null_handling="replace", null_replacement="")


def _same_for_all(config: Config, lacking: Mapping[str, np.ndarray]) -> np.ndarray:
    """The images, or records, that lack every missing feature."""
    if not lacking:
        paths = ", ".join(config.embed.beside)
        raise ValueError(f"embed.beside names {paths}, which holds all that is asked for; nothing is left to embed")
    if not _agree(lacking):
        counts = ", ".join(f"{int(lacks.sum())} {name}" for name, lacks in lacking.items())
        raise ValueError(
            "embed.beside must leave the same images to embed for every feature, and there are images or records that lack "
            f"{counts}; embed further records first, with the features that there are, and then the further features"
        )
    return next(iter(lacking.values()))


def _with_images(index: pa.Table, wanted: np.ndarray) -> pa.Table:
    """The records with a wanted image, and these images alone."""
    counts = np.asarray(pc.list_value_length(index["generators"].combine_chunks()).fill_null(0))
    record_of = np.repeat(np.arange(index.num_rows), counts)
    kept = np.bincount(record_of, weights=wanted, minlength=index.num_rows).astype(np.int64)
    index = index.combine_chunks()
    for name in ("rows", "paths", "generators"):
        column = index[name].combine_chunks()
        if column.null_count == len(column):
            continue
        offsets = pa.array(np.concatenate([[0], np.cumsum(kept)]), pa.int32())
        lists = pa.ListArray.from_arrays(offsets, pc.list_flatten(column).filter(pa.array(wanted)))
        index = index.set_column(index.schema.get_field_index(name), index.schema.field(name), lists)
    return index.filter(pa.array(kept > 0))


def _reduced(config: Config, features: Sequence[str], *, text: bool) -> Config:
    """The config with these features of images alone."""
    blocks = [block for name in features if (block := block_of(name)) is not None]
    float32 = [name for name in config.clip.float32 if name in features]
    clip = replace(config.clip, projected=PROJECTED in features, blocks=blocks, float32=float32)
    return replace(config, clip=clip, embed=replace(config.embed, text=text))
