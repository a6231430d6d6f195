"""What an embedding will take, before it is begun: records, forward passes, hours, bytes and dollars. Nothing is written.

No weights are loaded and no Ray is started, so what only these can refuse (a cluster that is too small, weights of another
model) is refused by the start itself.
"""

import logging
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rdd import storage
from rdd.clip_weights import check_unloaded
from rdd.config import Config
from rdd.embedding.compact import planned
from rdd.embedding.reopen import MANIFEST, has_lost_files
from rdd.embedding.request import read_request, records_in_pass
from rdd.embedding.resume import check_index, committed_keys, data_files, read_tables
from rdd.embedding.stored import stored_features
from rdd.feature_names import TEXTS

logger = logging.getLogger(__name__)

_PUBLISHED_IMAGES_PER_S = 312.0
"""ViT-L/14 on one A100, by clip-retrieval's documentation (distributed_clip_inference.md)."""
_COUNTS = {"records_in": int, "records_quarantined": int}
"""Of a manifest."""
_FLOATS = {"float16": 2, "float32": 4}
_OTHER_BYTES_OF_AN_IMAGE, _OTHER_BYTES_OF_A_RECORD = 50, 250
"""Facts of its file (measured on the sample set), and key, ids and two compressed captions of D3's length (estimated)."""


def plan(config: Config) -> dict[str, Any]:
    """What is left to embed, and what that will take.

    Returns:
        ``output``; ``finished``, whether there is nothing to do; ``files`` of the input (null if finished), ``records``,
        ``records_unusable`` (known so far: bad ids, no real image), ``records_left``, ``images_left``, ``forward_passes``;
        ``workers``, ``images_per_s`` of one, ``hours`` and ``dollars``, null where a speed or a price is not stated;
        ``output_bytes`` of the finished set, estimated until then.

    Raises:
        ValueError: the request is wrong.
        RuntimeError: the records have changed since the embedding began.
    """
    output = storage.absolute(config.embed.output)
    if storage.exists(place := storage.join(output, MANIFEST)):
        manifest = storage.read_json(place, _COUNTS, way_out=f"delete {output} to embed again")
        if not has_lost_files(output, manifest):  # a start would say what there is, and needs neither records nor weights
            return _of_finished(config, output, manifest)
    asked = read_request(config)
    config, index = asked.config, asked.index
    features = stored_features(config)
    check_unloaded(config.clip, text=config.embed.text)
    check_index(index, output)
    images = asked.source.images_of(index)
    left = images[_left(index, output)]
    usable = int((images > 0).sum())
    return {
        "output": output,
        "finished": False,
        "files": _files(index),
        "records": index.num_rows,
        "records_unusable": index.num_rows - usable,
        "records_left": len(left),
        "images_left": int(left.sum()),
        "forward_passes": (1 + config.embed.views) * _forward_passes(left, config.clip.batch_size),
        **_costs(config, (1 + config.embed.views) * int(left.sum())),
        "output_bytes": _output_bytes(features, records=usable, images=int(images.sum())),
    }


def _of_finished(config: Config, output: str, manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "output": output,
        "finished": True,
        "files": None,
        "records": manifest["records_in"],
        "records_unusable": manifest["records_quarantined"],
        "records_left": 0,
        "images_left": 0,
        "forward_passes": 0,
        **_costs(config, 0),
        "output_bytes": sum(file.size for file in storage.list_files(storage.join(output, "data"))),
    }


def _forward_passes(images: np.ndarray, batch_size: int) -> int:
    """Of the image tower, for records of ``(n,)`` images."""
    usable = int((images > 0).sum())
    return math.ceil(usable / records_in_pass(batch_size, float(images.sum()) / max(1, usable)))


def _costs(config: Config, images: int) -> dict[str, Any]:
    """Hours and dollars for some images, views of them included."""
    workers, price = config.embed.num_workers, config.embed.dollars_per_hour
    speed = _images_per_s(config)
    hours = images / (speed * workers) / 3600 if speed else None if images else 0.0
    if hours is None:
        logger.warning(
            "no hours without a speed: state embed.images_per_s, from the records a second in the log of a run with embed.limit"
        )
    dollars = hours * price if hours is not None and price else None
    return {"workers": workers, "images_per_s": speed or None, "hours": hours, "dollars": dollars}


def _left(index: pa.Table, output: str) -> np.ndarray:
    """``(N,)`` bool: the records that are not embedded yet."""
    if planned(output) is not None:  # all was embedded, and its files are being rewritten
        return np.zeros(index.num_rows, dtype=bool)
    if storage.exists(storage.join(output, MANIFEST)):  # it was finished, and has lost files
        done = pa.concat_tables(read_tables(data_files(output), ["key"]))["key"].combine_chunks()
    else:
        done = committed_keys(output)
    return ~np.asarray(pc.is_in(index["key"], value_set=done))


def _files(index: pa.Table) -> int:
    """Parquet files, tables, or files of images that are read."""
    if index["paths"].null_count == index.num_rows:
        return len(pc.unique(index["source"]))
    return len(pc.unique(pc.list_flatten(index["paths"])))


def _images_per_s(config: Config) -> float:
    """Of one worker; 0 where it is neither stated nor published."""
    model, stated = config.clip.model, config.embed.images_per_s
    if stated or config.clip.device != "cuda" or model.removesuffix("-quickgelu") != "ViT-L-14":
        return stated
    logger.info("%g images a second are taken for a worker, as published of ViT-L-14 on an A100", _PUBLISHED_IMAGES_PER_S)
    return _PUBLISHED_IMAGES_PER_S


def _output_bytes(features: dict[str, dict[str, Any]], *, records: int, images: int) -> int:
    """Of the finished set: features to the byte, the rest estimated."""
    sizes = {name: one["width"] * _FLOATS[one["dtype"]] for name, one in features.items()}
    of_record = sum(size for name, size in sizes.items() if name in TEXTS) + _OTHER_BYTES_OF_A_RECORD
    of_image = sum(size for name, size in sizes.items() if name not in TEXTS) + _OTHER_BYTES_OF_AN_IMAGE
    return records * of_record + images * of_image
