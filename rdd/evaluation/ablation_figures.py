"""Figures of an ablation: its table as a picture, and bars of AUC."""

from collections.abc import Sequence

import numpy as np

from rdd.evaluation.ablation_table import HEADER, Row, cells, note
from rdd.evaluation.figures import new_figure, png


def as_png(rows: Sequence[Row], baseline: str) -> bytes:
    """The table as a picture, rows as columns so that it is not too wide to read."""
    columns = [cells(row) for row in rows]
    figure = new_figure(2.2 + 2.0 * len(rows), 0.32 * len(HEADER) + 0.9)
    axes = figure.add_subplot()
    axes.set_axis_off()
    table = axes.table(
        cellText=[[column[line] for column in columns] for line in range(1, len(HEADER))],
        rowLabels=list(HEADER[1:]),
        colLabels=[column[0] for column in columns],
        cellLoc="center",
        loc="center",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    table.scale(1, 1.5)
    for (line, _), cell in table.get_celld().items():
        cell.set_edgecolor("0.6")
        if line == 0:
            cell.set_text_props(weight="bold")
    figure.text(0.01, 0.01, note(rows, baseline).replace("`", ""), fontsize=7, wrap=True)
    return png(figure)


def auc_bars(rows: Sequence[Row]) -> bytes:
    """AUC of each row with its interval, the paper's Figure 1 with what it lacks."""
    figure = new_figure(1.6 + 1.25 * len(rows), 4.6)
    axes = figure.add_subplot()
    places = np.arange(len(rows))
    values = np.array([row.auroc for row in rows])
    lows = np.array([row.auroc_interval[0] if row.auroc_interval else row.auroc for row in rows])
    highs = np.array([row.auroc_interval[1] if row.auroc_interval else row.auroc for row in rows])
    axes.bar(places, values, color="0.8", edgecolor="black", width=0.6)
    errors = np.clip(np.stack([values - lows, highs - values]), 0, None)
    axes.errorbar(places, values, yerr=errors, fmt="none", ecolor="black", capsize=6)
    bottom = max(0.0, lows.min() - 0.15 * max(1 - lows.min(), 1e-4))
    top = highs.max() + 0.12 * (highs.max() - bottom)
    for place, value, high in zip(places, values, highs, strict=True):
        axes.text(place, high + 0.015 * (top - bottom), f"{value:.4f}", ha="center", va="bottom", fontsize=8)
    axes.set_xticks(places, [row.name.replace("_", "\n") for row in rows])
    axes.set(
        ylabel="test AUC with 95 % interval (axis cut off below)", ylim=(bottom, top), title=f"AUC, {rows[0].seeds} seeds each"
    )
    axes.ticklabel_format(axis="y", useOffset=False)
    return png(figure)
