"""The pictures of a report as SVG elements: curves, the timeline, and bars with intervals. Colours are the page's.

A picture is drawn in units of about one pixel and grows or shrinks with its column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import floor
from typing import Final

from models.report import FUSED, Flag, Points, Timeline
from models.report_markup import Element, element

COLOURS: Final = 8  # of detectors; from the ninth on the same again, with dashes
_DASHES: Final = (None, "6 3", "2 3")

_SECOND, _MINUTE, _HOUR, _DAY = 1_000, 60_000, 3_600_000, 86_400_000
_TIME_STEPS: Final = (
    *(n * _SECOND for n in (1, 5, 15, 30)),
    *(n * _MINUTE for n in (1, 5, 15, 30)),
    *(n * _HOUR for n in (1, 3, 6, 12)),
    *(n * _DAY for n in (1, 2, 7, 14, 30, 91, 365)),
)
_TICKS: Final = 10  # at most, along the time

_MARKS: Final = {  # shapes as well as colours, for those who tell them apart by one only
    "hit": "m-3,0a3,3 0 1,0 6,0a3,3 0 1,0 -6,0",
    "false": "m-3,-3l6,6m0,-6l-6,6",
    "outside": "m0,-2.5l2.5,2.5l-2.5,2.5l-2.5,-2.5z",
}
_MEANING: Final = {"hit": "in an anomalous unit", "false": "in a normal unit", "outside": "in no labelled unit"}


@dataclass(frozen=True, slots=True)
class Plot:
    """A rectangle that data are drawn in; x and y are 0 to 1, y upwards."""

    left: float
    top: float
    width: float
    height: float

    def x(self, value: float) -> float:
        """Where a value lies from the left."""
        return round(self.left + value * self.width, 1)

    def y(self, value: float) -> float:
        """Where a value lies from the top."""
        return round(self.top + (1 - value) * self.height, 1)

    def grid(self, steps: Sequence[tuple[float, str]]) -> Element:
        """Lines across at some heights, with their labels."""
        lines = []
        for at, label in steps:
            lines.append(element("line", x1=self.left, x2=self.x(1), y1=self.y(at), y2=self.y(at)))
            lines.append(element("text", label, x=self.left - 5, y=self.y(at) + 4, text_anchor="end"))
        return element("g", *lines, class_="grid")


def series_style(number: int) -> dict[str, str | None]:
    """The class and the dashes of a detector's line.

    >>> series_style(0), series_style(9)
    ({'class_': 'line c0', 'stroke_dasharray': None}, {'class_': 'line c1', 'stroke_dasharray': '6 3'})
    """
    return {"class_": f"line c{number % COLOURS}", "stroke_dasharray": _DASHES[number // COLOURS % len(_DASHES)]}


def swatch(name: str, number: int) -> Element:
    """A piece of a detector's line, for the legend."""
    style = {"class_": "line fused", "stroke_dasharray": None} if name == FUSED else series_style(number)
    line = element("line", x1=1, x2=25, y1=6, y2=6, **style)
    return element("svg", line, viewBox="0 0 26 12", width=26, height=12, class_="chart", aria_hidden="true")


def curves(
    points: Mapping[str, Points],
    x_name: str,
    y_name: str,
    *,
    is_stepped: bool = False,
    chance: Points | None = None,
    at: tuple[float | None, float | None] = (None, None),
) -> Element:
    """Curves of all detectors in one square, the fused one on top.

    Args:
        points: by detector, in the order of the legend.
        x_name: what lies along x.
        y_name: what lies along y.
        is_stepped: whether y holds from the point before on.
        chance: what a coin would reach.
        at: where the fused verdict stands.
    """
    plot = Plot(36, 8, 300, 262)
    quarters = [(n / 4, f"{n / 4:g}") for n in range(5)]
    names = [name for name in points if name != FUSED]
    lines = [
        element("path", d=_path(plot, points[name], is_stepped), fill="none", **series_style(number))
        for number, name in enumerate(names)
        if points[name]
    ]
    if points.get(FUSED):
        lines.append(element("path", d=_path(plot, points[FUSED], is_stepped), fill="none", class_="line fused"))
    x, y = at
    return element(
        "svg",
        plot.grid(quarters),
        *(
            element("text", label, x=plot.x(value), y=286, text_anchor="middle", class_="tick")
            for value, label in quarters
        ),
        element("path", d=_path(plot, chance, False), fill="none", class_="chance") if chance else None,
        *lines,
        element("circle", cx=plot.x(x), cy=plot.y(y), r=4.5, class_="stand")
        if x is not None and y is not None
        else None,
        element("text", x_name, x=plot.x(0.5), y=301, text_anchor="middle", class_="axis"),
        element(
            "text", y_name, transform=f"translate(9,{plot.y(0.5)}) rotate(-90)", text_anchor="middle", class_="axis"
        ),
        viewBox="0 0 346 306",
        class_="chart",
        role="img",
        aria_label=f"{y_name} by {x_name}",
    )


def _path(plot: Plot, points: Points, is_stepped: bool) -> str:
    """A line through the points; stepped: from the left edge, at each point's height up to it."""
    if is_stepped:
        return f"M{plot.left:g},{plot.y(points[0][1])}" + "".join(f"V{plot.y(y)}H{plot.x(x)}" for x, y in points)
    return "M" + "L".join(f"{plot.x(x)},{plot.y(y)}" for x, y in points)


def timeline(data: Timeline) -> Element | None:
    """The scores of flags over time, labelled windows shaded, and below them label and verdict; None without time."""
    start, end = data["start_ms"], data["end_ms"]
    if start is None or end is None:
        return None
    plot = Plot(52, 10, 700, 150)
    length = max(1, end - start)
    lowest = min([flag["score"] for flag in data["flags"]], default=0.0)
    base = min(0.9, floor(lowest * 10) / 10)
    heights = [(n / 4, f"{base + (1 - base) * n / 4:.3g}") for n in range(5)]

    def x(ts: int) -> float:
        return plot.x((ts - start) / length)

    def box(begin: int, stop: int, y: float, height: float, kind: str) -> Element:
        return element("rect", x=x(begin), y=y, width=max(1.5, x(stop) - x(begin)), height=height, class_=kind)

    def mark(flag: Flag) -> Element:
        many = f", the strongest of {flag['count']:,}" if flag["count"] > 1 else ""
        title = f"{moment(flag['ts'])} UTC: {flag['score']:.3f}, {_MEANING[flag['kind']]}{many}"
        height = plot.y((flag["score"] - base) / (1 - base))
        return element(
            "path",
            element("title", title),
            d=f"M{x(flag['ts'])},{height}{_MARKS[flag['kind']]}",
            class_=f"mark {flag['kind']}",
        )

    shades, labels, verdicts = [], [], []
    for window in data["windows"]:
        begin, stop = window["start_ms"], window["end_ms"]
        is_right = window["is_anomalous"] == window["is_flagged"]
        if window["is_anomalous"]:
            shades.append(box(begin, stop, plot.top, plot.height, "shade"))
        labels.append(box(begin, stop, 170, 10, "anomalous" if window["is_anomalous"] else "normal"))
        verdicts.append(
            box(
                begin,
                stop,
                184,
                10,
                f"{'flagged' if window['is_flagged'] else 'normal'} {'right' if is_right else 'wrong'}",
            )
        )
    foot = 200 if data["windows"] else plot.y(0)
    order = {"outside": 0, "hit": 1, "false": 2}
    return element(
        "svg",
        *shades,
        plot.grid(heights),
        *([element("text", "label", x=47, y=179, text_anchor="end", class_="tick"), *labels] if labels else []),
        *([element("text", "verdict", x=47, y=193, text_anchor="end", class_="tick"), *verdicts] if labels else []),
        *(mark(flag) for flag in sorted(data["flags"], key=lambda flag: order[flag["kind"]])),
        *(
            element("text", label, x=x(ts), y=foot + 15, text_anchor="middle", class_="tick")
            for ts, label in ticks(start, end)
        ),
        viewBox=f"0 0 760 {foot + 22:g}",
        class_="chart",
        role="img",
        aria_label="scores over time",
    )


def ticks(start_ms: int, end_ms: int) -> list[tuple[int, str]]:
    """Round moments between two, at most ten, with a label each; all UTC.

    >>> ticks(1_700_000_000_000, 1_700_000_002_500)
    [(1700000000000, '22:13:20'), (1700000001000, '22:13:21'), (1700000002000, '22:13:22')]
    """
    length = end_ms - start_ms
    step = next((step for step in _TIME_STEPS if length // step < _TICKS), length // (_TICKS - 1) + 1)
    clock = "%H:%M:%S" if step < _MINUTE else "%H:%M"
    form = "%Y-%m-%d" if step >= _DAY else clock if length < _DAY else f"%m-%d {clock}"
    first = -(-start_ms // step) * step
    return [(ts, moment(ts, form)) for ts in range(first, end_ms + 1, step)]


def moment(ts: int | None, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A moment in UTC; `–` for none, and the number itself where no calendar reaches.

    >>> moment(1_700_000_000_000), moment(None), moment(10**18)
    ('2023-11-14 22:13:20', '–', '1000000000000000000 ms')
    """
    if ts is None:
        return "–"
    try:
        return datetime.fromtimestamp(ts / 1000, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):
        return f"{ts} ms"


def interval_bar(
    value: float | None, interval: Sequence[float] | None, low: float = 0.0, high: float = 1.0
) -> Element | None:
    """A dot and its interval between two ends, with a tick at 0 where that lies between them; None without a value."""
    if value is None:
        return None
    plot = Plot(5, 0, 110, 16)

    def x(of: float) -> float:
        return plot.x((min(max(of, low), high) - low) / (high - low))

    return element(
        "svg",
        element("line", x1=plot.left, x2=plot.x(1), y1=8, y2=8, class_="rail"),
        element("line", x1=x(0), x2=x(0), y1=2, y2=14, class_="rail") if low < 0 < high else None,
        element("line", x1=x(interval[0]), x2=x(interval[1]), y1=8, y2=8, class_="whisker") if interval else None,
        element("circle", cx=x(value), cy=8, r=3.5, class_="dot"),
        viewBox="0 0 120 16",
        width=120,
        height=16,
        class_="chart",
        aria_hidden="true",
    )
