"""Where the features of a run are held: GPU memory, one memory map a node, or nowhere."""

import logging
import os
import shutil
from typing import Literal

import torch
import torch.distributed as dist

from rdd import storage
from rdd.config import FeaturesConfig
from rdd.features import FeatureTable
from rdd.features.files import OnProgress, ignored, read_manifest
from rdd.features.gather import CPU
from rdd.features.node_map import map_folder, map_of
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
    group: dist.ProcessGroup | None = None,
    on_loading: OnProgress = ignored,
) -> FeatureTable:
    """The table of a run, held as ``features.held`` says or where its size fits; the log says which.

    Args:
        config: path of the features, and where to hold them.
        device: where the head is.
        group: ranks of the run: if one has to stream, all do, since streamed features come in another order.
        on_loading: called at once when the process has started, and then every few seconds with the progress of loading.

    Raises:
        ValueError: there is no finished embedding.
    """
    on_loading(f"process {os.getpid()} has started")
    on_progress = at_most_every(PROGRESS_S, on_loading)
    place = place_of(config, device)
    if group is not None and _any_rank(place == "stream", device, group):
        place = "stream"
    where = {"device": f"memory of {device}", "map": f"one memory map a node, in {map_folder()}", "stream": "Ray Data's stream"}
    logger.info("features: %.3g GiB, held in %s", feature_bytes(config.path) / 2**30, where[place])
    if place == "stream":
        return StreamedTable.open(config.path, shuffle_mib=config.shuffle_mib)
    table = FeatureTable.load(config.path, shared=map_folder(), on_progress=on_progress)
    return table.to(device) if place == "device" else table


def place_of(config: FeaturesConfig, device: torch.device = CPU) -> Place:
    """Where a process holds the features; without a GPU, as on the driver, ``held: device`` means a memory map."""
    manifest, _ = read_manifest(config.path)
    size = feature_bytes(config.path)
    if config.held == "stream":
        return "stream"
    if device.type == "cuda" and config.held != "map":
        room = _GPU_SHARE * torch.cuda.mem_get_info(device)[0]
        if config.held == "device" or size <= room:
            return "device"
    written = os.path.exists(map_of(config.path, manifest, map_folder()))
    return "map" if config.held != "auto" or _map_fits(size, written) else "stream"


def feature_bytes(path: str) -> int:
    """Size of the features at a path; their columns are not compressed."""
    return sum(file.size for file in storage.list_files(storage.join(path, "data"), suffix=".parquet"))


def _map_fits(size: int, written: bool) -> bool:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    os.makedirs(map_folder(), exist_ok=True)
    return size <= _MEMORY_SHARE * memory and (written or size <= shutil.disk_usage(map_folder()).free)


def _any_rank(value: bool, device: torch.device, group: dist.ProcessGroup) -> bool:
    anywhere = torch.tensor(float(value), device=device)
    dist.all_reduce(anywhere, op=dist.ReduceOp.MAX, group=group)
    return bool(anywhere)
