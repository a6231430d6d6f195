"""The answer that a page begins with: how good, on what, with which interval, and what leaks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdd.data.sample_artefacts import ARTEFACTS
from rdd.evaluation.report import PREVALENCE
from rdd.evaluation.robustness import CLEAN
from rdd.report.content import Content, Missing
from rdd.report.numbers import auc_text, percent_text, percents_text, span_text

KINDS = {
    "seen": "Generators seen in training",
    "unseen": "Generators never seen in training",
    "all": "All generators; which were seen in training is not known",
}
"""By key of a report's ``novelty``, its title."""


@dataclass(frozen=True)
class Headline:
    """An AUC in large letters."""

    title: str
    value: str
    interval: str
    note: str


@dataclass(frozen=True)
class Statement:
    """A sentence, and whether it is a warning."""

    text: str
    is_warning: bool = False


def headlines(content: Content) -> list[Headline]:
    """The AUC; of a set with seen and unseen generators one of each kind, never one of both together."""
    report = content.report
    novelty = report.get("novelty") or {"all": report}
    return [
        Headline(
            KINDS.get(kind, kind),
            auc_text(values["auroc"]),
            _interval(values["auroc"], values.get("auroc_interval")),
            _of_how_many(values),
        )
        for kind, values in novelty.items()
    ]


def _interval(value: float, bounds: list[float] | None) -> str:
    if bounds is None:
        return "interval unknown: too few records"
    if value == 1:
        return f"no pair is mis-ranked; with 95 % confidence at least {auc_text(bounds[0])}"
    return f"95 % interval {span_text(bounds)}"


def _of_how_many(values: Mapping[str, Any]) -> str:
    if "generators" not in values:
        return ""
    many = values["generators"] != 1
    return f"{values['images']:,} images of {values['generators']} generator{'s' if many else ''}"


def statements(content: Content) -> list[Statement]:
    """What else belongs to the answer, the most important first."""
    return [
        *_simulated(content),
        *_leaks(content.audit, content.text_mode),
        _worst_generator(content.report),
        *_threshold(content),
        _degraded(content.robustness),
    ]


def _simulated(content: Content) -> list[Statement]:
    names = [name for name in content.scored.generated_by() if name in ARTEFACTS]
    if not names:
        return []
    which = f"The generators {', '.join(names)} are" if len(names) > 1 else f"The generator {names[0]} is"
    return [Statement(f"{which} simulated: what is found on such images says nothing about real generators.", True)]


def _leaks(audit: Mapping[str, Any] | Missing, text_mode: str) -> list[Statement]:
    if isinstance(audit, Missing):
        return [Statement("Whether the set leaks the label through file sizes, formats or captions was not audited.", True)]
    properties = audit["properties"]
    seen: list[str] = []
    unseen: list[str] = []
    for name in audit["red"]:
        if name.endswith("_official") and text_mode != "official":
            continue  # a leak of prompts that this detector was not given
        value = properties.get(name, {}).get("auroc")
        shown = name if value is None else f"{name} (AUC {auc_text(value)})"
        (unseen if is_of_captions(name) and text_mode == "none" else seen).append(shown)
    said = []
    if seen:
        said.append(
            Statement(
                f"Leaks: without a look at any pixel, real and generated images are told apart by {', '.join(seen)}. The AUC "
                "above may be owed to that.",
                True,
            )
        )
    if unseen:
        said.append(Statement(f"Captions tell the classes apart, {', '.join(unseen)}, but this detector sees none."))
    return said or [_no_leak(properties)]


def is_of_captions(name: str) -> bool:
    """Whether a property of an audit needs a caption, which a detector of images alone does not see."""
    return name.startswith(("caption_", "text_"))


def _no_leak(properties: Mapping[str, Mapping[str, Any]]) -> Statement:
    known = sum(one["auroc"] is not None for one in properties.values())
    rest = f"; nothing is known of {len(properties) - known} more" if known < len(properties) else ""
    return Statement(f"No red leak that this detector could have used, among {known} properties of files and captions{rest}.")


def _worst_generator(report: Mapping[str, Any]) -> Statement:
    worst = report["worst_generator"]
    bounds = worst.get("auroc_interval")
    text = f"Worst generator: {worst['name']}, AUC {auc_text(worst['auroc'])}"
    if bounds is not None:
        text += f" ({span_text(bounds)}; the interval holds for whichever generator is the worst)"
    return Statement(f"{text}.")


def _threshold(content: Content) -> list[Statement]:
    report, allowed = content.report, content.calibration.false_positive_rate
    found, mistaken = report.get("true_positive_rate"), report.get("false_positive_rate")
    if found is None or mistaken is None:
        return []
    ends = [report.get(f"{name}_interval") for name in ("true_positive_rate", "false_positive_rate")]
    spans = [f" ({percents_text(one)})" if one is not None else "" for one in ends]
    text = (
        f"At its threshold, chosen on validation images so that {percent_text(allowed)} of real ones are mistaken, it finds "
        f"{percent_text(found)}{spans[0]} of the generated images and mistakes {percent_text(mistaken)}{spans[1]} of the real "
        "ones."
    )
    precision, span = (report.get(f"precision_at_1_percent_generated{end}") for end in ("", "_interval"))
    if precision is not None:
        between = "" if span is None else f" ({percents_text(span)})"
        text += (
            f" Where {PREVALENCE * 100:g} % of all images are generated, {percent_text(precision)}{between} of those that it "
            "calls generated are."
        )
    return [Statement(text), *_bands(report.get("bands") or {})]


def _bands(bands: Mapping[str, Any]) -> list[Statement]:
    """What is said where the detector may also be uncertain; nothing of one without bands."""
    rates = [bands.get(name) for name in ("uncertain", "false_positive_rate", "false_negative_rate")]
    if None in rates:
        return []
    uncertain, mistaken, missed = map(percent_text, rates)
    return [
        Statement(
            f"Where it may also say uncertain, it does so of {uncertain} of the images, calls {mistaken} of the real ones "
            f"likely generated and {missed} of the generated ones likely real."
        )
    ]


def _degraded(robustness: Mapping[str, Any] | Missing) -> Statement:
    if isinstance(robustness, Missing):
        return Statement("How far it falls on re-compressed, resized or noisy copies was not tried.", True)
    copies = {name: one for name, one in robustness["copies"].items() if name != CLEAN}
    worst = min(copies, key=lambda name: copies[name]["auroc"])
    bounds = copies[worst]["auroc_interval"]
    alarms = max(copies, key=lambda name: copies[name]["false_positive_rate"])
    clean = auc_text(robustness["copies"][CLEAN]["auroc"])
    return Statement(
        f"Of {robustness['images']:,} images as they are the AUC is {clean}, and {auc_text(copies[worst]['auroc'])} "
        f"({span_text(bounds)}) on the copies where it is lowest: {worst}. At the threshold, up to "
        f"{percent_text(copies[alarms]['false_positive_rate'])} of the real ones are mistaken there: {alarms}."
    )
