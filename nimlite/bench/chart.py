"""A picture of throughput against latency, as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 30, 50, 60
_LABEL_HEIGHT = 14
_COLORS = ("#1b6ca8", "#c8553d", "#4c956c", "#7b4b94")


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: `label` is drawn beside it, unless another is too near."""

    label: str
    latency_ms: float
    tok_s: float


@dataclass(frozen=True, slots=True)
class Series:
    """Points in the order in which they are joined."""

    name: str
    points: tuple[Point, ...]


def throughput_latency_svg(title: str, series: Sequence[Series]) -> str:
    """Latency to the right, throughput upwards, both from zero. Every series has a point."""
    points = [point for one in series for point in one.points]
    x_step = _tick(max(point.latency_ms for point in points))
    y_step = _tick(max(point.tok_s for point in points))
    x_end = x_step * math.ceil(max(point.latency_ms for point in points) / x_step)
    y_end = y_step * math.ceil(max(point.tok_s for point in points) / y_step)

    def x(latency_ms: float) -> float:
        return round(_LEFT + latency_ms / x_end * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(tok_s: float) -> float:
        return round(_HEIGHT - _BOTTOM - tok_s / y_end * (_HEIGHT - _TOP - _BOTTOM), 1)

    parts = [_text(_WIDTH / 2, 24, title, anchor="middle", size=15)]
    for i in range(round(x_end / x_step) + 1):
        at = x(i * x_step)
        parts += [_line(at, y(0), at, y(y_end)), _text(at, y(0) + 18, f"{i * x_step:g}")]
    for i in range(round(y_end / y_step) + 1):
        at = y(i * y_step)
        label = f"{i * y_step:,.0f}"
        parts += [_line(x(0), at, x(x_end), at), _text(x(0) - 8, at + 4, label, anchor="end")]
    parts.append(_text(_WIDTH / 2, _HEIGHT - 16, "ms between two tokens of a stream (median)"))
    parts.append(_text(_LEFT, _TOP - 10, "output tokens a second, all streams", anchor="start"))
    for i, one in enumerate(series):
        color = _COLORS[i % len(_COLORS)]
        path = " ".join(f"{x(p.latency_ms)},{y(p.tok_s)}" for p in one.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        labelled = math.inf, math.inf
        for p in one.points:
            place = x(p.latency_ms), y(p.tok_s)
            parts.append(f'<circle cx="{place[0]}" cy="{place[1]}" r="4" fill="{color}"/>')
            if math.dist(place, labelled) >= _LABEL_HEIGHT:
                parts.append(_text(place[0] + 8, place[1] + 4, p.label, anchor="start"))
                labelled = place
        height = _HEIGHT - _BOTTOM - 14 - 18 * (len(series) - 1 - i)
        parts.append(_text(_WIDTH - _RIGHT - 8, height, one.name, anchor="end", color=color))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        f' font-family="sans-serif">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n'
        "</svg>\n"
    )


def _tick(largest: float) -> float:
    """1, 2 or 5 times a power of ten, so that about five to ten fit."""
    power = 10.0 ** math.floor(math.log10(largest / 5))
    return next(power * factor for factor in (1, 2, 5, 10) if largest / (power * factor) <= 10)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#ddd"/>'


def _text(
    x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12, color: str = "#333"
) -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="{color}">'
        f"{text}</text>"
    )
