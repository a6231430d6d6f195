"""Whether a detector's conformal sets cover a test part as often as they were made to: a check that it is like validation."""

import logging
from typing import Any

import numpy as np
from scipy import special

from rdd.bands import Bands, ConformalSet, least_rate
from rdd.evaluation.draws import drawn_means
from rdd.evaluation.means import Column
from rdd.evaluation.scores import Scored
from rdd.evaluation.verdicts import with_intervals

logger = logging.getLogger(__name__)

CLASSES = ("real", "generated")


def coverage(scored: Scored, bands: Bands, *, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    """How often the sets hold the class of an image, for each class.

    Args:
        scored: logits; both classes must be present.
        bands: with the sets, fixed elsewhere.
        resamples: bootstrap resamples of records.
        seed: of the resamples.

    Returns:
        By level: of each class ``<class>_coverage`` with its interval (95 %, by records), ``<class>_expected`` (where 95 % of
        such coverages lie if the images are like those of validation: validation and this part are both finite) and
        ``<class>_as_calibrated`` (whether it is not below that); the shares of sets that hold ``both_classes`` or
        ``no_class``, with the classes weighed equally and intervals.
    """
    of_class = {name: scored.labels == label for label, name in enumerate(CLASSES)}
    columns: dict[str, Column] = {}
    for one in bands.conformal:
        holds = {"real": scored.logits < one.real_below, "generated": scored.logits > one.generated_above}
        for name, images in of_class.items():
            columns[f"{one.level}/{name}"] = Column(holds[name], images)
            columns[f"{one.level}/{name}/both"] = Column(holds["real"] & holds["generated"], images)
            columns[f"{one.level}/{name}/none"] = Column(~holds["real"] & ~holds["generated"], images)
    if not columns:
        return {}
    means = drawn_means(scored, columns, resamples=resamples, seed=seed)
    records = [len(np.unique(scored.records[images])) for images in of_class.values()]
    return {str(one.level): _at(one, bands, means, records) for one in bands.conformal}


def _at(
    one: ConformalSet, bands: Bands, means: tuple[dict[str, np.ndarray], dict[str, np.ndarray]], records: list[int]
) -> dict[str, Any]:
    def rates(of: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes = {"both_classes": "both", "no_class": "none"}
        return {f"{name}_coverage": of[f"{one.level}/{name}"] for name in CLASSES} | {
            name: (of[f"{one.level}/real/{size}"] + of[f"{one.level}/generated/{size}"]) / 2 for name, size in sizes.items()
        }

    values, drawn = (rates(of) for of in means)
    counts = {f"{name}_coverage": count for name, count in zip(CLASSES, records, strict=True)}
    report = with_intervals(values, drawn, counts, fewest=min(records))
    calibrated_on = (bands.real_records, bands.generated_records)
    for name, test, validation in zip(CLASSES, records, calibrated_on, strict=True):
        expected = expected_coverage(one.level, validation_records=validation, test_records=test)
        report[f"{name}_expected"] = expected
        report[f"{name}_as_calibrated"] = report[f"{name}_coverage"] >= expected[0]
    return report


def expected_coverage(level: float, *, validation_records: int, test_records: int) -> list[float]:
    """Where 95 % of the coverages found lie when test records are like those of validation.

    With an image a record the coverage of a set has a Beta distribution over validation parts, and the one that is found in a
    finite test part a beta-binomial one. Images of a record are taken for one, which makes the range wider than it need be.

    Args:
        level: of the set, in (0, 1).
        validation_records: R that it was fixed on; a level above R / (R + 1) counts as that, see :func:`rdd.bands.edge_at`.
        test_records: at least 1.

    Reference:
        Vovk, Conditional validity of inductive conformal predictors (2012), for the Beta distribution.

    Example:
        >>> expected_coverage(0.9, validation_records=99, test_records=1000)
        [0.831, 0.953]
    """
    rate = max(1 - level, least_rate(validation_records))
    beyond = max(1, int(np.floor(rate * (validation_records + 1) + 1e-9)))
    within, counts = validation_records + 1 - beyond, np.arange(test_records + 1)
    ways = -special.betaln(counts + 1, test_records - counts + 1) - np.log(test_records + 1)
    chances = np.exp(ways + special.betaln(counts + within, test_records - counts + beyond) - special.betaln(within, beyond))
    return [float(np.searchsorted(np.cumsum(chances), share) / test_records) for share in (0.025, 0.975)]


def warn_of_other_images(report: dict[str, dict[str, Any]], what: str) -> None:
    """Say of each class whose images are covered less often than is to be expected if they are like those of validation."""
    for name in CLASSES:
        for level, row in report.items():
            if not row[f"{name}_as_calibrated"]:
                low, high = row[f"{name}_expected"]
                logger.warning(
                    "%s: sets at level %s hold the class of a share %.3f of the %s images, and %.3f to %.3f is to be expected "
                    "if they are like those of validation; if they are not, stated rates and probabilities do not hold here",
                    *(what, level, row[f"{name}_coverage"], name, low, high),
                )
                break  # once a class
