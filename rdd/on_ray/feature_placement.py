"""Where the features of a run are held: GPU memory, one memory map a node, or nowhere."""

import logging
import os
import shutil
from typing import Any, Literal

import ray
import torch

from rdd.config import FeaturesConfig
from rdd.features import FeatureTable
from rdd.features.columns import Layout, bytes_of
from rdd.features.feature_set import FeatureSet
from rdd.features.files import OnProgress, ignored
from rdd.features.gather import CPU
from rdd.features.node_map import make_private, map_folder, mapped
from rdd.on_ray.feature_stream import StreamedTable
from rdd.progress import PROGRESS_S, at_most_every

logger = logging.getLogger(__name__)

_GPU_SHARE = 0.5  # of a GPU's free memory: the head and its activations need little, other trials may come
_MEMORY_SHARE = 0.8  # of a node's memory: a map that is larger is read from disk at every step


Place = Literal["device", "map", "stream"]


def hold_features(
    config: FeaturesConfig,
    *,
    device: torch.device = CPU,
    to_train: bool = False,
    on_loading: OnProgress = ignored,
) -> FeatureTable:
    """The table of a run, held as ``features.held`` says or where its size fits; the log says which.

    Args:
        config: path of the features, and where to hold them.
        device: where the head is.
        to_train: whether this process trains on them. One that only looks at them, as the driver does, may stream them where it
            has no room for a map, since nothing that it computes depends on their order.
        on_loading: called at once when the process has started, and then every few seconds with the progress of loading.

    Raises:
        ValueError: there is no finished embedding, it lacks an input, or there is no room to train on it in the order that the
            config asks for.
    """
    on_loading(f"process {os.getpid()} has started")
    on_progress = at_most_every(PROGRESS_S, on_loading)
    place = place_of(config, device, to_train=to_train)
    wanted: dict[str, Any] = {"inputs": config.inputs, "text": config.text_mode != "none", "views": config.views}
    where = {"device": f"memory of {device}", "map": f"one memory map a node, in {map_folder()}", "stream": "Ray Data's stream"}
    logger.info("features: %.3g GiB, held in %s", feature_bytes(config) / 2**30, where[place])
    if place == "stream":
        return StreamedTable.open(config.path, **wanted, shuffle_mib=config.shuffle_mib)
    table = FeatureTable.load(config.path, **wanted, shared=map_folder(), on_progress=on_progress)
    return table.to(device) if place == "device" else table


def place_of(config: FeaturesConfig, device: torch.device = CPU, *, to_train: bool) -> Place:
    """Where a process holds the features; without a GPU, as on the driver, ``held: device`` means a memory map.

    Streamed features come in another order, which changes what is trained, so training streams only where ``features.held``
    says so, never because a disk happens to be full.

    Raises:
        ValueError: ``features.held`` is auto, this process trains, and the node has no room for a memory map.
    """
    features, layout = _layout(config)
    size = bytes_of(layout, features.manifest)
    if config.held == "stream":
        return "stream"
    if device.type == "cuda" and config.held != "map" and (config.held == "device" or size <= _room_on_gpu(device)):
        return "device"
    there = mapped(features, layout, map_folder())
    to_write = bytes_of({name: columns for name, columns in layout.items() if name not in there}, features.manifest)
    lacking = _lacking_for_map(size, to_write) if config.held == "auto" else None
    if lacking is None:
        return "map"
    if not to_train:
        return "stream"
    raise ValueError(
        f"features.held must be map or stream here, got auto: a memory map of {size / 2**30:.3g} GiB does not fit, {lacking}; "
        "make room (RDD_MAP_DIR names another disk), set it to map to read from disk at every step, or to stream, "
        "which trains in another order"
    )


def _room_on_gpu(device: torch.device) -> float:
    """Bytes that this process may fill with features: half of what is free, and of the share of the GPU that Ray gave it."""
    free, total = torch.cuda.mem_get_info(device)
    return _GPU_SHARE * min(free, _share_of_gpu() * total)


def _share_of_gpu() -> float:
    """How much of its GPU is this process's; Ray divides GPUs among its workers alone, so outside of them it is all."""
    if not ray.is_initialized() or ray.get_runtime_context().worker.mode != ray.WORKER_MODE:
        return 1.0
    return min(1.0, ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0))


def feature_bytes(config: FeaturesConfig) -> int:
    """Size of the features that a config asks for: its inputs, their views, and the prompts where they are used."""
    features, layout = _layout(config)
    return bytes_of(layout, features.manifest)


def _layout(config: FeaturesConfig) -> tuple[FeatureSet, Layout]:
    features = FeatureSet.open(config.path)
    return features, features.layout(config.inputs, text=config.text_mode != "none", views=config.views)


def _lacking_for_map(size: int, to_write: int) -> str | None:
    """What a node lacks for a memory map of so many bytes, some of them still to write, in words; None where it fits."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > _MEMORY_SHARE * memory:
        return f"the node has {memory / 2**30:.3g} GiB of memory, of which {_MEMORY_SHARE:.0%} may be used"
    make_private(map_folder())
    free = shutil.disk_usage(map_folder()).free
    return None if to_write <= free else f"{map_folder()} has {free / 2**30:.3g} GiB free"
