"""Curves of AUC over degraded copies, one panel a transform, as one picture."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rdd.evaluation.figures import BLUE, GREEN, VERMILLION, new_figure, plain_text, png
from rdd.evaluation.robustness import CLEAN, CopyRow

_COLUMNS = 3
_LONGEST_LABEL = 22


def robustness_figure(curves: Mapping[str, Sequence[str]], rows: Mapping[str, CopyRow], title: str) -> bytes:
    """A panel a curve, from the clean images on the left to the strongest copy, as PNG.

    AUC with its 95 % interval over all generators, AUC of the worst generator, and the rate of real images that the detector's
    threshold calls generated; all panels share their axes.

    Args:
        curves: by name, the copies of a curve from mild to strong.
        rows: by copy, ``clean`` among them.
        title: of the whole.
    """
    across = min(_COLUMNS, len(curves))
    down = math.ceil(len(curves) / across)
    figure = new_figure(4.3 * across, 3.1 * down + 0.9)
    panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for axes, (name, copies) in zip(panels, curves.items(), strict=False):
        _panel(axes, name, [rows[copy] for copy in (CLEAN, *copies)])
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    for axes in panels[: len(curves) : across]:
        axes.set_ylabel("AUC; share of the real images")
    figure.suptitle(plain_text(title, longest=90))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    return png(figure)


def _panel(axes: Any, name: str, rows: Sequence[CopyRow]) -> None:
    places = np.arange(len(rows))
    values = np.array([row.auroc for row in rows])
    bounds = np.array([row.auroc_interval or [row.auroc, row.auroc] for row in rows])
    errors = np.clip(np.stack([values - bounds[:, 0], bounds[:, 1] - values]), 0, None)
    axes.axhline(values[0], color="0.6", linewidth=1, linestyle=":")
    axes.errorbar(places, values, yerr=errors, color=BLUE, marker="o", capsize=4, label="AUC, 95 % interval")
    worst = [row.worst_generator_auroc for row in rows]
    axes.plot(places, worst, color=VERMILLION, marker="v", linestyle="--", label="AUC of the worst generator")
    false = [row.false_positive_rate for row in rows]
    axes.plot(places, false, color=GREEN, marker="s", linestyle="-.", markersize=4, label="real images called generated")
    texts = [plain_text(row.copy, longest=_LONGEST_LABEL).replace(", ", ",\n") for row in rows]
    axes.set_xticks(places, texts, fontsize=7, rotation=0 if len(rows) < 4 else 25, ha="center" if len(rows) < 4 else "right")
    axes.set(title=plain_text(name), ylim=(-0.03, 1.03), xlim=(-0.4, len(rows) - 0.6))
    axes.grid(axis="y", color="0.9")
