"""Figures of a sweep: validation AUC by parameter, parallel coordinates, heat maps, importance."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rdd import storage
from rdd.evaluation.figures import BLUE, SKY, VERMILLION, new_figure, png, save_figure


@dataclass(frozen=True)
class Point:
    """A trial that did not fail."""

    values: dict[str, Any]
    """By dotted path, what was drawn."""
    auroc: float
    """Its best validation AUC."""
    whole: bool
    """Whether it was trained to its end, not stopped early."""


_PAIRS = (("loss.alpha", "loss.gamma"), ("loss.p", "sam.rho"))
_BINS = 5
_OF_THE_BEST = (
    '<p style="font-family: sans-serif">The best trial, trained by <code>python jobs/train.py --config best.yaml</code>: '
    '<a href="../best/report.html">its report</a>, once it is there.</p>'
)
"""From the folder of the figures of a sweep, whose ``best.yaml`` names that run directory."""


def write_sweep_figures(folder: str, points: Sequence[Point]) -> None:
    """Write the figures that the trials allow.

    Importance needs two trials that differ; a heat map needs both of its parameters and a trial that was trained to its end.

    Args:
        folder: where to.
        points: trials that did not fail.
    """
    paths = sorted({path for point in points for path in point.values})
    save_figure(storage.join(folder, "parameters.png"), lambda: parameters_figure(points, paths))
    save_figure(storage.join(folder, "parallel.html"), lambda: parallel_page(points, paths).encode())
    for first, second in _PAIRS:
        if first in paths and second in paths and any(point.whole for point in points):
            name = f"{first.split('.')[1]}_{second.split('.')[1]}.png"
            save_figure(storage.join(folder, name), partial(heat_map, points, first, second))
    if shares := importance(points, paths):
        save_figure(storage.join(folder, "importance.png"), lambda: importance_figure(shares))


def parameters_figure(points: Sequence[Point], paths: Sequence[str]) -> bytes:
    """Validation AUC of each trial against each parameter."""
    columns = min(len(paths), 2)
    rows = math.ceil(len(paths) / columns)
    figure = new_figure(4.2 * columns, 3.4 * rows)
    styles = (
        (True, {"marker": "o", "color": BLUE, "label": "trained to the end"}),
        (False, {"marker": "x", "color": VERMILLION, "label": "stopped early"}),
    )
    for number, path in enumerate(paths):
        axes = figure.add_subplot(rows, columns, number + 1)
        for whole, style in styles:
            shown = [point for point in points if point.whole == whole]
            places = [point.values[path] for point in shown], [point.auroc for point in shown]
            axes.plot(*places, linestyle="none", **style)
        if _spans_decades([point.values[path] for point in points]):
            axes.set_xscale("log")
        axes.set(xlabel=path, ylabel="best validation AUC")
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.margins(0.08)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    return png(figure)


def parallel_page(points: Sequence[Point], paths: Sequence[str]) -> str:
    """Parallel coordinates of all trials: one HTML file that needs nothing else.

    Lines are coloured by the rank of their AUC, so that neighbouring trials differ in colour however close their AUCs are.
    """
    import plotly.graph_objects as go

    aurocs = [point.auroc for point in points]
    ranked = sorted(points, key=lambda point: point.auroc)  # the best is drawn last, on top
    dimensions = [_dimension(path, [point.values[path] for point in ranked]) for path in paths]
    ends = ["to the end" if point.whole else "stopped early" for point in ranked]
    dimensions.append(_dimension("trained", ends))
    dimensions.append({"label": "validation AUC", "values": sorted(aurocs)})
    last = max(len(points) - 1, 1)
    shown = sorted({0, last // 2, len(points) - 1})
    bar = {
        "title": {"text": "rank: AUC"},
        "tickvals": shown,
        "ticktext": [f"{len(points) - rank}: {ranked[rank].auroc:.4f}" for rank in shown],
    }
    # the palest fifth of the scale, which would hardly be seen, is left out
    scale = {"colorscale": "Viridis", "reversescale": True, "cmin": -0.25 * last, "cmax": last}
    line = {"color": list(range(len(points)))} | scale
    figure = go.Figure(go.Parcoords(line=line | {"showscale": True, "colorbar": bar}, dimensions=dimensions))
    figure.update_layout(title={"text": f"{len(points)} trials"}, font={"size": 14}, margin={"l": 90, "r": 60, "t": 110})
    page = figure.to_html(include_plotlyjs=True, full_html=True)
    return page.replace("</body>", f"{_OF_THE_BEST}</body>")


def _dimension(path: str, values: list[Any]) -> dict[str, Any]:
    """An axis: numbers as they are, over decades by their logarithm, anything else by name."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        if _spans_decades(values):
            return {"label": f"{path} (log10)", "values": [math.log10(value) for value in values]}
        return {"label": path, "values": values}
    names = sorted({str(value) for value in values})
    ticks = list(range(len(names)))
    return {"label": path, "values": [names.index(str(value)) for value in values], "tickvals": ticks, "ticktext": names}


def heat_map(points: Sequence[Point], first: str, second: str) -> bytes:
    """Mean validation AUC over cells of two parameters, of trials trained to their end; those stopped early are counted.

    The AUC of a trial that was stopped early is that of its few epochs, and would pull the mean of its cell down.
    """
    columns, rows = (_cells([point.values[path] for point in points]) for path in (first, second))
    shape = len(rows[1]), len(columns[1])
    sums, whole, stopped = np.zeros(shape), np.zeros(shape, dtype=int), np.zeros(shape, dtype=int)
    for x, y, point in zip(columns[0], rows[0], points, strict=True):
        if point.whole:
            sums[y, x] += point.auroc
            whole[y, x] += 1
        else:
            stopped[y, x] += 1
    means = np.where(whole > 0, sums / np.maximum(whole, 1), np.nan)
    figure = new_figure(6.8, 5.2)
    axes = figure.add_subplot()
    axes.patch.set(hatch="//", edgecolor="0.85", facecolor="white")
    image = axes.imshow(means, origin="lower", cmap="viridis", aspect="auto")
    middle = (np.nanmin(means) + np.nanmax(means)) / 2
    for y, x in zip(*np.nonzero(whole + stopped), strict=True):
        lines = [f"{means[y, x]:.4f}", f"n = {whole[y, x]}"] if whole[y, x] else []
        lines += [f"{stopped[y, x]} stopped"] if stopped[y, x] else []
        color = "white" if whole[y, x] and means[y, x] < middle else "black"
        axes.text(x, y, "\n".join(lines), ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(columns[1])), columns[1], rotation=25, ha="right")
    axes.set_yticks(range(len(rows[1])), rows[1])
    axes.set(xlabel=first, ylabel=second)
    axes.set_title("mean of the best validation AUC of trials trained to their end\n(hatched: none)", fontsize=10)
    figure.colorbar(image, ax=axes, label="validation AUC", format="%.4f")
    return png(figure)


def _cells(values: list[Any]) -> tuple[list[int], list[str]]:
    """The cell of each value and the name of each cell: the values themselves if they are few, else equal intervals."""
    kinds = sorted(set(values))
    if len(kinds) <= _BINS:
        return [kinds.index(value) for value in values], [f"{value:g}" for value in kinds]
    log = _spans_decades(values)
    places = np.log10(values) if log else np.asarray(values, dtype=float)
    edges = np.linspace(places.min(), places.max(), _BINS + 1)
    cells = np.clip(np.digitize(places, edges) - 1, 0, _BINS - 1).tolist()
    shown = 10**edges if log else edges
    return cells, [f"{low:.2g} to {high:.2g}" for low, high in itertools.pairwise(shown)]


def importance(points: Sequence[Point], paths: Sequence[str]) -> dict[str, float]:
    """Share of the variance of validation AUC that each parameter explains: fANOVA, by Optuna; empty where nothing varies."""
    import optuna

    varying = [path for path in paths if len({point.values[path] for point in points}) > 1]
    if not varying or len({point.auroc for point in points}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    domains = {path: _distribution([point.values[path] for point in points]) for path in varying}
    for point in points:
        params = {path: point.values[path] for path in varying}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=domains, value=point.auroc))
    shares = optuna.importance.get_param_importances(study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))
    return dict(shares)


def _distribution(values: list[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if all(isinstance(value, float) for value in values):
        return FloatDistribution(min(values), max(values), log=_spans_decades(values))
    return CategoricalDistribution(sorted(set(values)))


def importance_figure(shares: dict[str, float]) -> bytes:
    """Bars of the parameters' importance."""
    figure = new_figure(6, 1.2 + 0.5 * len(shares))
    axes = figure.add_subplot()
    names = sorted(shares, key=shares.__getitem__)
    axes.barh(names, [shares[name] for name in names], color=SKY, edgecolor="black")
    for place, name in enumerate(names):
        axes.text(shares[name], place, f" {shares[name]:.2f}", va="center")
    axes.set(xlabel="share of the variance of validation AUC explained (fANOVA)", xlim=(0, 1.1))
    return png(figure)


def _spans_decades(values: Sequence[Any]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(numbers) == len(values) and min(numbers) > 0 and max(numbers) / min(numbers) >= 30
