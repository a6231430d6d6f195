"""Figures of an evaluation: ROC and score histogram, readable in black and white."""

import io
from typing import Any

import numpy as np

from rdd.evaluation.scores import Scored

_DASHES = ["-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (5, 5))]


def roc_figure(scored: Scored, title: str) -> bytes:
    """ROC curve over all images and by generator against all real ones, as PNG."""
    from sklearn.metrics import roc_curve

    figure, axes = _figure()
    real = scored.labels == 0
    names = ["all", *sorted(set(scored.generators[~real].tolist()))]
    for number, name in enumerate(names):
        keep = np.ones(len(real), dtype=bool) if name == "all" else real | (scored.generators == name)
        false_positive, true_positive, _ = roc_curve(scored.labels[keep], scored.logits[keep], drop_intermediate=False)
        style = {"linestyle": _DASHES[number % len(_DASHES)], "linewidth": 2.5 if name == "all" else 1.3}
        axes.plot(false_positive, true_positive, label=name, color=_grey(number), drawstyle="steps-post", **style)
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title=title)
    axes.set_aspect("equal")
    axes.legend(loc="lower right", fontsize="small")
    return png(figure)


def histogram_figure(scored: Scored, threshold: float, title: str) -> bytes:
    """Histograms of the raw logits of real and generated images with the threshold, as PNG."""
    figure, axes = _figure()
    bins = np.histogram_bin_edges(scored.logits, bins=40).tolist()
    for label, name, style in ((0, "real", {"hatch": "//", "fill": False}), (1, "generated", {"alpha": 0.6, "color": "0.5"})):
        logits = scored.logits[scored.labels == label]
        axes.hist(logits, bins=bins, weights=np.full(len(logits), 1 / len(logits)), label=f"{name} ({len(logits)})", **style)
    axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.2f}")
    axes.set(xlabel="raw logit (larger: generated)", ylabel="share of the images of its class", title=title)
    axes.legend(fontsize="small")
    return png(figure)


def history_figure(history: list[dict[str, float]], title: str) -> bytes:
    """Loss terms and validation AUC by epoch, as PNG."""
    figure, axes = _figure()
    epochs = [row["epoch"] for row in history]
    for name, dash in (("train/loss", "-"), ("train/loss_cvar", "--"), ("train/loss_auc", ":")):
        axes.plot(epochs, [row[name] for row in history], dash, color="black", label=name)
    axes.set(xlabel="epoch", ylabel="loss at the weights", title=title)
    right = axes.twinx()
    right.plot(epochs, [row["val/auroc"] for row in history], "-", color="0.6", linewidth=2.5, label="val/auroc (right)")
    right.set_ylabel("validation AUC")
    axes.margins(y=0.1)
    handles, labels = (a + b for a, b in zip(axes.get_legend_handles_labels(), right.get_legend_handles_labels(), strict=True))
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")
    return png(figure)


def _grey(number: int) -> str:
    return "black" if number == 0 else str(min(0.15 + 0.12 * number, 0.7))


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # half a second to import, and no global state of pyplot

    return Figure(figsize=(width, height), layout="constrained")


def _figure() -> tuple[Any, Any]:
    figure = new_figure(6, 5)
    return figure, figure.add_subplot()


def png(figure: Any) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
