"""Draws line charts as SVG, without a plotting library."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 400, 240
"""Size of a panel, in pixels of the drawing."""
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 44
"""Margins of a panel around its axes, in pixels."""
HEAD = 64
"""Height of the title and the legend, in pixels."""
INK, GRID = "#333", "#e4e4e4"

Line = Sequence[float]


@dataclass(frozen=True)
class Panel:
    """A chart with one pair of axes."""

    title: str
    across: str
    """Label of the horizontal axis."""
    first: int
    """First value of the horizontal axis."""
    lines: Mapping[str, Sequence[Line]]
    """Name → one line, or several (one per seed) that are drawn as their median and range."""


def drawing(title: str, rows: Sequence[Sequence[Panel]], colours: Mapping[str, str]) -> str:
    """Return an SVG page of panels. `colours` maps line names to colours and is the legend."""
    width, height = WIDTH * len(rows[0]), HEAD + HEIGHT * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(LEFT, 26, title, 'font-size="16" font-weight="bold"'),
    ]
    for index, (name, colour) in enumerate(colours.items()):
        x = LEFT + 150 * index
        parts.append(f'<path d="M{x} 46h24" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(_text(x + 32, 50, name))
    for down, row in enumerate(rows):
        for across, panel in enumerate(row):
            parts.append(f'<g transform="translate({across * WIDTH} {HEAD + down * HEIGHT})">')
            parts += [*_panel(panel, colours), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, colours: Mapping[str, str]) -> list[str]:
    values = [value for lines in panel.lines.values() for line in lines for value in line]
    step = _step(max(values) - min(0.0, *values))
    top = step * math.ceil(max(values) * 1.02 / step)
    count = max(len(line) for lines in panel.lines.values() for line in lines)
    span = WIDTH - LEFT - RIGHT

    def x(index: float) -> float:
        return round(LEFT + span * index / max(1, count - 1), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top, 1)

    parts = [_text(LEFT, 20, panel.title, 'font-weight="bold"')]
    for index in range(round(top / step) + 1):
        at = y(index * step)
        parts.append(f'<path d="M{LEFT} {at}h{span}" stroke="{GRID if index else INK}"/>')
        parts.append(_text(LEFT - 8, at + 4, f"{index * step:.4g}", 'text-anchor="end"'))
    for index in range(count):
        parts.append(f'<path d="M{x(index)} {HEIGHT - BOTTOM}v4" stroke="{INK}"/>')
        parts.append(_text(x(index), HEIGHT - BOTTOM + 18, str(index + panel.first), 'text-anchor="middle"'))
    parts.append(_text(LEFT + span / 2, HEIGHT - 8, panel.across, 'text-anchor="middle"'))
    for name, lines in panel.lines.items():
        ordered = [sorted(values) for values in zip(*lines, strict=True)]
        if len(lines) > 1:
            edge = [f"{x(i)},{y(v[0])}" for i, v in enumerate(ordered)]
            edge += [f"{x(i)},{y(v[-1])}" for i, v in reversed(list(enumerate(ordered)))]
            parts.append(f'<polygon points="{" ".join(edge)}" fill="{colours[name]}" opacity="0.2"/>')
        points = [(x(i), y(v[len(v) // 2])) for i, v in enumerate(ordered)]
        path = " ".join(f"{a},{b}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colours[name]}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{a}" cy="{b}" r="3" fill="{colours[name]}"/>' for a, b in points]
    return parts


def _step(span: float) -> float:
    """Return a round distance between grid lines, for about four of them."""
    rough = max(span, 1e-9) / 4
    power = 10 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x}" y="{y}" {style}>{escape(text)}</text>'
