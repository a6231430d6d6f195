"""Figures of an evaluation: ROC, logits, history; and the style that all figures share.

Colours are Okabe and Ito's, which people with any colour vision tell apart; line styles and hatches tell them apart in black
and white.
"""

import io
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from rdd import storage
from rdd.evaluation.scores import Scored
from rdd.metrics import auroc

logger = logging.getLogger(__name__)

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
"""Okabe & Ito, Color Universal Design (2008)."""

REAL_COLOR, GENERATED_COLOR = BLUE, VERMILLION

_COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)
"""Of rows and generators; yellow is too pale for a line on white."""
_DASHES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (5, 5)))
_LONGEST_NAME = 34
_ROC_POINTS = 4000  # of a curve, which is 1,500 pixels wide and high
_LEGEND_INSIDE = 6  # entries; more would cover the curves


def roc_figure(scored: Scored, title: str) -> bytes:
    """ROC curve over all images and by generator against all real ones, with the AUC of each, as PNG."""
    real = scored.labels == 0
    keeps = {"all generators": np.ones_like(real)} | {name: real | images for name, images in scored.generated_by().items()}
    inside = len(keeps) <= _LEGEND_INSIDE
    figure = new_figure(6, 6 if inside else 6 + 0.11 * len(keeps))
    axes = figure.add_subplot()
    for number, (name, keep) in enumerate(keeps.items()):
        false_positive, true_positive = _drawn_roc(scored.labels[keep], scored.logits[keep])
        style = line_style(number - 1) if number else {"color": BLACK, "linestyle": "-", "linewidth": 2.5}
        label = f"{plain_text(name)}: AUC {auroc(scored.logits[keep], scored.labels[keep]):.4f}"
        axes.plot(false_positive, true_positive, label=label, drawstyle="steps-post", **style)
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1, label="chance: AUC 0.5")
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_title(plain_text(title, longest=60))
    axes.set_aspect("equal")
    if inside:
        axes.legend(loc="lower right", fontsize="small")
    else:
        figure.legend(loc="outside lower center", ncols=2, fontsize="x-small")
    return png(figure)


def _drawn_roc(labels: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False-positive and true-positive rates of a ROC curve; of a long one at most 4,000 points, which the picture can show."""
    from sklearn.metrics import roc_curve  # takes a second to import, which training workers need not wait for

    rates = roc_curve(labels, logits, drop_intermediate=False)[:2]
    if len(rates[0]) <= _ROC_POINTS:
        return rates
    steps = np.linspace(0, 1, _ROC_POINTS // 4)
    kept = [np.searchsorted(rate, steps, side=side) for rate in rates for side in ("left", "right")]
    where = np.unique(np.concatenate([[0], *kept]).clip(max=len(rates[0]) - 1))
    return rates[0][where], rates[1][where]


def histogram_figure(scored: Scored, threshold: float, title: str) -> bytes:
    """Histograms of the raw logits of real and generated images with the threshold, as PNG."""
    figure = new_figure(6, 5)
    axes = figure.add_subplot()
    bins = np.histogram_bin_edges(scored.logits, bins=40).tolist()
    styles = (
        (0, "real", {"hatch": "//", "edgecolor": REAL_COLOR, "facecolor": "none"}),
        (1, "generated", {"alpha": 0.55, "color": GENERATED_COLOR}),
    )
    for label, name, style in styles:
        logits = scored.logits[scored.labels == label]
        shares = np.full(len(logits), 1 / len(logits))
        axes.hist(logits, bins=bins, weights=shares, label=f"{name} ({len(logits)})", histtype="stepfilled", **style)
    axes.axvline(threshold, color=BLACK, linestyle="--", label=f"threshold {threshold:.2f}")
    axes.set(xlabel="raw logit (larger: generated)", ylabel="share of the images of its class")
    axes.set_title(plain_text(title, longest=60))
    axes.legend(fontsize="small")
    return png(figure)


def history_figure(history: list[dict[str, float]], title: str) -> bytes:
    """Loss terms and validation AUC by epoch, as PNG."""
    figure = new_figure(6, 5)
    axes = figure.add_subplot()
    epochs = [row["epoch"] for row in history]
    styles = {"train/loss": (BLACK, "-"), "train/loss_cvar": (BLUE, "--"), "train/loss_auc": (GREEN, ":")}
    if "train/loss_consistency" in history[0]:  # of a run with views
        styles["train/loss_consistency"] = (ORANGE, "-.")
    for name, (color, dash) in styles.items():
        axes.plot(epochs, [row[name] for row in history], dash, color=color, label=name, linewidth=1.8)
    axes.set(xlabel="epoch", ylabel="loss at the weights", title=title)
    right = axes.twinx()
    aurocs = [row["val/auroc"] for row in history]
    right.plot(epochs, aurocs, "-o", color=VERMILLION, markersize=3.5, label="val/auroc (right)")
    right.set_ylabel("validation AUC")
    right.ticklabel_format(axis="y", useOffset=False)
    axes.margins(y=0.1)
    handles, labels = (a + b for a, b in zip(axes.get_legend_handles_labels(), right.get_legend_handles_labels(), strict=True))
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")
    return png(figure)


def line_style(number: int) -> dict[str, Any]:
    """Colour and dashes of the number-th line: 36 that differ, and neighbours differ in both."""
    color = _COLORS[number % len(_COLORS)]
    dash = _DASHES[(number + number // len(_COLORS)) % len(_DASHES)]
    return {"color": color, "linestyle": dash, "linewidth": 1.4}


def plain_text(name: str, *, longest: int = _LONGEST_NAME) -> str:
    """A name from outside as matplotlib draws it letter by letter: on one line, shortened, and no formula.

    A ``$`` would begin a formula, and a label that begins with ``_`` is left out of a legend.
    """
    text = " ".join(name.split())
    if len(text) > longest:
        half = (longest - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    return ("\u200a" if text.startswith("_") else "") + text.replace("$", r"\$")


def save_figure(path: str, draw: Callable[[], bytes]) -> None:
    """Write a picture that goes with a result; one that can not be drawn is a warning, since the numbers stand without it.

    Args:
        path: the file.
        draw: makes its content.
    """
    try:
        picture = draw()
    except Exception as error:  # names and numbers from outside meet a library that may stumble over them
        logger.warning("%s is not drawn (%s: %s)", path, type(error).__name__, " ".join(str(error).split()))
        return
    storage.write_bytes(path, picture)


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # half a second to import, and no global state of pyplot

    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Any) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
