"""Settings of answers for many images."""

from dataclasses import dataclass, field
from typing import Literal

from rdd.config.checks import DAY_S, MAX_THREADS, check
from rdd.config.data import PILLOW_LIMIT


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Answers of a detector for many images, on Ray Data."""

    output: str = ""
    """Directory to write: data/ (Parquet, one row an image), predictions.json."""
    detector: str = ""
    """Directory of the detector, local or s3://; a run has it in RUN/detector."""
    images: list[str] = field(default_factory=list)
    """What to look at: files, folders, wildcards, tables (.csv or .parquet with a column path, bytes or url, and optionally
    caption), addresses; local or s3://."""
    weights: str = ""
    """File of CLIP's weights, at the same path on every node; empty to find them by the SHA-256 that the detector names, among
    those that jobs/weights.py wrote there."""
    caption: str = ""
    """The prompt of every image that has none of its own."""
    allow_urls: bool = False
    """Fetch addresses, from public hosts alone; needs fetch.contact. Each task that reads keeps to fetch.per_host."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where CLIP runs; cuda needs predict.gpus_per_worker above 0."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of CLIP's weights and activations; no fp16 on a CPU."""
    batch_size: int = 64
    """Images in one forward pass, at least 1."""
    max_pixels: int = 64_000_000
    """Largest width x height that is decoded, at most Pillow's own limit; a larger image has no verdict."""
    num_workers: int = 1
    """CLIP actors, at least 1."""
    cpus_per_worker: float = 1.0
    """CPUs that Ray reserves for a CLIP actor, at least 0."""
    gpus_per_worker: float = 0.0
    """GPUs that Ray reserves for a CLIP actor, at least 0."""
    threads_per_worker: int = 2
    """Torch threads of a CLIP actor, in [1, 1024]."""
    cpus_per_task: float = 0.5
    """CPUs that Ray reserves for a task that reads and decodes or writes, above 0."""
    records_per_task: int = 0
    """Images that one task reads and decodes; 0 for some 2,560, or fewer where that would leave a CPU idle."""
    records_per_commit: int = 0
    """Images that are committed together, and that a killed run does again at most besides those in work; 0 for four forward
    passes of each worker, or a 2,000th of all where that is more."""
    stall_timeout_s: float = 600.0
    """Seconds without an image, in (0, 86400], after which the run ends as failed."""

    def __post_init__(self) -> None:
        check("" not in self.images, "predict.images", "hold no empty word", self.images)
        for name in ("batch_size", "num_workers"):
            check(getattr(self, name) >= 1, f"predict.{name}", "be at least 1", getattr(self, name))
        in_range = 1 <= self.max_pixels <= PILLOW_LIMIT
        check(in_range, "predict.max_pixels", f"lie in [1, {PILLOW_LIMIT}]", self.max_pixels)
        for name in ("cpus_per_worker", "gpus_per_worker", "records_per_task", "records_per_commit"):
            check(getattr(self, name) >= 0, f"predict.{name}", "be at least 0", getattr(self, name))
        threads = self.threads_per_worker
        check(1 <= threads <= MAX_THREADS, "predict.threads_per_worker", f"lie in [1, {MAX_THREADS}]", threads)
        check(self.cpus_per_task > 0, "predict.cpus_per_task", "be above 0", self.cpus_per_task)
        check(0 < self.stall_timeout_s <= DAY_S, "predict.stall_timeout_s", "lie in (0, 86400]", self.stall_timeout_s)
        on_cuda, with_gpus = self.device == "cuda", self.gpus_per_worker > 0
        allowed = "be above 0 when predict.device is cuda, and 0 when it is cpu"
        check(on_cuda == with_gpus, "predict.gpus_per_worker", allowed, self.gpus_per_worker)
        fits = on_cuda or self.precision != "fp16"
        check(fits, "predict.precision", "be fp32 or bf16 when predict.device is cpu", self.precision)
