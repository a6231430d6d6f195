"""The whole configuration: one tree of frozen dataclasses, one sentence under each field.

Every stage takes the same tree, so that one YAML under ``jobs/configs`` names a whole run. A check on one field sits in its
section, in positive form so that NaN fails it; a rule across sections sits in ``Config``.
"""

from dataclasses import asdict, dataclass, field

from rdd.config.audit import AuditConfig
from rdd.config.checks import check
from rdd.config.data import ClipConfig, EmbedConfig, RecordsConfig, SampleConfig, WeightsConfig
from rdd.config.export import ExportConfig
from rdd.config.fetch import FetchConfig
from rdd.config.learning import EvaluateConfig, FeaturesConfig, LossConfig, ModelConfig, OptimizerConfig, SamConfig, TrainConfig
from rdd.config.platform import ClusterConfig, ScalingConfig, TrackingConfig
from rdd.config.predict import PredictConfig
from rdd.config.report import ReportConfig
from rdd.config.robustness import RobustnessConfig
from rdd.config.search import AblateConfig, FiguresConfig, ProtocolConfig, TuneConfig
from rdd.config.secrets import without_password

__all__ = [
    "AblateConfig",
    "AuditConfig",
    "ClipConfig",
    "ClusterConfig",
    "Config",
    "EmbedConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FeaturesConfig",
    "FetchConfig",
    "FiguresConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PredictConfig",
    "ProtocolConfig",
    "RecordsConfig",
    "ReportConfig",
    "RobustnessConfig",
    "SamConfig",
    "SampleConfig",
    "ScalingConfig",
    "TrackingConfig",
    "TrainConfig",
    "TuneConfig",
    "WeightsConfig",
]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that can be set, for every stage."""

    sample: SampleConfig = field(default_factory=SampleConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    records: RecordsConfig = field(default_factory=RecordsConfig)
    fetch: FetchConfig = field(default_factory=FetchConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sam: SamConfig = field(default_factory=SamConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    robustness: RobustnessConfig = field(default_factory=RobustnessConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    ablate: AblateConfig = field(default_factory=AblateConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    figures: FiguresConfig = field(default_factory=FiguresConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        self._check_texts()
        if self.train.cross_validate and self.features.split != "folds":
            raise ValueError(f"features.split must be folds when train.cross_validate is true, got {self.features.split}")
        if self.model.text_dropout > 0 and self.features.text_mode == "none":
            raise ValueError(
                "model.text_dropout must be 0 when features.text_mode is none, since there is no text, "
                f"got {self.model.text_dropout}"
            )
        if self.loss.consistency > 0 and not self.features.views:
            raise ValueError(
                f"loss.consistency must be 0 when features.views is 0, since there is no view to compare with, "
                f"got {self.loss.consistency}"
            )
        scaling = self.scaling
        if scaling.num_workers == 0 and scaling.gpus_per_worker > 0:
            raise ValueError(
                f"scaling.gpus_per_worker must be 0 when scaling.num_workers is 0, on the CPU, got {scaling.gpus_per_worker}"
            )
        if scaling.num_workers > 1 and scaling.gpus_per_worker % 1:
            raise ValueError(
                "scaling.gpus_per_worker must be whole when scaling.num_workers is above 1 (NCCL), "
                f"got {scaling.gpus_per_worker}"
            )
        if self.loss.scope == "local" and self.train.batch_size < 2 * scaling.num_workers:
            least = 2 * scaling.num_workers
            raise ValueError(f"train.batch_size must be at least {least} when loss.scope is local, got {self.train.batch_size}")
        gpus = (scaling.gpus_per_worker, self.tune.gpus_per_trial, self.ablate.gpus_per_run)
        if self.features.held == "device" and not max(gpus) > 0:
            raise ValueError("features.held must be auto, map or stream when scaling.gpus_per_worker is 0, got device")
        if self.clip.device == "cuda" and not self.embed.gpus_per_worker > 0:
            raise ValueError("embed.gpus_per_worker must be above 0 when clip.device is cuda, got 0")
        if self.clip.device == "cpu" and self.embed.gpus_per_worker > 0:
            raise ValueError(
                f"embed.gpus_per_worker must be 0 when clip.device is cpu, got {self.embed.gpus_per_worker}; "
                "set clip.device to cuda"
            )

    def _check_texts(self) -> None:
        """Texts are kept with the results, so they must be writable and hold no password; the server's address is not kept."""
        for section, leaves in asdict(self).items():
            for name, value in leaves.items():
                if not isinstance(value, str):
                    continue
                leaf, encoded = f"{section}.{name}", value.encode(errors="backslashreplace")
                check(encoded == value.encode(errors="ignore"), leaf, "be UTF-8", encoded.decode())
                check("\0" not in value, leaf, "hold no NUL character", repr(value))
                if leaf != "tracking.uri":
                    shown = without_password(value)
                    check(shown == value, leaf, "hold no password, which belongs in the environment", shown)
