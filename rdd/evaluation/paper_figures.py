"""The paper's figures beside its table: the loss landscape without and with SAM, and a map of the features."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rdd.evaluation.figures import BLACK, line_style, new_figure, plain_text, png

_MARKERS = "osD^vPX*"
_LEVELS = 12


def landscape_figure(panels: Mapping[str, np.ndarray], numbers: Mapping[str, str], span: float) -> bytes:
    """Contours above, surfaces below, one scale for all panels, as PNG.

    Args:
        panels: by title, ``(points, points)`` losses; rows along the second direction.
        numbers: by title, what to say of it in a line.
        span: reach of both directions, in filter-normalised units.
    """
    axis = np.linspace(-span, span, len(next(iter(panels.values()))))
    low, high = float(min(losses.min() for losses in panels.values())), float(max(losses.max() for losses in panels.values()))
    # most of what matters lies near the bottom: levels are spaced by their ratio
    levels = np.geomspace(max(low, 1e-12), high if high > low else low * 1.01, _LEVELS)
    figure = new_figure(5.2 * len(panels), 9.4)
    for number, (title, losses) in enumerate(panels.items()):
        flat = figure.add_subplot(2, len(panels), number + 1)
        flat.contourf(axis, axis, losses, levels=levels, cmap="viridis", norm="log", extend="both")
        lines = flat.contour(axis, axis, losses, levels=levels, colors="white", linewidths=0.7)
        flat.clabel(lines, fmt="%.3g", fontsize=7)
        flat.plot(0, 0, "w+", markersize=10)
        flat.set(xlabel="direction 1 (filter lengths)", ylabel="direction 2 (filter lengths)")
        flat.set_title(f"{title}\n{numbers[title]}", fontsize=9.5)
        flat.set_aspect("equal")
        surface = figure.add_subplot(2, len(panels), len(panels) + number + 1, projection="3d")
        x, y = np.meshgrid(axis, axis)
        surface.plot_surface(x, y, losses, cmap="viridis", vmin=low, vmax=high, edgecolor="0.3", linewidth=0.2)
        surface.set(xlabel="direction 1", ylabel="direction 2", zlim=(low, high))
        surface.set_zlabel("loss", labelpad=6)
        ticks = [-span, 0, span]
        surface.set(xticks=ticks, yticks=ticks)
        surface.tick_params(labelsize=8)
        surface.set_box_aspect(None, zoom=0.88)
    return png(figure)


def feature_map_figure(points: Mapping[str, np.ndarray], generators: np.ndarray) -> bytes:
    """Real images and each generator's in two dimensions, a panel for each projection, as PNG.

    Args:
        points: by name of the projection, ``(N, 2)``.
        generators: ``(N,)`` names; ``real`` for real images.
    """
    names = sorted(set(generators.tolist()), key=lambda name: (name != "real", name))
    figure = new_figure(5.4 * len(points), 5.8)
    handles: list[Any] = []
    for number, (title, places) in enumerate(points.items()):
        axes = figure.add_subplot(1, len(points), number + 1)
        handles = []
        for place, name in enumerate(names):
            keep = generators == name
            color = BLACK if name == "real" else str(line_style(place - 1)["color"])
            fill = {"facecolors": BLACK if name == "real" else "none"}
            marker = _MARKERS[place % len(_MARKERS)]
            style = {"s": 16, "marker": marker, "edgecolors": color, "linewidths": 0.9, **fill}
            handles.append(axes.scatter(*places[keep].T, label=f"{plain_text(name)} ({keep.sum()})", **style))
        axes.set(xlabel=f"{title} 1 (no unit)", ylabel=f"{title} 2 (no unit)", title=f"CLIP image features, {title}")
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(names)), fontsize="small")
    return png(figure)
