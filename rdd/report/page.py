"""The page itself: one HTML file with its style and pictures in it, that asks nothing of any other place."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from rdd.report import numbers
from rdd.report.answer import headlines, statements
from rdd.report.content import Content, Missing
from rdd.report.drawings import history_chart, logits_chart, reliability_chart, robustness_charts
from rdd.report.pictures import key_of
from rdd.report.tables import all_numbers, audit_rows, curve_rows, family_rows, generator_groups


@cache
def _environment() -> Environment:
    """Templates, with every text escaped: names of generators, files and records come from outside."""
    made = Environment(
        loader=PackageLoader("rdd.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {
        "auc": numbers.auc_text,
        "span": numbers.span_text,
        "percent": numbers.percent_text,
        "percents": numbers.percents_text,
        "signed": numbers.signed_text,
        "signed_span": numbers.signed_span_text,
        "plain": numbers.plain_number,
    }
    return made


def render(content: Content) -> str:
    """The page as HTML.

    Args:
        content: what it is made of.
    """
    audit, robustness = content.audit, content.robustness
    return (
        _environment()
        .get_template("page.html")
        .render(
            content=content,
            headlines=headlines(content),
            statements=statements(content),
            groups=generator_groups(content.report),
            families=family_rows(content.report),
            missing={
                "audit": audit if isinstance(audit, Missing) else None,
                "robustness": robustness if isinstance(robustness, Missing) else None,
            },
            curves=[] if isinstance(robustness, Missing) else robustness_charts(robustness),
            copies=[] if isinstance(robustness, Missing) else curve_rows(robustness),
            properties=[] if isinstance(audit, Missing) else audit_rows(audit),
            reliability=reliability_chart(content.report.get("reliability", ())),
            logits=logits_chart(content.scored, content.calibration.threshold),
            history=history_chart(content.history),
            numbers=all_numbers(content.report),
            key_of=key_of,
        )
    )
