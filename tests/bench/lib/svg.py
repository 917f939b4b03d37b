# SPDX-License-Identifier: MIT
"""Two panels: throughput and p99 of the point reads over the number of workers."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 900, 400
PANEL_WIDTH, PANEL_HEIGHT, LEFT, TOP, GAP = 350, 270, 70, 50, 90
COLORS = {"broker": "#0b6e4f", "libpq": "#c8553d", "pgbouncer": "#2f5d9b"}


class Panel:
    def __init__(self, x, title, unit, lines, log):
        self.x, self.title, self.unit, self.lines, self.log = x, title, unit, lines, log
        self.workers = sorted({n for line in lines.values() for n, _ in line})
        values = [v for line in lines.values() for _, v in line]
        if log:
            self.low = 10 ** math.floor(math.log10(min(values)))
            self.high = 10 ** math.ceil(math.log10(max(values)))
            if self.high <= self.low:
                self.high = self.low * 10
        else:
            self.low, self.high = 0, _round_up(max(values))

    def px(self, workers):
        i = self.workers.index(workers)
        return self.x + PANEL_WIDTH * (i + 0.5) / len(self.workers)

    def py(self, value):
        if self.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = value / self.high
        return TOP + PANEL_HEIGHT * (1 - part)

    def ticks(self):
        if self.log:
            steps = round(math.log10(self.high / self.low))
            return [self.low * 10 ** i for i in range(steps + 1)]
        return [self.high * i / 4 for i in range(5)]

    def draw(self):
        out = [_text(self.x, TOP - 18, self.title, "start", "title")]
        for t in self.ticks():
            y = self.py(t)
            out.append(f'<line x1="{self.x}" y1="{y:.1f}" x2="{self.x + PANEL_WIDTH}" y2="{y:.1f}" '
                       'class="grid"/>')
            out.append(_text(self.x - 8, y + 4, _short(t) + self.unit, "end"))
        for n in self.workers:
            out.append(_text(self.px(n), TOP + PANEL_HEIGHT + 18, str(n), "middle"))
        out.append(_text(self.x + PANEL_WIDTH / 2, TOP + PANEL_HEIGHT + 38, "workers", "middle"))
        for name, line in self.lines.items():
            color = COLORS.get(name, "#777777")
            points = " ".join(f"{self.px(n):.1f},{self.py(v):.1f}" for n, v in line)
            out.append(f'<polyline points="{points}" fill="none" stroke="{color}" '
                       'stroke-width="2.5"/>')
            for n, v in line:
                out.append(f'<circle cx="{self.px(n):.1f}" cy="{self.py(v):.1f}" r="3.5" '
                           f'fill="{color}"><title>{escape(name)}, {n} workers: {_short(v)}'
                           f"{self.unit}</title></circle>")
        return out


def _round_up(v):
    """The next 1, 2, 4, 5 or 8 with zeros behind it."""
    base = 10 ** math.floor(math.log10(v))
    return next(m * base for m in (1, 2, 4, 5, 8, 10) if m * base >= v)


def _short(v):
    if v >= 1000:
        return f"{v / 1000:g}k" if v % 100 == 0 else f"{v / 1000:.1f}k"
    return f"{v:.3g}"


def _text(x, y, text, anchor, kind="label"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">'
            f"{escape(text)}</text>")


def _lines(table, value):
    out = {}
    for (series, workers, contender), cell in table.items():
        if series == "point" and contender in COLORS and value(cell):
            out.setdefault(contender, []).append((workers, value(cell)))
    return {name: sorted(line) for name, line in out.items()}


def plot(table):
    """table: figures.cells().  The SVG as text."""
    rates = _lines(table, lambda c: c.rate)
    tails = _lines(table, lambda c: c.latency["p99"] * 1000)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
           f'width="{WIDTH}" height="{HEIGHT}">',
           "<style>text{font:13px sans-serif;fill:#333}"
           ".title{font-weight:bold}.grid{stroke:#ccc;stroke-width:1}</style>",
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>']
    if rates and tails:
        out += Panel(LEFT, "point reads, statements per second", "", rates, False).draw()
        out += Panel(LEFT + PANEL_WIDTH + GAP, "p99 (logarithmic)", " ms", tails, True).draw()
        x = LEFT
        for name in rates:
            out.append(f'<rect x="{x}" y="{HEIGHT - 18}" width="14" height="4" '
                       f'fill="{COLORS[name]}"/>')
            out.append(_text(x + 20, HEIGHT - 12, name, "start"))
            x += 110
    out.append("</svg>")
    return "\n".join(out) + "\n"
