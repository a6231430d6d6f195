"""What a detector's bands do on a test part: how often it is uncertain, and how often wrong where it is not."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rdd.bands import Bands
from rdd.evaluation.bootstrap import rate_interval
from rdd.evaluation.draws import drawn_means
from rdd.evaluation.means import Column
from rdd.evaluation.precision import PREVALENCE, precision_at, precision_interval
from rdd.evaluation.scores import Scored


def verdicts(scored: Scored, bands: Bands, *, resamples: int, seed: int) -> dict[str, Any]:
    """The verdicts of some images.

    Args:
        scored: logits; both classes must be present.
        bands: fixed elsewhere.
        resamples: bootstrap resamples of records.
        seed: of the resamples.

    Returns:
        The two edges and what was stated of them; each with ``<name>_interval`` (95 %, by records; null where there is nothing
        to draw from): ``false_positive_rate`` (real images called likely generated), ``false_negative_rate`` (generated ones
        called likely real), ``real_uncertain``, ``generated_uncertain`` and their mean ``uncertain``; within a band, with the
        classes weighed equally, ``real_among_likely_generated`` and ``generated_among_likely_real`` (null where the band is
        empty), and ``precision_at_1_percent_generated`` of the verdict likely generated; ``by_generator`` the share of each
        verdict.
    """
    real, generated = scored.labels == 0, scored.labels == 1
    called = {"likely_generated": bands.likely_generated(scored.logits), "likely_real": bands.likely_real(scored.logits)}
    called["uncertain"] = ~(called["likely_generated"] | called["likely_real"])
    columns = {
        f"{kind}_{verdict}": Column(images, of)
        for kind, of in (("real", real), ("generated", generated))
        for verdict, images in called.items()
    }
    values, drawn = drawn_means(scored, columns, resamples=resamples, seed=seed)
    records = {label: len(np.unique(scored.records[scored.labels == label])) for label in (0, 1)}
    counts = {"false_positive_rate": records[0], "real_uncertain": records[0]}
    counts |= {"false_negative_rate": records[1], "generated_uncertain": records[1]}
    rows = with_intervals(_rates(values), _rates(drawn), counts, fewest=min(records.values()))
    stated = {
        "likely_real_to": bands.likely_real_to,
        "likely_generated_from": bands.likely_generated_from,
        "between": bands.between,
        "stated_false_positive_rate": bands.false_positive_rate,
        "stated_false_negative_rate": bands.false_negative_rate,
    }
    by_generator = {
        name: _shares_of(scored, images, called, resamples=resamples, seed=seed)
        for name, images in scored.generated_by().items()
    }
    return stated | rows | _meanings(values, drawn, records) | {"by_generator": by_generator}


def with_intervals(
    values: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray], records: Mapping[str, int], *, fewest: int
) -> dict[str, Any]:
    """Each rate with ``<name>_interval``.

    Args:
        values: by name, ``(1,)`` found; NaN is null.
        drawn: by name, ``(draws,)``.
        records: by name, those that a rate is of, where they are others than ``fewest``.
        fewest: of the two classes.
    """
    report: dict[str, Any] = {}
    for name, (value,) in values.items():
        of, draws = records.get(name, fewest), drawn[name][~np.isnan(drawn[name])]
        known = not np.isnan(value)
        drawable = known and len(draws) and (of > 1 or value in (0, 1))
        report[name] = float(value) if known else None
        report[f"{name}_interval"] = rate_interval(float(value), draws, of) if drawable else None
    return report


def _rates(means: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "false_positive_rate": means["real_likely_generated"],
        "false_negative_rate": means["generated_likely_real"],
        "real_uncertain": means["real_uncertain"],
        "generated_uncertain": means["generated_uncertain"],
        "uncertain": (means["real_uncertain"] + means["generated_uncertain"]) / 2,
    }


def _meanings(
    values: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray], records: Mapping[int, int]
) -> dict[str, float | list[float] | None]:
    """How often the verdict likely generated, or likely real, is right, each with its interval."""
    report: dict[str, float | list[float] | None] = {}

    def right(verdict: str, prevalence: float) -> tuple[float | None, list[float] | None]:
        label = int(verdict == "likely_generated")
        names = ("generated", "real") if label else ("real", "generated")
        columns = [f"{name}_{verdict}" for name in names]
        share = float(precision_at(prevalence, *(values[name] for name in columns))[0])
        found, alarms = (
            (float(values[name][0]), drawn[name], records[of]) for name, of in zip(columns, (label, 1 - label), strict=True)
        )
        return None if np.isnan(share) else share, precision_interval(prevalence, found, alarms)

    for name, verdict in (("real_among_likely_generated", "likely_generated"), ("generated_among_likely_real", "likely_real")):
        share, between = right(verdict, 0.5)
        report[name] = None if share is None else 1 - share
        report[f"{name}_interval"] = None if between is None else [1 - between[1], 1 - between[0]]
    name = f"precision_at_{PREVALENCE * 100:g}_percent_generated"
    report[name], report[f"{name}_interval"] = right("likely_generated", PREVALENCE)
    return report


def _shares_of(
    scored: Scored, images: np.ndarray, called: Mapping[str, np.ndarray], *, resamples: int, seed: int
) -> dict[str, Any]:
    """Share of each verdict among the images of one generator, by draws of its own records."""
    own = scored.of(images)
    everything = np.ones(len(own.logits), dtype=bool)
    columns = {verdict: Column(of[images], everything) for verdict, of in called.items()}
    values, drawn = drawn_means(own, columns, resamples=resamples, seed=seed)
    return with_intervals(values, drawn, {}, fewest=len(np.unique(own.records))) | {"images": len(own.logits)}
