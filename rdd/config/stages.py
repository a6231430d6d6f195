"""Of every stage: the settings that it reads, those that its result depends on, and those that a restart may change."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from rdd.config import Config
from rdd.config.parse import leaf_of
from rdd.shapes import NUMBER, Shape

_REPORT: Shape = {"auroc": NUMBER, "auroc_interval": (list, type(None)), "misranked_pairs": NUMBER, "pairs": int}
"""Of :func:`rdd.evaluation.report.evaluate`."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage, which ``jobs/<name>.py`` runs."""

    name: str
    sections: tuple[str, ...]
    """Sections of the config that the result depends on; they are kept in the output's ``config.yaml``."""
    also_reads: tuple[str, ...] = ("tracking",)
    """Sections that say where it runs, where it is tracked, and what is looked at beside its result."""
    in_help: tuple[str, ...]
    """Sections whose settings ``--help`` lists; of the others it says how to see them."""
    required: Mapping[str, str]
    """By dotted path, what a setting must name; the output directory comes first."""
    may_change: frozenset[str] = field(default=frozenset())
    """Settings, by dotted path, that may differ when the stage is started again."""
    result_file: str = "metrics.json"
    """File of the output directory that is written last."""
    result_shape: Shape = field(default_factory=dict)
    """What it must hold for whoever reads it."""
    registers: bool = False
    """Whether it makes the detector that ``tracking.register`` is about."""
    compared_as: tuple[Literal["row", "seed", "trial", "training", "round"], ...] = ()
    """Kinds of the stage's MLflow runs that have a page to compare them on."""

    @property
    def reads(self) -> tuple[str, ...]:
        """All sections that it reads."""
        return (*self.sections, *self.also_reads)

    @property
    def output(self) -> str:
        """Dotted path of the setting that names the output directory."""
        return next(iter(self.required))


TRAINING_SECTIONS = ("train", "features", "model", "loss", "sam", "optimizer", "evaluate")
"""What a training run depends on."""

_OF_A_RUN = frozenset(
    {
        "train.output",
        "features.held",  # the run directory knows whether they are streamed, which alone makes a difference
        "train.stall_timeout_s",
        "train.checkpoint_s",
        "train.exchange_timeout_s",
        "train.max_failures",
        "train.max_preemptions",
        "train.threads_per_worker",
        "evaluate.run",
        "evaluate.output",
        "evaluate.part",
        "evaluate.shift_labels",
    }
)

SAMPLE = Stage(
    name="sample",
    sections=("sample",),
    in_help=("sample",),
    required={"sample.output": "the directory to write"},
)

WEIGHTS = Stage(
    name="weights",
    sections=("weights", "clip"),
    in_help=("weights",),
    required={"weights.output": "the file to write"},
)

FETCH = Stage(
    name="fetch",
    sections=("fetch", "records"),
    also_reads=("tracking", "cluster"),
    in_help=("fetch",),
    required={
        "fetch.output": "the directory to write",
        "records.path": "the records whose real images are fetched",
        "fetch.contact": "a mail address or page where the owner of a website reaches you, since it is sent with every request",
    },
    may_change=frozenset(  # they change how images are asked for, and not which
        {
            "fetch.allow_loopback",
            "fetch.backoff_s",
            "fetch.block_list",  # its content is applied anew at every start
            "fetch.connect_timeout_s",
            "fetch.contact",
            "fetch.cpus_per_worker",
            "fetch.excluded_ids",  # its content may not change, see rdd.data.fetched
            "fetch.files_per_worker",
            "fetch.host_failures",
            "fetch.hub",
            "fetch.hub_files",
            "fetch.image_timeout_s",
            "fetch.in_flight",
            "fetch.max_wait_s",
            "fetch.num_workers",
            "fetch.output",
            "fetch.per_host",
            "fetch.read_timeout_s",
            "fetch.retries",
            "fetch.retry_failed",
            "fetch.stall_timeout_s",
            "records.max_pixels",
            "records.real_images",
            "records.root",
        }
    ),
    result_shape={
        "output": str,
        "records": int,
        "ok": int,
        "survival": NUMBER,
        "status": dict,
        "round": int,
        "block_list": str,
    },
)

EMBED = Stage(
    name="embed",
    sections=("embed", "records", "clip"),
    also_reads=("tracking", "cluster"),
    in_help=("embed", "records"),
    required={"embed.output": "the directory to write"},
    may_change=frozenset(  # they do not change a feature beyond rounding
        {
            "clip.batch_size",
            "clip.channels_last",
            "clip.compile",
            "embed.cpus_per_task",
            "embed.cpus_per_worker",
            "embed.dollars_per_hour",
            "embed.file_mib",
            "embed.gpus_per_worker",
            "embed.images_per_s",
            "embed.max_quarantined_share",
            "embed.min_workers",
            "embed.num_workers",
            "embed.output",
            "embed.records_per_commit",
            "embed.records_per_task",
            "embed.stall_timeout_s",
            "embed.threads_per_worker",
        }
    ),
    result_file="manifest.json",
    result_shape={"records_in": int, "records_written": int, "records_quarantined": int, "images": int, "embed_dim": int},
)

TRAIN = Stage(
    name="train",
    sections=TRAINING_SECTIONS,
    also_reads=("scaling", "tracking", "cluster", "audit"),
    in_help=("train", "scaling"),
    required={"train.output": "the run directory to write", "features.path": "the features to train on"},
    may_change=_OF_A_RUN,
    result_shape={"test": _REPORT, "validation_auroc": NUMBER, "best_epoch": int, "history": list},
    registers=True,
    compared_as=("training",),
)

TUNE = Stage(
    name="tune",
    sections=("tune", *TRAINING_SECTIONS),
    also_reads=("scaling", "tracking", "cluster", "audit"),
    in_help=("tune",),
    required={"tune.output": "the directory to write", "features.path": "the features to train on"},
    may_change=frozenset(
        {
            "tune.output",
            "tune.cpus_per_trial",
            "tune.gpus_per_trial",
            "train.output",
            "train.checkpoint_s",
            "train.exchange_timeout_s",
            "train.stall_timeout_s",
            "train.max_failures",
            "train.max_preemptions",
            "train.threads_per_worker",
        }
    ),
    result_shape={"output": str, "trials": int, "validation_auroc": NUMBER, "best_config": str},
    compared_as=("trial",),
)

ABLATE = Stage(
    name="ablate",
    sections=("ablate", *TRAINING_SECTIONS),
    also_reads=("tracking", "cluster", "audit"),
    in_help=("ablate",),
    required={"ablate.output": "the directory to write", "features.path": "the features to train on"},
    may_change=_OF_A_RUN | {"ablate.output", "ablate.cpus_per_run", "ablate.gpus_per_run"},
    result_shape={"output": str, "runs": int, "auroc": dict},
    compared_as=("row", "seed"),
)

FIGURES = Stage(
    name="figures",
    sections=("figures", "features"),
    also_reads=("tracking", "cluster"),
    in_help=("figures",),
    required={"figures.output": "the directory to write", "features.path": "the features that the runs were trained on"},
    may_change=frozenset({"figures.output", "figures.cpus_per_task", "features.held"}),
    result_file="figures.json",
)

EVALUATE = Stage(
    name="evaluate",
    sections=("evaluate", "features"),
    in_help=("evaluate", "features"),
    required={
        "evaluate.output": "the directory to write",
        "evaluate.run": "the run directory of the detector",
        "features.path": "the features to evaluate it on",
    },
    may_change=frozenset({"evaluate.output"}),
    result_shape=_REPORT
    | {"worst_generator": {"name": str, "auroc": NUMBER}, "balanced_accuracy": NUMBER, "real_images": int}
    | {"generated_images": int, "evaluated": dict},
)

PROTOCOL = Stage(
    name="protocol",
    sections=("protocol", *TRAINING_SECTIONS),
    also_reads=("scaling", "tracking", "cluster", "audit"),
    in_help=("protocol",),
    required={"protocol.output": "the directory to write", "features.path": "the features to train on"},
    may_change=_OF_A_RUN | {"protocol.output"},
    result_shape={"rounds": dict, "mean_auroc": NUMBER, "worst": str, "worst_auroc": NUMBER},
    compared_as=("round",),
)

_TO_EQUALISE = ("evaluate", "records", "clip", "embed")
"""What an audit reads with ``audit.pixels``."""

AUDIT = Stage(
    name="audit",
    sections=("audit", "features"),
    also_reads=("tracking", "cluster", *_TO_EQUALISE),
    in_help=("audit", "features"),
    required={"audit.output": "the directory to write", "features.path": "the features to audit"},
    may_change=frozenset({"audit.output", "features.held", "features.shuffle_mib", "features.text_mode"}),
    result_file="audit.json",
    result_shape={"red": list, "properties": dict, "duplicates": {"near": dict}, "records": int, "images": int}
    | {"features": str},
)


def audit_stage(config: Config) -> Stage:
    """An audit; with ``audit.pixels`` its result depends on the copies that it embeds and on the detector as well."""
    if not config.audit.pixels:
        return AUDIT
    return replace(
        AUDIT,
        sections=(*AUDIT.sections, *_TO_EQUALISE),
        also_reads=("tracking", "cluster"),
        required={**AUDIT.required, "records.path": "the records to embed copies of that make the classes equal"},
        may_change=AUDIT.may_change | EMBED.may_change | {"evaluate.output"},
        result_shape=AUDIT.result_shape | {"equal": dict, "detector": str},
    )


ROBUSTNESS = Stage(
    name="robustness",
    sections=("robustness", "evaluate", "records", "clip", "embed"),
    also_reads=("tracking", "cluster"),
    in_help=("robustness", "evaluate"),
    required={
        "robustness.output": "the directory to write",
        "evaluate.run": "the run directory of the detector",
        "records.path": "the records to embed degraded copies of",
    },
    may_change=EMBED.may_change | {"robustness.output", "evaluate.output"},
    result_file="robustness.json",
    result_shape={"output": str, "images": int, "images_left_out": int, "curves": dict, "copies": dict},
)

REPORT = Stage(
    name="report",
    sections=("report",),
    in_help=("report",),
    required={"report.run": "the run or the evaluation that the page is about"},
    result_file="report.html",
)

EXPORT = Stage(
    name="export",
    sections=("export",),
    in_help=("export",),
    required={"export.output": "the directory to write", "export.detector": "the directory of the detector"},
    may_change=frozenset({"export.output", "export.detector", "export.weights", "export.tolerance"}),  # known by their hashes
    result_file="export.json",
    result_shape={"model_version": str, "files": dict},
)

PREDICT = Stage(
    name="predict",
    sections=("predict",),
    also_reads=("tracking", "cluster", "fetch"),
    in_help=("predict",),
    required={
        "predict.output": "the directory to write",
        "predict.detector": "the directory of the detector",
        "predict.images": "the images to look at",
    },
    may_change=frozenset(  # they do not change an answer beyond rounding
        {
            "predict.batch_size",
            "predict.cpus_per_task",
            "predict.cpus_per_worker",
            "predict.detector",  # another detector is refused by its version
            "predict.device",
            "predict.gpus_per_worker",
            "predict.num_workers",
            "predict.output",
            "predict.records_per_commit",
            "predict.records_per_task",
            "predict.stall_timeout_s",
            "predict.threads_per_worker",
            "predict.weights",  # found, or refused, by their hash
        }
    ),
    result_file="predictions.json",
    result_shape={"images": int, "answered": int, "unreadable": int, "unreadable_by_reason": dict, "verdicts": dict}
    | {"model_version": str},
)

DEMO = Stage(
    name="demo",
    sections=("sample", "weights", "records", "clip", "embed", *TRAINING_SECTIONS),
    also_reads=("scaling", "tracking", "cluster", "audit"),
    in_help=(),
    required={"train.output": "the run directory to write"},
    registers=True,
)


def require(stage: Stage, config: Config) -> None:
    """Refuse a request that leaves out what the stage can not do without.

    Raises:
        ValueError: naming the setting.
    """
    for path, what in stage.required.items():
        if not leaf_of(config, path):
            raise ValueError(f"{path} must name {what}, got nothing")


def check_registers(stage: Stage, config: Config) -> None:
    """Refuse to register a detector in a job that makes none, or many.

    Raises:
        ValueError: naming the setting.
    """
    name = config.tracking.register
    if name and not stage.registers:
        raise ValueError(
            f"tracking.register must be empty in jobs/{stage.name}.py, got {name}; jobs/train.py registers detectors"
        )
    if name and config.train.cross_validate:
        raise ValueError(
            f"tracking.register must be empty when train.cross_validate is true, got {name}; register one training"
        )
