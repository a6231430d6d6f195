"""The leak audit as a stage of its own, and what every training says of leaks in its features."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rdd import storage
from rdd.config import AuditConfig, Config
from rdd.config.stages import audit_stage
from rdd.evaluation.audit import Finding, as_markdown, as_numbers, audit, columns_needed, findings_of, red_leaks
from rdd.evaluation.duplicates import NearDuplicates, as_sentences, compared_feature, near_duplicates, same_files
from rdd.evaluation.equal_classes import as_markdown as equal_as_markdown
from rdd.evaluation.leak_properties import PROPERTIES, Property
from rdd.feature_names import TEXTS
from rdd.features import FeatureTable
from rdd.features.feature_set import FeatureSet, identity_if_there
from rdd.features.image_facts import ImageFacts, read_facts
from rdd.features.node_map import map_folder
from rdd.runs.equal_classes import (
    EmbedCopy,
    check_equal_classes,
    drawn_share,
    equal_classes,
    headline,
    metrics_of,
    warn_of_falls,
)
from rdd.runs.evaluate import detector_sha256
from rdd.runs.stage import begun, finished
from rdd.shapes import Shape
from rdd.tracking.run_metrics import rounded
from rdd.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

_OFFICIAL = "text_words_official"
"""The property that is a leak of the official text mode alone."""

_MADE: Shape = {"features": str, "properties": dict, "red": list}
"""Of an audit of a training, what another run takes."""

FILES = ("audit.json", "audit.md")
"""What an audit writes into the output directory of a stage."""


def run_audit(config: Config, embed: EmbedCopy) -> dict[str, Any]:
    """Audit ``features.path``; finished, say what there is.

    Args:
        config: the request.
        embed: with ``audit.pixels``, makes the copies.

    Returns:
        ``output``, counts, duplicates across splits, ``auroc`` of each property, and ``red``, the names of all red leaks; with
        ``audit.pixels`` also ``equal``, what detector and probe make of each treatment.

    Raises:
        ValueError: a path is not given, a part of the split lacks a class, or the copies can not be compared.
        RuntimeError: a file of features is damaged, or an embedding failed.
    """
    stage_of_it, output = audit_stage(config), storage.absolute(config.audit.output)
    looked_at = _looked_at(config)
    if (result := finished(stage_of_it, config)) is not None:
        if all(identity in ("", result[name]) for name, identity in looked_at.items()):
            return _summary(output, result)
        logger.info("the features or the detector have changed since: auditing again")
    features = FeatureSet.open(config.features.path)
    detector = check_equal_classes(config, features) if config.audit.pixels else None
    feature = compared_feature(features.manifest, config.features.inputs)
    table = FeatureTable.load(config.features.path, inputs=[feature], text=False, shared=map_folder())
    table.split(config.features, "train")  # refuses before any work if a part lacks a class
    with begun(stage_of_it, config, tags={"rdd.features_manifest_sha256": table.manifest_sha256}) as stage:
        findings, images = _audited(features, config.audit)
        same_file, near = _duplicates(config, features, table)
        result = looked_at | _result(findings, images) | {"duplicates": {"same_file": same_file, "near": asdict(near)}}
        page = as_markdown(findings, config.audit) + "\n" + as_sentences(same_file, near, cosine=config.audit.near)
        numbers = _metrics(findings) | _duplicate_metrics(same_file, near)
        del table
        if config.audit.pixels:
            equal = equal_classes(config, features, detector, embed)
            warn_of_falls(equal, config.audit)
            result |= {"equal": equal.to_json()}
            page += "\n" + equal_as_markdown(equal, config.audit, f"{config.evaluate.part} of {config.evaluate.run}")
            numbers |= metrics_of(equal)
        _keep(stage.tracker, findings, numbers, page, output)
        stage.finish(result)
        stage.tracker.artefacts(output, "audit", only=FILES)
    return _summary(output, result)


def _looked_at(config: Config) -> dict[str, str]:
    """What is audited; features embedded anew and a detector trained anew have another identity; "" where one is gone."""
    looked_at = {"features": identity_if_there(config.features.path) or ""}
    if config.audit.pixels:
        looked_at["detector"] = detector_sha256(config.evaluate.run) if config.evaluate.run else ""
    return looked_at


def audit_training(config: Config, output: str, text_mode: str, tracker: Tracker, *, made_in: str | None = None) -> None:
    """Look for leaks in the features of a training, once; log them, and warn of the red ones.

    Args:
        config: of the training.
        output: its run directory; gets ``audit/``.
        text_mode: of the training; under official the words of the captions are part of what the head sees, and without text
            CLIP's features of the captions are not read.
        tracker: of its MLflow run.
        made_in: directory of several runs on the same features, such as the folds of a cross-validation: the first of them
            makes the audit there, and the others take it.

    Raises:
        RuntimeError: a file of features is damaged.
    """
    folder = storage.join(output, "audit")
    if storage.exists(storage.join(folder, "audit.json")):  # a run that goes on has said so
        return
    features = FeatureSet.open(config.features.path)
    result = _made(made_in, features)
    if result is None:
        properties = [one for one in PROPERTIES if text_mode != "none" or set(TEXTS).isdisjoint(one.columns)]
        findings, images = _audited(features, config.audit, properties)
        _warn(findings, text_mode)
        result = _result(findings, images) | {"features": features.identity}
        if made_in is not None:
            storage.write_json(storage.join(made_in, "audit", "audit.json"), result)
    findings = findings_of(result["properties"])
    _keep(tracker, findings, _metrics(findings), as_markdown(findings, config.audit), folder)
    storage.write_json(storage.join(folder, "audit.json"), result)
    tracker.artefacts(folder, "audit", only=FILES)


def _made(made_in: str | None, features: FeatureSet) -> dict[str, Any] | None:
    """What an earlier run has found in the same features; None where there is none."""
    place = storage.join(made_in, "audit", "audit.json") if made_in is not None else ""
    if not place or not storage.exists(place):
        return None
    result = storage.read_json(place, _MADE, way_out=f"delete {place} to make it anew")
    return result if result["features"] == features.identity else None


def _audited(
    features: FeatureSet, config: AuditConfig, properties: Sequence[Property] = PROPERTIES
) -> tuple[list[Finding], ImageFacts]:
    paths = [member.path for member in features.members]
    images = read_facts(paths, columns_needed(properties), **drawn_share(features, config))
    return audit(images, config, properties), images


def _result(findings: Sequence[Finding], images: ImageFacts) -> dict[str, Any]:
    return {
        "red": red_leaks(findings),
        "properties": as_numbers(findings),
        "records": len(images.record_ids),
        "images": len(images),
    }


def _duplicates(config: Config, features: FeatureSet, table: FeatureTable) -> tuple[int | None, NearDuplicates]:
    hashes = read_facts([member.path for member in features.members], ["content_hashes"])
    near = near_duplicates(
        table, config.features, cosine=config.audit.near, images=config.audit.near_images, seed=config.audit.seed
    )
    return same_files(hashes, config.features), near


def _keep(tracker: Tracker, findings: Sequence[Finding], numbers: Mapping[str, float], page: str, folder: str) -> None:
    """The page beside the result, and its numbers in MLflow."""
    storage.write_bytes(storage.join(folder, "audit.md"), page.encode())
    tracker.metrics(rounded(numbers), step=0)
    tracker.tags({"rdd.red_leaks": ", ".join(red_leaks(findings)) or "none"})


def _metrics(findings: Sequence[Finding]) -> dict[str, float]:
    """The AUC of each property, the ends of its interval as metrics of their own."""
    numbers: dict[str, float] = {"audit/red_leaks": len(red_leaks(findings))}
    for one in findings:
        if one.auroc is not None:
            numbers[f"audit/{one.name}_auroc"] = one.auroc
        if one.interval is not None:
            numbers |= {
                f"audit/{one.name}_auroc_{end}": bound for end, bound in zip(("low", "high"), one.interval, strict=True)
            }
    return numbers


def _duplicate_metrics(same_file: int | None, near: NearDuplicates) -> dict[str, float]:
    numbers: dict[str, float] = {"audit/near_duplicates": near.images, "audit/near_duplicates_compared": near.compared}
    return numbers | ({} if same_file is None else {"audit/same_files": same_file})


def _warn(findings: Sequence[Finding], text_mode: str) -> None:
    by_name = {one.name: one for one in findings}
    if red := [f"{name} {by_name[name].auroc:.3f}" for name in red_leaks(findings) if name != _OFFICIAL]:
        logger.warning(
            "without a look at pixels, real and generated images are told apart by %s (AUC of each alone); what the detector "
            "finds may be owed to that, see audit/audit.md in the run directory",
            ", ".join(red),
        )
    if text_mode == "official":
        words = by_name[_OFFICIAL].auroc
        told = "of unknown AUC, since these features hold no captions" if words is None else f"with AUC {words:.3f}"
        logger.warning(
            "features.text_mode official gives real and generated images different prompts, whose words alone tell them apart "
            "%s; the other modes do not leak the label in this way",
            told,
        )


def _summary(output: str, result: dict[str, Any]) -> dict[str, Any]:
    duplicates = result["duplicates"]
    return {
        "output": output,
        "records": result["records"],
        "images": result["images"],
        "same_files_across_splits": duplicates["same_file"],
        "near_duplicates_across_splits": duplicates["near"]["images"],
        "near_duplicates_compared": duplicates["near"]["compared"],
        "auroc": {name: one["auroc"] for name, one in result["properties"].items() if one["auroc"] is not None},
        **({"equal": headline(result["equal"])} if "equal" in result else {}),
        "red": result["red"],
    }
