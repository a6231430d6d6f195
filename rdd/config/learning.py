"""Settings that the result of a training run depends on."""

from dataclasses import dataclass, field
from typing import Any, Literal

from rdd.config.checks import DAY_S, MAX_RESAMPLES, MAX_THREADS, SEEDS, check
from rdd.feature_names import IMAGE_NAMES, PROJECTED, is_image_feature


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """Features to train on, their text and their split."""

    path: str | list[str] = ""
    """Directory that jobs/embed.py wrote; or a list of several, of one encoder, which are joined by record and image."""
    inputs: list[str] = field(default_factory=lambda: [PROJECTED])
    """Features of an image that the head sees, end to end in this order: 'projected' (the paper's), 'block_<k>'; an evaluation
    takes those of its detector."""
    views: int = 0
    """Degraded views of each image to train on (embed.views), in [0, 16]. Above 0 a batch holds each image and one view of it,
    in epoch e, counted from 0, view 1 + e mod features.views; validation and test stay clean."""
    text_mode: Literal["auto", "shared", "official", "none"] = "auto"
    """shared: original prompt for every image; official: positive prompt for generated ones, a leak; none: image only;
    auto: shared where the features hold prompts, none where they do not."""
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
    leave_out: list[str] = field(default_factory=list)
    """Generators, by name, whose images are neither trained nor selected on; they stay in the test part, as unseen ones."""
    held: Literal["auto", "device", "map", "stream"] = "auto"
    """Where training holds them: GPU memory, one memory map a node, or nowhere (Ray Data, in another order);
    auto: GPU memory where they fit, else the map, and never streamed."""
    shuffle_mib: int = 512
    """Features, in MiB and at least 1, that are shuffled together when they are streamed."""

    def __post_init__(self) -> None:
        several = [self.path] if isinstance(self.path, str) else self.path
        each_once = len(set(several)) == len(several) and (isinstance(self.path, str) or "" not in several)
        check(each_once, "features.path", "name directories, each once", self.path)
        named = all(map(is_image_feature, self.inputs)) and len(set(self.inputs)) == len(self.inputs) > 0
        check(named, "features.inputs", f"hold names of features, {IMAGE_NAMES}, at least one and each once", self.inputs)
        check(0 <= self.views <= 16, "features.views", "lie in [0, 16]", self.views)
        check(0 <= self.split_seed < SEEDS, "features.split_seed", "lie in [0, 2^63)", self.split_seed)
        check(0 < self.validation_share < 1, "features.validation_share", "lie in (0, 1)", self.validation_share)
        check(0 < self.test_share < 1, "features.test_share", "lie in (0, 1)", self.test_share)
        total = self.validation_share + self.test_share
        check(total < 1, "features.validation_share + features.test_share", "be below 1", total)
        check(self.num_folds >= 2, "features.num_folds", "be at least 2", self.num_folds)
        check(0 <= self.fold < self.num_folds, "features.fold", f"lie in [0, {self.num_folds})", self.fold)
        check("real" not in self.leave_out, "features.leave_out", "name generators, not real", self.leave_out)
        check(self.shuffle_mib >= 1, "features.shuffle_mib", "be at least 1", self.shuffle_mib)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The head."""

    kind: Literal["mlp", "blocks"] = "mlp"
    """mlp: the inputs end to end; blocks: inputs of one width, each projected by one shared layer and weighed by a softmax."""
    standardize: bool = True
    """Scale each input by its mean and deviation over the training part, which the detector keeps; the paper does not."""
    hidden: int = 1536
    """Width of each hidden layer, in [1, 65536]."""
    layers: int = 3
    """Hidden layers, in [0, 64]; 0 is a linear head."""
    projection: int = 128
    """Columns to which kind blocks projects each input, in [1, 65536]."""
    dropout: float = 0.335
    """Dropout probability in [0, 1)."""
    activation: Literal["relu", "leaky_relu"] = "relu"
    """relu as in the paper, leaky_relu (slope 0.01) as in the official code."""
    text_dropout: float = 0.0
    """Share in [0, 1) of images whose text is replaced by a learned vector; above 0 the detector works without captions too."""

    def __post_init__(self) -> None:
        check(1 <= self.hidden <= 65_536, "model.hidden", "lie in [1, 65536]", self.hidden)
        check(0 <= self.layers <= 64, "model.layers", "lie in [0, 64]", self.layers)
        check(1 <= self.projection <= 65_536, "model.projection", "lie in [1, 65536]", self.projection)
        check(0 <= self.dropout < 1, "model.dropout", "lie in [0, 1)", self.dropout)
        check(0 <= self.text_dropout < 1, "model.text_dropout", "lie in [0, 1)", self.text_dropout)


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
    """Power of the AUC loss, in (1, 100]."""
    scope: Literal["global", "local"] = "global"
    """global: over the batch of all workers; local: over each worker's own share, for comparison."""
    auc_on: Literal["logits", "scores"] = "logits"
    """What the AUC loss compares: raw logits, as the official code does, or their sigmoid."""
    consistency: float = 0.0
    """Weight, at least 0, of a term that draws what is said of an image and of its view together; wants features.views."""

    def __post_init__(self) -> None:
        check(0 < self.alpha <= 1, "loss.alpha", "lie in (0, 1]", self.alpha)
        check(0 <= self.gamma <= 1, "loss.gamma", "lie in [0, 1]", self.gamma)
        check(0 < self.eta <= 1, "loss.eta", "lie in (0, 1]", self.eta)
        check(1 < self.p <= 100, "loss.p", "lie in (1, 100]", self.p)
        check(0 <= self.consistency < float("inf"), "loss.consistency", "be at least 0 and finite", self.consistency)


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
        check(0 <= self.rho < float("inf"), "sam.rho", "be at least 0 and finite", self.rho)


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
    max_grad_norm: float = 0.0
    """Largest norm, at least 0, of the gradient that the optimizer follows; 0 does not clip."""

    def __post_init__(self) -> None:
        check(0 < self.lr < float("inf"), "optimizer.lr", "be above 0 and finite", self.lr)
        check(0 <= self.beta1 < 1, "optimizer.beta1", "lie in [0, 1)", self.beta1)
        check(0 <= self.beta2 < 1, "optimizer.beta2", "lie in [0, 1)", self.beta2)
        check(0 <= self.weight_decay < float("inf"), "optimizer.weight_decay", "be at least 0", self.weight_decay)
        check(0 <= self.warmup_share < 1, "optimizer.warmup_share", "lie in [0, 1)", self.warmup_share)
        check(0 <= self.min_lr <= self.lr, "optimizer.min_lr", f"lie in [0, {self.lr}]", self.min_lr)
        check(0 <= self.max_grad_norm < float("inf"), "optimizer.max_grad_norm", "be at least 0", self.max_grad_norm)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training run."""

    output: str = ""
    """Run directory to write: config.yaml, checkpoints/, metrics.json, detector/."""
    epochs: int = 32
    """Passes over the training set, at least 1."""
    batch_size: int = 2048
    """Images in a global batch, over all workers, at least 2; with features.views each is there twice, clean and degraded."""
    seed: int = 0
    """Seed of initial weights, batch order and dropout, in [0, 2^63)."""
    stratified: bool = False
    """Give every batch its share of each class, to within one image."""
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    """fp32; bf16: matrix products under autocast, for GPUs (slow on a CPU); fp64: to compare runs to the last digit."""
    compile: bool = False
    """Compile the head with torch.compile; pays on a GPU, and wants a C++ compiler on a CPU."""
    threads_per_worker: int = 2
    """Torch threads of a worker on a CPU, in [1, 1024]; a resumed run is the same to the bit only with as many."""
    cross_validate: bool = False
    """Train a run for each of features.num_folds, under output/fold-<i>, and pool their tests; for features.split folds."""
    checkpoint_s: float = 120.0
    """Seconds, in [1, 86400], between checkpoints within an epoch; the end of each epoch is one, too."""
    max_failures: int = 3
    """Times, at least 0, that lost workers are replaced and the run goes on from its last checkpoint."""
    max_preemptions: int = 100
    """The same for nodes that are taken away after a notice; counted apart, for a training run on Ray Train workers."""
    exchange_timeout_s: float = 120.0
    """Seconds, in [1, 86400], that a worker waits for the others within a step; then they start anew, as after a failure."""
    stall_timeout_s: float = 600.0
    """Seconds without a step, in (0, 86400], after which the run ends as failed; starting and loading are not counted."""

    def __post_init__(self) -> None:
        check(self.epochs >= 1, "train.epochs", "be at least 1", self.epochs)
        check(self.batch_size >= 2, "train.batch_size", "be at least 2", self.batch_size)
        check(
            1 <= self.threads_per_worker <= MAX_THREADS,
            "train.threads_per_worker",
            f"lie in [1, {MAX_THREADS}]",
            self.threads_per_worker,
        )
        check(1 <= self.checkpoint_s <= DAY_S, "train.checkpoint_s", "lie in [1, 86400]", self.checkpoint_s)
        check(self.max_failures >= 0, "train.max_failures", "be at least 0", self.max_failures)
        check(self.max_preemptions >= 0, "train.max_preemptions", "be at least 0", self.max_preemptions)
        exchange = self.exchange_timeout_s
        check(1 <= exchange <= DAY_S, "train.exchange_timeout_s", "lie in [1, 86400]", exchange)
        check(0 <= self.seed < SEEDS, "train.seed", "lie in [0, 2^63)", self.seed)
        check(0 < self.stall_timeout_s <= DAY_S, "train.stall_timeout_s", "lie in (0, 86400]", self.stall_timeout_s)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Metrics of a detector on a set of features."""

    run: str = ""
    """Run directory whose detector is evaluated."""
    output: str = ""
    """Directory to write: metrics.json, logits.parquet, figures/."""
    part: Literal["test", "validation", "train", "all"] = "test"
    """Which part of features.path; all for a set that the detector has never seen."""
    shift_labels: str = ""
    """CSV or Parquet file of a few labels of a new domain (record_id, label, optional generator): they fit a shift of the
    log-odds, which is reported apart, and their records are left out of the numbers."""
    false_positive_rate: float = 0.05
    """Rate in (0, 1) on validation that fixes the detector's threshold when it is made."""
    band_false_positive_rate: float = 0.01
    """Share in (0, 1) of real images that the detector may call likely generated; fixes its band when it is made."""
    band_false_negative_rate: float = 0.05
    """Share in (0, 1) of generated images that the detector may call likely real; between the two bands it says uncertain."""
    coverage_levels: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """Levels in (0, 1), each once, of conformal sets that validation fixes; an evaluation checks how many images they cover."""
    reference_images: int = 2000
    """Images of the training part, at most, whose features travel with the detector and tell which images are unlike them, in
    [100, 20000] (2000 of 768 columns are 3 MB), or 0 for none."""
    reference_rate: float = 0.01
    """Share in (0, 1) of images like those of validation that the detector may call unlike its training set."""
    resamples: int = 1000
    """Bootstrap resamples of records for the intervals, in [100, 1000000]."""
    seed: int = 0
    """Seed of the resamples, in [0, 2^63)."""
    families: dict[str, Any] = field(default_factory=dict)
    """By name of a family, wildcards of its generators, such as {latent_diffusion: ['*stable-diffusion*']}; a generator that
    none matches is a family of its own."""

    def __post_init__(self) -> None:
        for name, wildcards in self.families.items():
            listed = isinstance(wildcards, list) and all(isinstance(one, str) and one for one in wildcards) and bool(wildcards)
            check(isinstance(name, str) and listed, f"evaluate.families.{name}", "be a list of wildcards", wildcards)
        rate = self.false_positive_rate
        check(0 < rate < 1, "evaluate.false_positive_rate", "lie in (0, 1)", rate)
        for name in ("band_false_positive_rate", "band_false_negative_rate"):
            check(0 < getattr(self, name) < 1, f"evaluate.{name}", "lie in (0, 1)", getattr(self, name))
        levels = self.coverage_levels
        within = all(0 < level < 1 for level in levels) and len(set(levels)) == len(levels)
        check(within, "evaluate.coverage_levels", "hold levels in (0, 1), each once", levels)
        number = self.reference_images
        check(number == 0 or 100 <= number <= 20_000, "evaluate.reference_images", "lie in [100, 20000] or be 0", number)
        check(0 < self.reference_rate < 1, "evaluate.reference_rate", "lie in (0, 1)", self.reference_rate)
        check(100 <= self.resamples <= MAX_RESAMPLES, "evaluate.resamples", f"lie in [100, {MAX_RESAMPLES}]", self.resamples)
        check(0 <= self.seed < SEEDS, "evaluate.seed", "lie in [0, 2^63)", self.seed)
