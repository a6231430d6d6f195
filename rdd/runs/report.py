"""The page about a run: gathered from the files of its directory, written beside them as report.html."""

import logging
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rdd import storage
from rdd.config import Config, ReportConfig
from rdd.config.parse import settings_of
from rdd.config.secrets import without_password
from rdd.config.stages import AUDIT, REPORT, ROBUSTNESS, TRAINING_SECTIONS, require
from rdd.detector import Detector
from rdd.evaluation.scores import read_logits
from rdd.features.feature_set import FeatureSet
from rdd.features.manifest import degradation_of
from rdd.report.content import Content, Missing
from rdd.report.pictures import Key, thumbnails
from rdd.report.worst import WorstImage, worst_images
from rdd.runs.directory import RunDirectory
from rdd.runs.report_subject import Subject, result_of, subject_of
from rdd.tracking.tracker import add_artefacts

logger = logging.getLogger(__name__)

PAGE = "report.html"


def run_report(config: Config) -> dict[str, Any]:
    """Write the page of a finished run or evaluation, and log it to the MLflow runs of that directory.

    Returns:
        ``output``, the page; ``auroc``, ``red`` leaks (None where there was no audit), ``pictures`` in it, and ``mlflow_runs``
        that have it.

    Raises:
        ValueError: there is no finished run, or the audit or the copies are not of this one.
        RuntimeError: one of its files is damaged or gone.
    """
    require(REPORT, config)
    options = config.report
    path = storage.absolute(options.run)
    subject = subject_of(path, result_of(path))
    content = _content(subject, options, look_up=True)
    _write(path, content)
    logged = add_artefacts(config.tracking, path, "report", only=(PAGE,))
    return {
        "output": storage.join(path, PAGE),
        "auroc": content.report["auroc"],
        "red": None if isinstance(content.audit, Missing) else content.audit["red"],
        "pictures": len(content.pictures),
        "mlflow_runs": logged,
    }


def leave_report(path: str, result: Mapping[str, Any], options: ReportConfig) -> None:
    """Write the page of a training or an evaluation that is about to end; one that can not be written is a warning.

    Args:
        path: its directory.
        result: what its ``metrics.json`` will hold.
        options: how many images are shown, and up to which size of the set they are looked for.
    """
    try:
        subject = subject_of(storage.absolute(path), result)
        images = FeatureSet.open(subject.config.features.path).manifest["images"]
        plain = replace(options, run=path, audit="", robustness="")
        _write(path, _content(subject, plain, look_up=images <= options.look_up))
    except Exception as error:  # the numbers stand without it, and jobs/report.py says what is wrong
        what = " ".join(str(error).split())
        logger.warning("%s is not written (%s: %s)", storage.join(path, PAGE), type(error).__name__, what)


def _write(path: str, content: Content) -> None:
    from rdd.report.page import render  # a template engine that training workers need not wait for

    storage.write_bytes(storage.join(path, PAGE), render(content).encode(errors="backslashreplace"))
    logger.info("the report of this %s: %s", content.kind, storage.join(path, PAGE))


def _content(subject: Subject, options: ReportConfig, *, look_up: bool) -> Content:
    """All of a page.

    Args:
        subject: the run or evaluation.
        options: what else to read, and how many images to show.
        look_up: whether to look for the images themselves.
    """
    detector = Detector.load(subject.run.detector)
    threshold, settings = detector.calibration.threshold, subject.config
    scored = read_logits(subject.logits)
    worst = worst_images(subject.logits, scored, threshold=threshold, number=options.images)
    pictures, no_pictures = _pictures(subject, worst, look_up=look_up)
    part = settings.evaluate.part if subject.kind == "evaluation" else "test"
    return Content(
        name=subject.name,
        kind=subject.kind,
        tested_on=f"the {part} part of {subject.features_names}" if part != "all" else f"all of {subject.features_names}",
        report=subject.report,
        scored=scored,
        calibration=detector.calibration,
        text_mode=detector.text_mode,
        resamples=settings.evaluate.resamples,
        audit=_audit(subject, options),
        robustness=_robustness(subject, options, threshold),
        worst=worst,
        pictures=pictures,
        no_pictures=no_pictures,
        history=subject.history,
        facts=_facts(subject, detector),
        changed=_changed(subject.run),
    )


def _pictures(
    subject: Subject, worst: Mapping[int, list[WorstImage]], *, look_up: bool
) -> tuple[dict[Key, str], Missing | None]:
    """Thumbnails of the worst images, and why some are missing."""
    wanted = [image for images in worst.values() for image in images]
    if not wanted:
        return {}, None
    command = f"python jobs/report.py --report.run {shlex.quote(subject.path)}"
    if not look_up:
        return {}, Missing("The images were not looked for; this command does it:", command)
    path = subject.config.features.path
    try:
        found = thumbnails(path, wanted)
        how = degradation_of(FeatureSet.open(path).manifest)
    except Exception as error:  # of any source of records: they may be gone, or on a store that asks for a password
        what = without_password(" ".join(str(error).split()))
        logger.info("no thumbnails: %s", what)
        return {}, Missing(f"The images are not at hand ({what}). Where their records are, this command shows them:", command)
    if len(found) < len(wanted):
        reason = f"{len(wanted) - len(found)} of {len(wanted)} images are not at hand as they were embedded."
        return found, Missing(reason)
    if how != "none":
        return found, Missing(f"The pictures are the stored ones; the detector has seen them after: {how}.")
    return found, None


def _audit(subject: Subject, options: ReportConfig) -> Mapping[str, Any] | Missing:
    """The audit that was asked for, or that of the training where it is of the features that were tested.

    Raises:
        ValueError: it is of other features.
    """
    for folder in [options.audit] if options.audit else _audits_of_training(subject.run.path):
        place = storage.join(folder, AUDIT.result_file)
        if storage.exists(place):
            audit = storage.read_json(place, {"red": list, "properties": dict}, way_out=f"delete {place} to audit again")
            if subject.features in (None, audit.get("features")):
                return audit
            if options.audit:
                raise ValueError(
                    f"report.audit must be of the features that were tested, {subject.features_names}, got {folder}"
                )
        elif options.audit:
            raise ValueError(f"report.audit must name a finished audit, got {folder} without {AUDIT.result_file}")
    output = f"{subject.path}-audit"
    words = [f"python jobs/audit.py --features.path {_quoted(subject.config)} --audit.output {shlex.quote(output)}"]
    words.append(_again(subject, "audit", output))
    return Missing("The features were not audited for leaks. These commands do it:", "\n".join(words))


def _audits_of_training(run: str) -> list[str]:
    """Where a training keeps its audit: in its directory, or of an ablation, whose runs lie three folders below it, in that."""
    return [storage.join(folder, "audit") for folder in (run, storage.absolute(run).rsplit("/", 3)[0])]


def _robustness(subject: Subject, options: ReportConfig, threshold: float) -> Mapping[str, Any] | Missing:
    """The try on degraded copies that was asked for.

    Raises:
        ValueError: it is of another detector.
    """
    if not options.robustness:
        return _not_tried(subject)
    place = storage.join(options.robustness, ROBUSTNESS.result_file)
    if not storage.exists(place):
        raise ValueError(f"report.robustness must name a finished try on copies, got {options.robustness} without it")
    result = storage.read_json(place, ROBUSTNESS.result_shape, way_out=f"delete {place} to compare the copies again")
    if result.get("threshold") != threshold:
        raise ValueError(
            f"report.robustness must be of the detector in {subject.run.path}, whose threshold is {threshold}, "
            f"got {options.robustness} with {result.get('threshold')}"
        )
    return result


def _not_tried(subject: Subject) -> Missing:
    """The command for degraded copies: their settings are those that the features were embedded with."""
    path, output = subject.config.features.path, f"{subject.path}-robustness"
    first = path if isinstance(path, str) else path[0]
    words = ["python jobs/robustness.py --config", shlex.quote(storage.join(first, "config.yaml"))]
    words += ["--config jobs/configs/robustness.yaml --evaluate.run", shlex.quote(subject.run.path)]
    if subject.kind == "evaluation":
        words += ["--evaluate.part", subject.config.evaluate.part]
    if isinstance(path, str):
        words += ["--robustness.clean", shlex.quote(path)]
    words += ["--robustness.output", shlex.quote(output)]
    command = f"{' '.join(words)}\n{_again(subject, 'robustness', output)}"
    return Missing("Degraded copies were not tried, or not named. These commands do it:", command)


def _again(subject: Subject, setting: str, value: str) -> str:
    return f"python jobs/report.py --report.run {shlex.quote(subject.path)} --report.{setting} {shlex.quote(value)}"


def _quoted(config: Config) -> str:
    path = config.features.path
    return shlex.quote(path if isinstance(path, str) else f"[{', '.join(path)}]")


def _facts(subject: Subject, detector: Detector) -> dict[str, str]:
    """Where the numbers come from, by what it is."""
    origin, encoder = detector.provenance, detector.encoder_identity
    trained_on = subject.run.config().features.path
    versions = ", ".join(f"{name} {version}" for name, version in origin.get("versions", {}).items())
    return {
        subject.kind: subject.path,
        "detector": subject.run.detector,
        "tested on": subject.features_names,
        "trained on": trained_on if isinstance(trained_on, str) else ", ".join(trained_on),
        "generators trained on": ", ".join(origin.get("generators", ["unknown"])) or "none",
        "inputs of the head": ", ".join(f"{name} ({width} wide)" for name, width in detector.inputs.items()),
        "text mode": detector.text_mode,
        "encoder": f"{encoder.get('model')}, weights {encoder.get('pretrained')}, SHA-256 {encoder.get('weights_sha256')}",
        "manifest of the training features, SHA-256": str(origin.get("features_manifest_sha256", "unknown")),
        "git commit of the training": str(origin.get("git_commit", "unknown")),
        "versions": versions or "unknown",
    }


def _changed(run: RunDirectory) -> list[tuple[str, str, str]]:
    """Settings of the training that are not the defaults, with both."""
    ours, defaults = (settings_of(config, TRAINING_SECTIONS) for config in (run.config(), Config()))
    return [(path, str(value), str(defaults[path])) for path, value in ours.items() if value != defaults[path]]
