"""Metrics of a set of logits: overall, by generator and family, at a stored threshold, with intervals."""

from typing import Any

import numpy as np

from rdd.bands import Bands
from rdd.calibration import Calibration
from rdd.evaluation import groups as of_groups
from rdd.evaluation.bootstrap import interval, rate_interval, share_interval
from rdd.evaluation.coverage import coverage
from rdd.evaluation.curve import CURVE_METRICS, RecordWeightedCurve
from rdd.evaluation.draws import Draws, draw
from rdd.evaluation.groups import Groups, Known
from rdd.evaluation.means import Column, RecordWeightedMeans
from rdd.evaluation.precision import PREVALENCE, precision_at, precision_interval
from rdd.evaluation.probabilities import columns_of, debiased_error, gaps
from rdd.evaluation.reliability import reliability
from rdd.evaluation.scores import Scored
from rdd.evaluation.verdicts import verdicts
from rdd.metrics import auroc


def evaluate(
    scored: Scored, *, calibration: Calibration, resamples: int, seed: int, known: Known | None = None
) -> dict[str, Any]:
    """Everything that is reported of a test set.

    Args:
        scored: its logits; both classes must be present.
        calibration: of the detector, fixed elsewhere: its threshold and its probabilities.
        resamples: bootstrap resamples of records.
        seed: of the resamples.
        known: families of generators, and those that the detector has seen; by default nothing is known.

    Returns:
        Numbers, each ``<name>`` with ``<name>_interval`` (95 %, by records; null where there is nothing to draw from):
        ``auroc`` (where no pair is mis-ranked, a one-sided bound and 1) with ``misranked_pairs`` of ``pairs``,
        ``average_precision``, ``tpr_at_1_percent_fpr`` (null where the real images do not resolve it),
        ``fpr_at_95_percent_tpr``, ``equal_error_rate``; at ``threshold`` ``real_accuracy``, ``generated_accuracy``,
        ``true_positive_rate``, ``false_positive_rate``, ``balanced_accuracy``, ``precision_at_1_percent_generated``; of the
        probabilities, with the classes weighed equally, ``nll``, ``brier``, ``calibration_error`` (debiased) with its bins in
        ``reliability``; ``bands`` (null of a detector without) and ``coverage`` of its conformal sets by level.
        ``by_generator`` and ``by_family`` (each against all real images), ``novelty`` (seen and unseen generators apart, or
        ``all`` where that is not known: pooled AUC, mean and worst), ``worst_generator``, counts. ``accuracy`` is that of the
        set's own share of generated images.

    Raises:
        ValueError: a class is absent.
    """
    overall = auroc(scored.logits, scored.labels)
    known = known or Known(families={}, seen=None)
    real = scored.labels == 0
    # neither the columns nor their sums are kept, which are as large as the set
    draws = draw(scored, RecordWeightedMeans(scored.records, _columns(scored, calibration)), resamples=resamples, seed=seed)
    names = list(scored.generated_by())
    everything = _groups(scored, {"all": names}, draws)
    generators = _groups(scored, {name: [name] for name in names}, draws)
    by_generator = _by_group(scored, generators, calibration.threshold)
    for name, row in by_generator.items():
        row |= {"family": known.family(name), "seen": None if known.seen is None else name in known.seen}
    correct = (scored.logits >= calibration.threshold) == ~real
    worst = of_groups.mean_and_worst(generators)
    return {
        "auroc": overall,
        "auroc_interval": of_groups.single_intervals(everything)[0],
        "misranked_pairs": float(draws.pairs[1, 0] - draws.pairs[0, 0]),
        "pairs": int(draws.pairs[1, 0]),
        "threshold": calibration.threshold,
        "accuracy": float(correct.mean()),
        **_with_intervals(scored, draws),
        "real_images": int(real.sum()),
        "generated_images": int((~real).sum()),
        "records": draws.records,
        "reliability": reliability(scored, calibration.log_odds(scored.logits), draws),
        **_of_bands(scored, calibration.bands, resamples=resamples, seed=seed),
        "by_generator": by_generator,
        "by_family": _by_group(scored, _groups(scored, _families(names, known), draws), calibration.threshold),
        "novelty": {part: _novelty(scored, some, draws) for part, some in of_groups.by_novelty(names, known).items()},
        "worst_generator": {"name": worst["worst"], "auroc": worst["worst_auroc"]}
        | {"auroc_interval": worst["worst_auroc_interval"]},
    }


def _families(names: list[str], known: Known) -> dict[str, list[str]]:
    """The generators of each family."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(known.family(name), []).append(name)
    return families


def _of_bands(scored: Scored, bands: Bands | None, *, resamples: int, seed: int) -> dict[str, Any]:
    """What a detector's bands and conformal sets do, where it has some."""
    if bands is None:
        return {"bands": None, "coverage": {}}
    drawing = {"resamples": resamples, "seed": seed}
    return {"bands": verdicts(scored, bands, **drawing), "coverage": coverage(scored, bands, **drawing)}


def _columns(scored: Scored, calibration: Calibration) -> dict[str, Column]:
    of_probabilities = columns_of(calibration.log_odds(scored.logits), scored.labels)
    called = (scored.logits >= calibration.threshold).astype(np.float64)
    rates = {"false_positive_rate": "nll_real", "true_positive_rate": "nll_generated"}
    return {name: Column(called, of_probabilities[same].images) for name, same in rates.items()} | of_probabilities


def _groups(scored: Scored, parts: dict[str, list[str]], draws: Draws) -> Groups:
    return of_groups.groups_of(scored, parts, draws.pairs, draws.drawn_pairs)


def _with_intervals(scored: Scored, draws: Draws) -> dict[str, Any]:
    """What is reported with an interval, besides the AUC."""
    records = {label: len(np.unique(scored.records[scored.labels == label])) for label in (0, 1)}
    fewest = min(records.values())

    def shares(values: dict[str, Any]) -> dict[str, Any]:
        tpr, fpr = values["true_positive_rate"], values["false_positive_rate"]
        return {
            "real_accuracy": (1 - fpr, records[0]),
            "generated_accuracy": (tpr, records[1]),
            "true_positive_rate": (tpr, records[1]),
            "false_positive_rate": (fpr, records[0]),
            "balanced_accuracy": ((tpr + 1 - fpr) / 2, fewest),
            **{name: (values[name], fewest) for name in CURVE_METRICS},
        }

    def losses(values: dict[str, Any]) -> dict[str, Any]:
        return {name: (values[f"{name}_real"] + values[f"{name}_generated"]) / 2 for name in ("nll", "brier")}

    report: dict[str, Any] = {}
    drawn = shares(draws.drawn)
    for name, (value, of) in shares({key: np.float64(one) for key, one in draws.values.items()}).items():
        is_null = bool(np.isnan(value))
        report[name] = None if is_null else float(value)
        between = None if fewest < 2 and 0 < value < 1 else _share_bounds(name, float(value), drawn[name][0], of)
        report[f"{name}_interval"] = None if is_null else between
    report |= _precision(draws, records)
    drawn_losses = losses(draws.drawn)
    for name, value in losses(draws.values).items():
        report |= {name: value, f"{name}_interval": None if fewest < 2 else interval(drawn_losses[name])}
    return report | _calibration_error(draws, drawable=fewest > 1)


def _precision(draws: Draws, records: dict[int, int]) -> dict[str, Any]:
    """What the verdict at the threshold means where few images are generated."""
    names = ("true_positive_rate", "false_positive_rate")
    precision = float(precision_at(PREVALENCE, *(draws.values[name] for name in names)))
    found, alarms = ((draws.values[name], draws.drawn[name], records[1 - number]) for number, name in enumerate(names))
    name = f"precision_at_{PREVALENCE * 100:g}_percent_generated"
    between = precision_interval(PREVALENCE, found, alarms)
    return {name: None if np.isnan(precision) else precision, f"{name}_interval": between}


def _share_bounds(name: str, value: float, drawn: np.ndarray, records: int) -> list[float] | None:
    bounds = share_interval if name == "average_precision" and value < 1 else rate_interval
    return bounds(value, drawn[~np.isnan(drawn)], records) if not np.isnan(drawn).all() else None


def _calibration_error(draws: Draws, *, drawable: bool) -> dict[str, Any]:
    """The debiased error and its interval; a draw adds its own deviation to that of the set, so twice the variance is taken."""
    gap, drawn = gaps({name: np.array([value]) for name, value in draws.values.items()}), gaps(draws.drawn)
    if not drawable:
        return {"calibration_error": float(np.abs(gap).sum()), "calibration_error_interval": None}
    deviation = np.nanstd(drawn, axis=0, ddof=1)
    value = float(debiased_error(gap, deviation)[0])
    bounds = interval(debiased_error(drawn, np.sqrt(2) * deviation))
    return {"calibration_error": value, "calibration_error_interval": bounds}


def _by_group(scored: Scored, groups: Groups, threshold: float) -> dict[str, dict[str, Any]]:
    """Of each group its metrics against all real images, with the AUC's interval on its own and together with the others."""
    together, single = of_groups.together(groups).intervals, of_groups.single_intervals(groups)
    real = scored.labels == 0
    real_accuracy = float((scored.logits[real] < threshold).mean())
    rows: dict[str, dict[str, Any]] = {}
    for number, (name, images) in enumerate(zip(groups.names, groups.images, strict=True)):
        keep = real | images
        curve = RecordWeightedCurve(scored.logits[keep], scored.labels[keep], scored.records[keep])
        values = curve(np.ones((1, curve.records), dtype=np.int32))[0].tolist()
        found = float((scored.logits[images] >= threshold).mean())
        rows[name] = {
            "auroc": float(groups.aurocs[number]),
            "auroc_interval": single[number],
            "auroc_simultaneous_interval": together[number],
            "true_positive_rate": found,
            "balanced_accuracy": (found + real_accuracy) / 2,
            **{key: None if np.isnan(value) else value for key, value in zip(CURVE_METRICS, values, strict=True)},
            "images": int(images.sum()),
        }
    return rows


def _novelty(scored: Scored, names: list[str], draws: Draws) -> dict[str, Any]:
    """Of some generators: all their images pooled, and the mean and the worst of them."""
    pooled = _groups(scored, {"pooled": names}, draws)
    each = _groups(scored, {name: [name] for name in names}, draws)
    return {
        "generators": len(names),
        "images": int(pooled.images[0].sum()),
        "auroc": float(pooled.aurocs[0]),
        "auroc_interval": of_groups.single_intervals(pooled)[0],
        **of_groups.mean_and_worst(each),
    }
