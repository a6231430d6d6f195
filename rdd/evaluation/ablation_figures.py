"""Figures of an ablation: its table as a picture, and bars of AUC."""

from collections.abc import Sequence

import numpy as np

from rdd.evaluation.ablation_table import COLUMNS, Row, note
from rdd.evaluation.figures import ORANGE, SKY, new_figure, plain_text, png


def as_png(rows: Sequence[Row], baseline: str) -> bytes:
    """The table as a picture, rows as columns so that it is not too wide to read."""
    texts = [[plain_text(column.text(row)) for row in rows] for column in COLUMNS]
    figure = new_figure(2.2 + 2.0 * len(rows), 0.32 * len(COLUMNS) + 0.9)
    axes = figure.add_subplot()
    axes.set_axis_off()
    table = axes.table(
        cellText=texts[1:],
        rowLabels=[column.header for column in COLUMNS[1:]],
        colLabels=texts[0],
        cellLoc="center",
        loc="center",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    table.scale(1, 1.5)
    for (line, column), cell in table.get_celld().items():
        cell.set_edgecolor("0.6")
        if line == 0:
            cell.set_text_props(weight="bold")
        if column >= 0 and rows[column].name == baseline:
            cell.set_facecolor("#FFF1D6")
    figure.text(0.01, 0.01, note(rows, baseline).replace("`", ""), fontsize=7, wrap=True)
    return png(figure)


def auc_bars(rows: Sequence[Row], baseline: str) -> bytes:
    """Bars of the AUC of each row, as in the paper's Figure 1, with the 95 % intervals that the paper does not give."""
    figure = new_figure(1.6 + 1.25 * len(rows), 4.6)
    axes = figure.add_subplot()
    places = np.arange(len(rows))
    values = np.array([row.auroc for row in rows])
    lows = np.array([row.auroc_interval[0] if row.auroc_interval else row.auroc for row in rows])
    highs = np.array([row.auroc_interval[1] if row.auroc_interval else row.auroc for row in rows])
    for place, row in zip(places, rows, strict=True):
        color, hatch = (ORANGE, "") if row.name == baseline else (SKY, "//")
        axes.bar(place, row.auroc, color=color, hatch=hatch, edgecolor="black", width=0.6)
    errors = np.clip(np.stack([values - lows, highs - values]), 0, None)
    axes.errorbar(places, values, yerr=errors, fmt="none", ecolor="black", capsize=6)
    bottom = max(0.0, lows.min() - 0.15 * max(1 - lows.min(), 1e-4))
    top = highs.max() + 0.12 * (highs.max() - bottom)
    for place, value, high in zip(places, values, highs, strict=True):
        axes.text(place, high + 0.015 * (top - bottom), f"{value:.4f}", ha="center", va="bottom", fontsize=8)
    names = [row.name if row.same_as is None else f"{row.name}\n(is {row.same_as})" for row in rows]
    axes.set_xticks(places, [name.replace("_", "\n") if len(name) > 12 else name for name in names], fontsize=8)
    axes.set(ylabel="test AUC with 95 % interval (axis cut off below)", ylim=(bottom, top))
    axes.set_title(f"AUC of each row, mean over {rows[0].seeds} seeds")
    axes.ticklabel_format(axis="y", useOffset=False)
    return png(figure)
