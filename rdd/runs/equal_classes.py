"""The part of an audit that looks at pixels: copies that make the classes equal, and who can still tell them apart on these."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from rdd import storage
from rdd.config import AuditConfig, Config
from rdd.detector import Detector
from rdd.encoder_identity import differences
from rdd.evaluation.equal_classes import EqualClasses, falls, probe_rows
from rdd.evaluation.pairing import common_images, common_order
from rdd.evaluation.robustness import CLEAN, CopyRow, copy_rows
from rdd.features import FeatureTable
from rdd.features.feature_set import FeatureSet
from rdd.features.image_facts import ImageFacts, read_facts
from rdd.features.manifest import degradation_of, encoder_of
from rdd.features.node_map import map_folder
from rdd.runs.copies import among, check_classes, check_detector, check_embedding, check_kept, keys_of, scored_copy
from rdd.runs.directory import RunDirectory

logger = logging.getLogger(__name__)

EmbedCopy = Callable[[str, list[str]], str]
"""Takes the name of a copy and its transforms; returns the directory of its finished features."""

_AT_A_TIME = 8192


def check_equal_classes(config: Config, features: FeatureSet) -> Detector | None:
    """Refuse a request that would fail later, before any copy is embedded.

    Returns:
        The detector of ``evaluate.run``; None where none is named.

    Raises:
        ValueError: the request is wrong, or the features are of images that are degraded already.
    """
    check_embedding(config, "audit.pixels embeds copies of its own")
    if (how := degradation_of(features.manifest)) != "none":
        raise ValueError(
            f"features.path must name features of images as they are when audit.pixels is true, got {features.name} with {how}"
        )
    clip, held = config.clip, encoder_of(features.manifest)
    known = {"model": clip.model, "normalized": clip.normalize, "precision": clip.precision}  # without a look at weights
    here = {name: value for name, value in known.items() if held.get(name) is not None}
    _refuse_other_encoder(features, differences({name: held[name] for name in here}, here))
    features.layout(config.features.inputs, text=False)  # refuses what the features do not hold
    check_kept(config, config.features.inputs, "the probe (features.inputs)")
    if not config.evaluate.run:
        return None
    place = RunDirectory(config.evaluate.run).detector
    if not storage.exists(storage.join(place, "detector.json")):
        raise ValueError(
            "evaluate.run must name a run with a detector when audit.pixels is true, or nothing ('') for the probe alone, got "
            f"{config.evaluate.run}"
        )
    detector = Detector.load(place)
    detector.check_encoder(features.manifest["encoder"])
    features.layout(list(detector.inputs), text=False)
    check_detector(config, detector)
    return detector


def equal_classes(config: Config, features: FeatureSet, detector: Detector | None, embed: EmbedCopy) -> EqualClasses:
    """Embed a copy for each treatment and see what detector and probe make of it.

    Args:
        config: the request.
        features: of the images as they are.
        detector: which; None for the probe alone.
        embed: makes a copy, unless it is there.

    Raises:
        ValueError: the copies are not of the same encoder and records as the features.
        RuntimeError: an embedding failed; those before it are kept.
    """
    copies: dict[str, str] = {}
    treatments = config.audit.treatments
    for number, (name, degrade) in enumerate(treatments.items(), start=1):
        logger.info("copy %d of %d: %s (%s)", number, len(treatments), name, ", ".join(degrade))
        copies[name] = embed(name, degrade)
        table = FeatureTable.load(copies[name], inputs=config.features.inputs, text=False)
        _check_copy(features, table)
    records = table.record_ids
    rows, detector_images = _detector_rows(config, detector, copies, records) if detector else ({}, 0)
    probe, probe_images, left_out = _probe(config, copies, records)
    sizes = read_facts(
        [member.path for member in features.members], ["widths", "heights"], **drawn_share(features, config.audit)
    )
    return EqualClasses(
        detector=rows,
        probe=probe,
        detector_images=detector_images,
        probe_images=probe_images,
        left_out=left_out,
        enlarged=_enlarged(sizes, config.audit.cropped_to),
    )


def drawn_share(features: FeatureSet, config: AuditConfig) -> dict[str, Any]:
    """Arguments of :func:`rdd.features.image_facts.read_facts` that draw about ``audit.max_images`` images."""
    return {"share": min(1.0, config.max_images / features.manifest["images"]), "seed": config.seed}


def _check_copy(clean: FeatureSet, copy: FeatureTable) -> None:
    """Refuse a copy that can not be compared with the clean images, before the next one is embedded."""
    _refuse_other_encoder(clean, differences(encoder_of(clean.manifest), encoder_of(copy.manifest)))
    generated = int(copy.labels.sum())
    if generated in (0, len(copy)):
        raise ValueError(
            f"the copies must hold both classes, got {len(copy) - generated} real and {generated} generated images; where "
            "records are sorted by class, the first embed.limit of them may be of one, and 0 takes all"
        )


def _refuse_other_encoder(clean: FeatureSet, different: Mapping[str, tuple[Any, Any]]) -> None:
    if different:
        what = ", ".join(f"{name} {ours!r} there and {theirs!r} here" for name, (ours, theirs) in different.items())
        raise ValueError(f"section clip must name the encoder that {clean.name} was embedded with, got {what}")


def _detector_rows(
    config: Config, detector: Detector, copies: Mapping[str, str], records: pa.StringArray
) -> tuple[dict[str, CopyRow], int]:
    """A line a treatment, and how many images are in it."""
    scored = {CLEAN: scored_copy(config, detector, config.features.path, only=records)}
    scored |= {name: scored_copy(config, detector, path) for name, path in copies.items()}
    common, left_out = common_images(scored)
    check_classes(common[CLEAN], left_out)
    clean, options = common.pop(CLEAN), config.audit
    threshold = detector.calibration.threshold
    rows = copy_rows(clean, common, threshold=threshold, resamples=options.resamples, seed=options.seed)
    return rows, len(clean.logits)


def _probe(config: Config, copies: Mapping[str, str], records: pa.StringArray) -> tuple[dict[str, Any], int, int]:
    """A line a treatment, how many images are in it, and how many some copy lacks."""
    inputs, clean = config.features.inputs, config.features.path
    tables = {CLEAN: FeatureTable.load(clean, inputs=inputs, text=False, shared=map_folder())}
    tables |= {name: FeatureTable.load(path, inputs=inputs, text=False) for name, path in copies.items()}
    images = {name: among(torch.arange(len(table)), table, records) for name, table in tables.items()}
    orders, record_of, left_out = common_order({name: keys_of(table, images[name]) for name, table in tables.items()})
    chosen = _drawn(record_of, config.audit)
    common = {name: images[name][torch.from_numpy(orders[name][chosen])] for name in tables}
    labels = tables[CLEAN].labels[common[CLEAN]].numpy()
    if len(counts := np.unique(labels)) < 2:
        raise ValueError(f"both classes must be present in every copy, got images of label {counts.tolist()} in common")
    features = {name: _features(table, common[name]) for name, table in tables.items()}
    return probe_rows(features, labels, record_of[chosen], config.audit), len(chosen), left_out


def _drawn(record_of: np.ndarray, config: AuditConfig) -> np.ndarray:
    """``(n,)`` positions of images of whole records, about ``audit.max_images`` of them."""
    share = min(1.0, config.max_images / max(1, len(record_of)))
    kept = np.random.default_rng(config.seed).permutation(record_of.max(initial=-1) + 1)
    return np.flatnonzero(np.isin(record_of, kept[: round(share * len(kept))]))


def _features(table: FeatureTable, images: torch.Tensor) -> np.ndarray:
    """``(N, width)`` float32."""
    batches = table.batches(list(images.split(_AT_A_TIME)), "none")
    return np.concatenate([batch.features.numpy().copy() for batch in batches])  # the next batch overwrites this one


def _enlarged(images: ImageFacts, side: int) -> dict[str, str] | None:
    width, height = (images.facts[name].combine_chunks() for name in ("width", "height"))
    known = np.asarray(width.is_valid()) & np.asarray(height.is_valid())
    if not known.any():
        return None
    shorter = np.minimum(*(np.asarray(of.cast(pa.int64()).fill_null(0)) for of in (width, height)))
    small = {
        name: (int((shorter < side)[known & (images.labels == label)].sum()), int((known & (images.labels == label)).sum()))
        for label, name in enumerate(("real", "generated"))
    }
    return {name: f"{few} of {of}" for name, (few, of) in small.items()}


def metrics_of(equal: EqualClasses) -> dict[str, float]:
    """For MLflow, by treatment: AUC and difference of detector and probe, and the ends of their intervals."""
    numbers: dict[str, float | None] = {}
    for who, rows in (("detector", equal.detector), ("probe", equal.probe)):
        for name, row in rows.items():
            place = f"audit/{name}_{who}_auroc"
            value, ends = _difference(row)
            numbers |= {place: row.auroc, f"{place}_difference": value}
            for of, bounds in ((place, row.auroc_interval), (f"{place}_difference", ends)):
                numbers |= {} if bounds is None else {f"{of}_low": bounds[0], f"{of}_high": bounds[1]}
    return {name: value for name, value in numbers.items() if value is not None}


def _difference(row: Any) -> tuple[float | None, list[float] | None]:
    if not isinstance(row, CopyRow):
        return row.difference, row.difference_interval
    return (None, None) if row.difference is None else (row.difference.value, row.difference.interval)


def headline(equal: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of what is written down, by treatment, what a summary says."""
    found: dict[str, dict[str, Any]] = {}
    for name, probe in equal["probe"].items():
        line = {"probe_auroc": probe["auroc"], "probe_difference": probe["difference"]}
        line["probe_difference_interval"] = probe["difference_interval"]
        if equal["detector"]:
            row = equal["detector"][name]
            less = row["difference"] or {"value": None, "interval": None}
            line |= {"detector_auroc": row["auroc"], "detector_difference": less["value"]}
            line["detector_difference_interval"] = less["interval"]
        found[name] = {key: value for key, value in line.items() if name != CLEAN or key.endswith("auroc")}
    return found


def warn_of_falls(equal: EqualClasses, config: AuditConfig) -> None:
    """Say on which treatments the detector falls beyond chance, and whether the probe does."""
    for name, row in falls(equal.detector).items():
        assert row.difference is not None
        probe = equal.probe[name]
        logger.warning(
            "with every image treated alike (%s) the detector's AUC is %.3f, %+.3f against clean images; a probe that is "
            "fitted to them has %.3f, %+.3f",
            ", ".join(config.treatments[name]),
            row.auroc,
            row.difference.value,
            probe.auroc,
            probe.difference,
        )
