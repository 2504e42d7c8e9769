"""The report's pictures: inline SVG for curves, plain HTML bars for everything else (text that a phone can show).

Colours are CSS classes (`tone-1` …), so that they follow the reader's light or dark setting; no chart rests on
colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gemel.demo.report.markup import Html, join, tag

TONES = 9  # classes tone-1 … tone-9; tone-0 is for what only frames the picture
_WIDTH, _HEIGHT = 420, 250  # of a curve, in its own units: near a phone's width, so that text stays readable
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 34
_MOST_TICKS = 10
_NICE = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
_ROOM_INSIDE = 0.12  # share of a row from which a part has room for its figure

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Series:
    """A curve or, with `marks`, single crosses. None leaves a gap."""

    name: str
    values: Sequence[float | None]
    tone: int
    dashed: bool = False
    marks: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line to compare with."""

    name: str
    value: float
    tone: int


def curves(
    series: Sequence[Series],
    labels: Sequence[str],
    show: Format,
    *,
    levels: Sequence[Level] = (),
    x_title: str = "round",
    top: float | None = None,
) -> Html:
    """Values over labels, y from 0 to `top` (or the largest)."""
    values = [value for each in series for value in each.values if value is not None]
    values += [level.value for level in levels]
    y_max = top or _round_up(max(values, default=0.0))
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(position: int) -> float:
        return _LEFT + inner_width * (position + 0.5) / max(1, len(labels))

    def y(value: float) -> float:
        return _TOP + inner_height * (1 - value / y_max)

    parts: list[Html] = [_y_axis(y, y_max, show)]
    step = -(-len(labels) // _MOST_TICKS)
    parts += [
        tag("text", label, x=_at(x(i)), y=_HEIGHT - 17, class_="tick middle")
        for i, label in enumerate(labels)
        if i % step == 0
    ]
    parts.append(tag("text", x_title, x=_at(_LEFT + inner_width / 2), y=_HEIGHT - 3, class_="tick middle"))
    for level in levels:
        at = _at(y(level.value))
        title = tag("title", f"{level.name}: {show(level.value)}")
        parts.append(
            tag("line", title, x1=_LEFT, x2=_WIDTH - _RIGHT, y1=at, y2=at, class_=f"level line-{level.tone}")
        )
    for each in series:
        points = [(i, value) for i, value in enumerate(each.values) if value is not None]
        if not each.marks:
            path = " ".join(f"{_at(x(i))},{_at(y(value))}" for i, value in points)
            parts.append(tag("polyline", points=path, class_=f"curve line-{each.tone}" + _dash(each)))
        for i, value in points:
            title = tag("title", f"{each.name}, {x_title} {labels[i]}: {show(value)}")
            parts.append(_point(x(i), y(value), each, title))
    keys = [(each.name, each.tone, "cross" if each.marks else "line" + _dash(each)) for each in series]
    keys += [(f"{level.name} ({show(level.value)})", level.tone, "line dotted") for level in levels]
    return join(_frame(parts), _legend(keys))


def reliability(bins: Sequence[tuple[float, float, int]], show: Format) -> Html:
    """(mean confidence, accuracy, predictions) as circles, larger for more predictions, beside the diagonal."""
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(share: float) -> float:
        return _LEFT + inner_width * share

    def y(share: float) -> float:
        return _TOP + inner_height * (1 - share)

    parts = [_y_axis(y, 1.0, show)]
    parts += [
        tag("text", show(tick / 4), x=_at(x(tick / 4)), y=_HEIGHT - 17, class_="tick middle") for tick in range(5)
    ]
    parts.append(tag("text", "confidence", x=_at(x(0.5)), y=_HEIGHT - 3, class_="tick middle"))
    parts.append(tag("line", x1=_at(x(0)), y1=_at(y(0)), x2=_at(x(1)), y2=_at(y(1)), class_="level line-0"))
    most = max((count for _, _, count in bins), default=1)
    for confidence, accuracy, count in bins:
        title = tag("title", f"{count} predictions: confidence {show(confidence)}, right {show(accuracy)}")
        radius = 3 + 9 * (count / most) ** 0.5
        parts.append(
            tag("circle", title, cx=_at(x(confidence)), cy=_at(y(accuracy)), r=_at(radius), class_="bubble tone-1")
        )
    keys = [("right as often as confident", 0, "line dotted"), ("predictions of like confidence", 1, "box")]
    return join(_frame(parts), _legend(keys))


def bars(rows: Sequence[tuple[str, float, int]], show: Format, *, top: float) -> Html:
    """(label, value, tone), one bar each, from 0 to `top`."""
    return tag(
        "div",
        *(
            _row(label, tag("i", class_=f"tone-{tone}", style=_width(value / top)), show(value))
            for label, value, tone in rows
        ),
        class_="bars",
    )


def stacked(
    rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], show: Format, *, top: float | None = None
) -> Html:
    """(label, parts in the order of `names`): parts of a row side by side; `top` is the whole width."""
    whole = top or max((sum(parts) for _, parts in rows), default=0.0) or 1.0
    drawn = [
        _row(
            label,
            join(
                *(
                    tag(
                        "i",
                        show(part) if part / whole >= _ROOM_INSIDE else "",
                        class_=f"tone-{tone(i)}",
                        style=_width(part / whole),
                        title=f"{names[i]}: {show(part)}",
                    )
                    for i, part in enumerate(parts)
                )
            ),
            show(sum(parts)) if top is None else "",
        )
        for label, parts in rows
    ]
    keys = [(name, tone(i), "box") for i, name in enumerate(names)]
    return join(tag("div", *drawn, class_="bars"), _legend(keys))


def diverging(rows: Sequence[tuple[str, float]], show: Format) -> Html:
    """(label, value): for to the right, against to the left, scaled to the largest."""
    largest = max((abs(value) for _, value in rows), default=0.0) or 1.0
    drawn = []
    for label, value in rows:
        share = abs(value) / largest / 2
        left = 0.5 if value >= 0 else 0.5 - share
        bar = tag("i", class_=f"tone-{1 if value >= 0 else 4}", style=f"left:{left:.2%};{_width(share)}")
        drawn.append(_row(label, bar, show(value), kind="both"))
    return tag("div", *drawn, class_="bars")


def tone(index: int) -> int:
    """The colour of the so-manyth of several alike; the same thing has the same number in every chart."""
    return index % TONES + 1


# --- parts --------------------------------------------------------------------------------------


def _round_up(value: float) -> float:
    """The next number that four even ticks divide into figures worth reading."""
    step = value / 4 or 0.25
    scale = 10.0 ** math.floor(math.log10(step))
    return 4 * scale * min(nice for nice in _NICE if nice * scale >= step * (1 - 1e-9))


def _at(value: float) -> str:
    return f"{value:.1f}"


def _width(share: float) -> str:
    return f"width:{max(0.0, min(1.0, share)):.2%}"


def _dash(series: Series) -> str:
    return " dashed" if series.dashed else ""


def _frame(parts: Sequence[Html]) -> Html:
    return tag("svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img")


def _y_axis(y: Callable[[float], float], y_max: float, show: Format) -> Html:
    lines = []
    for tick in range(5):
        value = y_max * tick / 4
        at = _at(y(value))
        lines.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=at, y2=at, class_="grid"))
        lines.append(tag("text", show(value), x=_LEFT - 6, y=_at(y(value) + 4), class_="tick end"))
    return join(*lines)


def _point(x: float, y: float, series: Series, title: Html) -> Html:
    if not series.marks:
        return tag("circle", title, cx=_at(x), cy=_at(y), r="3.4", class_=f"tone-{series.tone}")
    arms = f"M{x - 5:.1f} {y - 5:.1f}l10 10M{x + 5:.1f} {y - 5:.1f}l-10 10"
    return tag("path", title, d=arms, class_=f"cross line-{series.tone}")


def _row(label: str, bar: Html, value: str, kind: str = "") -> Html:
    return tag(
        "div",
        tag("span", label, class_="label"),
        tag("span", bar, class_=f"track {kind}".strip()),
        tag("span", value, class_="value"),
    )


def _legend(keys: Sequence[tuple[str, int, str]]) -> Html:
    def sign(tone: int, kind: str) -> Html:
        if kind == "cross":
            return tag("b", "✕", class_=f"ink-{tone}")
        return tag("i", class_=f"{kind} tone-{tone} line-{tone}")

    return tag("p", *(tag("span", sign(tone, kind), name) for name, tone, kind in keys), class_="legend")
