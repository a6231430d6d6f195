"""Small charts as SVG that takes its colours from the page's style sheet, so that they suit light, dark and paper.

Every coordinate is a number of ours and every text is escaped, whatever it is made of.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 340, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 10, 42
_LONGEST_TICK = 10
_STRIP_WIDTH, _STRIP_HEIGHT = 120, 16

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """One axis of a chart."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    """Places and their texts."""

    def at(self, value: float) -> float:
        """Place along the axis, 0 at ``low`` and 1 at ``high``; what lies outside is drawn at the end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


@dataclass
class Chart:
    """A chart in the making.

    Args:
        x: the axis to the right.
        y: the axis upwards.
    """

    x: Axis
    y: Axis
    _shapes: list[Markup] = field(default_factory=list)

    def line(self, points: Iterable[Point], style: str) -> None:
        """A line through some points; ``style`` is a class of the style sheet."""
        places = " ".join(f"{self._across(x):.1f},{self._down(y):.1f}" for x, y in points)
        self._shapes.append(Markup('<polyline class="line {}" points="{}"/>').format(style, places))

    def dots(self, points: Iterable[Point], style: str) -> None:
        """A mark at each point."""
        for x, y in points:
            mark = Markup('<circle class="dot {}" cx="{}" cy="{}" r="3"/>')
            self._shapes.append(mark.format(style, f"{self._across(x):.1f}", f"{self._down(y):.1f}"))

    def whiskers(self, spans: Iterable[tuple[float, Sequence[float]]], style: str) -> None:
        """An upright line over each ``(x, (low, high))``."""
        for x, (low, high) in spans:
            mark = Markup('<line class="line {}" x1="{x}" x2="{x}" y1="{}" y2="{}"/>')
            across = f"{self._across(x):.1f}"
            self._shapes.append(mark.format(style, f"{self._down(low):.1f}", f"{self._down(high):.1f}", x=across))

    def bars(self, edges: Sequence[float], heights: Sequence[float], style: str) -> None:
        """Bars from 0 between neighbouring edges; there is one edge more than heights."""
        for left, right, height in zip(edges, edges[1:], heights, strict=False):
            x, top = self._across(left), self._down(height)
            size = f'width="{max(0.0, self._across(right) - x):.1f}" height="{self._down(0) - top:.1f}"'
            mark = Markup('<rect class="bar {}" x="{}" y="{}" ')
            self._shapes.append(mark.format(style, f"{x:.1f}", f"{top:.1f}") + Markup(size) + Markup("/>"))

    def upright(self, x: float, style: str) -> None:
        """A line from the bottom to the top."""
        self.line([(x, self.y.low), (x, self.y.high)], style)

    def svg(self, described: str) -> Markup:
        """The chart; ``described`` is what it says to who does not see it."""
        head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, described)
        return head + self._axes() + Markup("").join(self._shapes) + Markup("</svg>")

    def _across(self, x: float) -> float:
        return _LEFT + self.x.at(x) * (_WIDTH - _LEFT - _RIGHT)

    def _down(self, y: float) -> float:
        return _HEIGHT - _BOTTOM - self.y.at(y) * (_HEIGHT - _TOP - _BOTTOM)

    def _axes(self) -> Markup:
        bottom, right = self._down(self.y.low), _WIDTH - _RIGHT
        parts = []
        for value, text in self.y.ticks:
            y = f"{self._down(value):.1f}"
            parts.append(Markup(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'))
            parts.append(_text(_LEFT - 6, self._down(value) + 4, text, "end"))
        for value, text in self.x.ticks:
            parts.append(_text(self._across(value), bottom + 16, text, "middle"))
        parts.append(Markup(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom:.1f}" y2="{bottom:.1f}"/>'))
        parts.append(_text((_LEFT + right) / 2, _HEIGHT - 6, self.x.label, "middle", shortened=False))
        middle = (_TOP + bottom) / 2
        turned = Markup('<g transform="translate(12 {}) rotate(-90)">').format(f"{middle:.1f}")
        parts.append(turned + _text(0, 0, self.y.label, "middle", shortened=False) + Markup("</g>"))
        return Markup("").join(parts)


def _text(x: float, y: float, text: str, anchor: str, *, shortened: bool = True) -> Markup:
    shown = f"{text[: _LONGEST_TICK - 1]}…" if shortened and len(text) > _LONGEST_TICK else text
    return Markup(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">') + escape(shown) + Markup("</text>")


def strip(value: float, interval: Sequence[float] | None, *, low: float) -> Markup:
    """A value and its interval between ``low`` and 1, for a cell of a table that has both in numbers beside it."""
    axis = Axis("", low, 1.0, ())
    middle, inner = _STRIP_HEIGHT / 2, _STRIP_WIDTH - 10

    def across(number: float) -> str:
        return f"{5 + axis.at(number) * inner:.1f}"

    ends = interval or (value, value)
    return Markup(
        f'<svg class="strip" viewBox="0 0 {_STRIP_WIDTH} {_STRIP_HEIGHT}" aria-hidden="true">'
        f'<line class="grid" x1="5" x2="{5 + inner}" y1="{middle}" y2="{middle}"/>'
        f'<line class="line main" x1="{across(ends[0])}" x2="{across(ends[1])}" y1="{middle}" y2="{middle}"/>'
        f'<circle class="dot main" cx="{across(value)}" cy="{middle}" r="4"/></svg>'
    )


def round_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """A few round numbers between two ends.

    Example:
        >>> [text for _, text in round_ticks(0, 0.188)]
        ['0', '0.05', '0.1', '0.15']
    """
    from matplotlib.ticker import MaxNLocator  # half a second to import

    places = [float(place) for place in MaxNLocator(4).tick_values(low, high) if low <= place <= high]
    return [(place, f"{place:.6g}") for place in places]
