"""The embedding: the job against a bare loop of decoding and encoding, and its graph with an encoder that costs nothing.

The job runs twice, on many images and on fewer: the difference is its steady state, without start and end.
"""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from clip_retrieval_figure import clip_retrieval_figure
from graph_steps import GPU_RATE, GPUS, SIDE, SLOWED, FreeEncoder, write_with_gpus
from measure import Figure, Skipped
from PIL import Image
from resume_figure import resume_figure

from rdd.config import ClipConfig
from rdd.embedding.encoder import RecordEncoder
from rdd.schema import DECODED

IMAGES, FEWER, BATCH = 1760, 480, 64

BARE = """
import glob, sys, time
import torch, open_clip
from PIL import Image
torch.set_num_threads(2)
model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32", pretrained=sys.argv[2])
model.eval()
print(time.time(), flush=True)
files = sorted(glob.glob(sys.argv[1] + "/*/**/*.jpg", recursive=True))
with torch.no_grad():
    for start in range(0, len(files), {batch}):
        model.encode_image(torch.stack([preprocess(Image.open(file)) for file in files[start : start + {batch}]]))
"""


@dataclass(frozen=True)
class Run:
    """One process with its children."""

    seconds: float
    cpu_s: float
    ready_s: float
    """From its start until the model was loaded."""


def embedding_figures(folder: Path) -> Iterator[Figure | Skipped]:
    """All figures of the group, each as soon as it is known."""
    yield zero_cost_figure()
    yield from job_figures(folder)
    yield resume_figure(folder)
    yield from graph_figures(folder)


def job_figures(folder: Path) -> Iterator[Figure | Skipped]:
    """The job on 1,760 and on 480 images, ViT-B-32, against the loop, and on the many against clip-retrieval."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = str(folder / "b32.safetensors")
    save_file(open_clip.create_model("ViT-B-32", load_weights=False).state_dict(), weights)
    many, few = write_images(folder / "many", IMAGES), write_images(folder / "few", FEWER)
    bare_many, job_many = bare_run(many, weights), job_run(many, weights, folder / "features-many")
    bare_few, job_few = bare_run(few, weights), job_run(few, weights, folder / "features-few")
    steady = (bare_many.seconds - bare_few.seconds) / (job_many.seconds - job_few.seconds)
    beyond_ms = 1000 * (job_many.cpu_s - bare_many.cpu_s) / IMAGES
    ready = statistics.median([job_many.ready_s, job_few.ready_s]) / statistics.median([bare_many.ready_s, bare_few.ready_s])
    yield Figure("embedding: images/s in the steady state over a bare loop", steady, at_least=0.95)
    yield Figure("embedding: images/s of the whole job over a bare loop", bare_many.seconds / job_many.seconds, at_least=0.8)
    yield Figure("embedding: seconds to the first forward pass over a bare loop's", ready, at_most=3.0)
    yield Figure("embedding: CPU an image beyond decoding and encoding", beyond_ms, at_most=8.0, unit="ms")
    yield clip_retrieval_figure(many, weights, folder / "clip-retrieval", batch_size=BATCH, job_s=job_many.seconds)


def write_images(folder: Path, number: int) -> str:
    """JPEGs of 480 x 360, half of them real."""
    rng = np.random.default_rng(0)
    for place in ("real", "fake/x"):
        (folder / place).mkdir(parents=True)
    for i in range(number):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        coarse.resize((480, 360)).save(folder / ("fake/x" if i % 2 else "real") / f"{i:05d}.jpg", quality=90)
    return str(folder)


def bare_run(images: str, weights: str) -> Run:
    """Decode and encode in one process."""
    return _watched([sys.executable, "-c", BARE.format(batch=BATCH), images, weights], lambda line: line)


def job_run(images: str, weights: str, output: Path) -> Run:
    """jobs/embed.py on a Ray of its own."""
    settings = {"records.kind": "folder", "records.path": images, "clip.model": "ViT-B-32", "clip.pretrained": weights}
    settings |= {"clip.batch_size": BATCH, "embed.text": "false", "embed.output": output, "tracking.enabled": "false"}
    settings |= {"cluster.address": "local", "cluster.num_cpus": 2}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return _watched([sys.executable, "jobs/embed.py", *words], lambda line: "encoding begins" in line)


def _watched(words: Sequence[str], is_ready: Callable[[str], object]) -> Run:
    """Run a process to its end; CPU is that of all below it, as last seen while they lived."""
    started = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen: dict[int, float] = {}
    watching = threading.Thread(target=_watch_cpu, args=(process.pid, seen), daemon=True)
    watching.start()
    ready, said = 0.0, []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if not ready and is_ready(line):
            ready = time.monotonic() - started
    if process.wait() or not ready:
        raise RuntimeError(f"{' '.join(words[:3])} failed: {''.join(said[-5:])}")
    return Run(time.monotonic() - started, sum(seen.values()), ready)


def _watch_cpu(pid: int, seen: dict[int, float]) -> None:
    while psutil.pid_exists(pid):
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)) if psutil.pid_exists(pid) else ():
            try:
                times = process.cpu_times()
                seen[process.pid] = times.user + times.system
            except psutil.Error:
                continue
        time.sleep(0.25)


def decoded_table(records: int, images: int) -> pa.Table:
    """Records as the decoder gives them, each image filled with its number."""
    row = {"source": "s", "generators": ["real", *["x"] * (images - 1)], "prompts_cut": 0}
    rows = [
        row
        | {
            "key": str(r),
            "row": r,
            "record_id": str(r),
            "pixels": [bytes([(r * images + i) % 251]) * SIDE * SIDE * 3 for i in range(images)],
        }
        for r in range(records)
    ]
    return pa.Table.from_pylist([{name: one.get(name) for name in DECODED.names} for one in rows], schema=DECODED)


def zero_cost_figure() -> Figure:
    """What one process takes in, from a decoded table to its features; they are checked."""
    table = decoded_table(51, 5)
    encode = RecordEncoder(FreeEncoder(), ClipConfig(batch_size=256), text=False, progress=lambda step, count: None)
    times = []
    for _ in range(30):
        started = time.perf_counter()
        found = encode(table)
        times.append(time.perf_counter() - started)
    values = np.concatenate([np.frombuffer(row, "<f2").reshape(-1, 32) for row in found["projected"].to_pylist()])
    assert (values == (np.arange(255) % 251)[:, None]).all()
    rate = 255 / statistics.median(times)
    return Figure("images/s that one encoder process takes in, encoding for nothing", rate, at_least=15_000, unit="1/s")


def graph_figures(folder: Path) -> Iterator[Figure]:
    """The graph with simulated GPUs, and the memory of its driver."""
    write_with_gpus(str(folder / "gpus"))
    busy = busy_share([row for file in (folder / "gpus" / "data").glob("*.parquet") for row in pq.read_table(file).to_pylist()])
    yield Figure(f"busy share of {GPUS} simulated GPUs at {GPU_RATE} images/s, slowed down {SLOWED} times", busy, at_least=0.97)
    few, many = (driver_memory(folder / f"driver-{records}", records) for records in (1_000, 100_000))
    yield Figure("peak memory of an embedding's driver, 100,000 over 1,000 records", many / few, at_most=1.2)


def busy_share(rows: list[dict[str, Any]]) -> float:
    """Of the time between the moment when all GPUs had begun and the first one's last pass."""
    passes = {(row["gpu"], row["begun"], row["ended"]) for row in rows}
    gpus = {gpu for gpu, _, _ in passes}
    assert len(gpus) == GPUS
    first = max(min(begun for gpu, begun, _ in passes if gpu == one) for one in gpus)
    last = min(max(ended for gpu, _, ended in passes if gpu == one) for one in gpus)
    busy = sum(max(0.0, min(ended, last) - max(begun, first)) for _, begun, ended in passes)
    return busy / (GPUS * (last - first))


_DRIVER = """
import resource, sys
sys.path.insert(0, {here!r})
from clip_retrieval_figure import clip_retrieval_figure
from graph_steps import write_keys
write_keys({folder!r}, {records})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def driver_memory(folder: Path, records: int) -> int:
    """Peak resident memory of a process that drives the graph, in KiB."""
    code = _DRIVER.format(here=str(Path(__file__).parent), folder=str(folder), records=records)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout.splitlines()[-1]))
