"""Where one device begins to win over another: the answer in a sentence, and the page with its plots."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from typing import Any

from exp.benchmark.table import COLUMNS, Status, notes, rows_of, text
from exp.colours import colours
from exp.comparison.charts import GRID, LOGARITHMIC, Figure
from exp.comparison.page import POLICY
from exp.comparison.page_parts import STYLE
from exp.verification.verdict import EQUIVALENT

CLAIM = 50.0
"""The tutorial: "for modern deep neural networks, GPUs often provide speedups of 50x or greater"."""

PLACE = ("method", "device", "precision", "threads")
"""What differs between the runs of one size."""


@dataclass(frozen=True, order=True)
class Point:
    """A measured size: hidden units (of all layers), rows of a batch, and what else tells it from others of that shape."""

    hidden: int
    rows: int
    setting: str = ""

    @property
    def size(self) -> int:
        return self.hidden * self.rows

    @property
    def said(self) -> str:
        return f"{self.hidden} hidden units, batch {self.rows}{f', {self.setting}' if self.setting else ''}"


def points(statuses: Sequence[Status]) -> dict[Point, list[Status]]:
    """The runs of every size, the narrowest first. Several sizes of one shape differ in an optimizer, a loss, a seed, …"""
    known = [status for status in statuses if "shape" in status["benchmark"]]
    shapes: dict[tuple[int, int], dict[str, list[Status]]] = {}
    for status in known:
        hidden, rows = status["benchmark"]["shape"]
        shapes.setdefault((int(hidden), int(rows)), {}).setdefault(status["benchmark"].get("size_key", ""), []).append(status)
    apart = {key for sizes in shapes.values() for key in _apart([*sizes.values()])}
    found: dict[Point, list[Status]] = {}
    for (hidden, rows), sizes in sorted(shapes.items()):
        for size_key, members in sizes.items():
            told = _told(members[0])
            setting = " ".join(f"{key}={told[key]}" for key in sorted(apart & told.keys()))
            if (point := Point(hidden, rows, setting)) in found:  # what it was planned with does not tell them apart
                point = Point(hidden, rows, f"{setting} ({size_key[:6]})".strip())
            found[point] = members
    return found


def _told(status: Status) -> dict[str, str]:
    """What a run was planned with."""
    chosen = status["choices"] | status.get("factors", {})
    return {key: str(value) for key, value in chosen.items() if key not in PLACE}


def _apart(sizes: Sequence[Sequence[Status]]) -> set[str]:
    """The keys in which sizes of one shape differ, and all runs of each agree."""
    told = [[_told(status) for status in size] for size in sizes]
    keys = {key for size in told for each in size for key in each}
    values = {key: [{each.get(key) for each in size} for size in told] for key in keys}
    return {key for key, each in values.items() if max(map(len, each)) == 1 and len(set.union(*each)) > 1}


def answer(statuses: Sequence[Status]) -> list[str]:
    """Where a GPU begins to win, and whether it is CLAIM times as fast; or that nobody has measured it. Of several sizes."""
    every = points(statuses)
    if len({point.hidden for point in every}) < 2 or len({point.rows for point in every}) < 2:
        return []
    speeds = {point: ratio for point, runs in every.items() if (ratio := gpu_speed(runs)) is not None}
    if not speeds:
        return [f"{CLAIM:.0f} times or more on a GPU, as the tutorial says: not measured, no GPU was timed beside a CPU here"]
    least = {point: gpu_speed(every[point], least=True) or 0.0 for point in speeds}
    sure, perhaps = ([point for point, ratio in found.items() if ratio > 1] for found in (least, speeds))
    wins = f"wins {_at(sure, speeds)}" if sure else "wins nowhere here"
    if perhaps and not sure:
        wins = f"is not sure to win at any of these sizes, perhaps {_at(perhaps, speeds)}: the intervals are too wide"
    best = max(speeds, key=lambda point: speeds[point])
    line = f"the GPU {wins}; at most it is {speeds[best]:.3g} times as fast as the CPU's fastest ({best.said})"
    sure = [point for point, ratio in least.items() if ratio >= CLAIM]
    perhaps = [point for point, ratio in speeds.items() if ratio >= CLAIM]
    true = f"true {_at(sure, speeds)}" if sure else "not true at any of these sizes"
    if perhaps and not sure:
        true = f"not sure at any of these sizes, perhaps {_at(perhaps, speeds)}: the intervals are too wide"
    found = [line, f"{CLAIM:.0f} times or more, as the tutorial says: {true}"]
    threads, cores = max((own["threads"], own["cores"]) for own in (each["benchmark"] for each in statuses if _on_cpu(each)))
    if threads < cores:
        found.append(f"the CPU computed with {threads} of its {cores} cores; threads={cores} gives it all of them")
    return found


def _at(some: Sequence[Point], every: Iterable[Point]) -> str:
    """Where something holds: from a size on, where it does at all that are as large too; else at how many."""
    every, first = list(every), min(some, key=lambda point: (point.size, point))
    if all(point in some for point in every if point.size >= first.size):
        return f"from {first.said} on"
    return f"at {len(some)} of {len(every)} sizes, the smallest {first.said}"


def _on_cpu(status: Status) -> bool:
    return status["choices"]["device"] == "cpu" and "shape" in status["benchmark"]


def gpu_speed(runs: Sequence[Status], *, least: bool = False) -> float | None:
    """The fastest equivalent GPU combination of a size relative to the fastest equivalent CPU one; None where one is missing.

    By their medians, or `least`: by the ends of their intervals at which the GPU is the slowest, the CPU the fastest.
    """

    def fastest(on_cpu: bool, end: str) -> float | None:
        seconds = [
            status["metrics"][f"speed/step_seconds{end}"]
            for status in runs
            if _on_cpu(status) == on_cpu and status["verdict"] == EQUIVALENT and not status["benchmark"].get("refused")
        ]
        return min(seconds, default=None)

    cpu, gpu = fastest(True, "_low" if least else ""), fastest(False, "_high" if least else "")
    return None if cpu is None or gpu is None else cpu / gpu


def page(statuses: Sequence[Status]) -> str:
    """One file that opens offline: the table, what is to be known of it, and the plots."""
    from plotly.offline import get_plotlyjs

    figures = charts(statuses)
    written = json.dumps(figures, allow_nan=False, separators=(",", ":")).replace("</", "<\\/")
    said = "".join(f"<li>{escape(line)}</li>" for line in [*answer(statuses), *notes(statuses)])
    places = "".join(
        f'<section><h2>{escape(title)}</h2><div class="chart tall" id="{escape(title)}"></div></section>' for title in figures
    )
    draw = "for (const name in figures) Plotly.newPlot(name, figures[name].data, figures[name].layout, {responsive: true});"
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>benchmark</title>',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">',
            f'<style>{STYLE}</style></head><body><header><h1>Benchmark</h1><ul class="notes">{said}</ul></header>',
            f'<section><h2>Speed</h2><div class="scroll few">{_table(statuses)}</div></section>{places}',
            f"<script>{get_plotlyjs()}</script><script>const figures = {written};\n{draw}\n",
            'document.body.dataset.drawn = "all";</script></body></html>',
        ]
    )


def _table(statuses: Sequence[Status]) -> str:
    columns = ["run", *COLUMNS]
    heads = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = (
        f"<tr>{''.join(f'<td>{escape(text(status, column))}</td>' for column in columns)}</tr>" for status in rows_of(statuses)
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def charts(statuses: Sequence[Status]) -> dict[str, Figure]:
    """By title: the time of a step over the size where there are several, else a bar for each."""
    timed = [status for status in rows_of(statuses) if "speed/step_seconds" in status["metrics"]]
    every = points(timed)
    if len({(point.hidden, point.rows) for point in every}) < 2:
        return {"Time of a step": _bars(timed)}
    over = "batch" if len({point.rows for point in every}) > 1 else "width"
    found = {f"Time of a step over the {over}": _lines(every, over_batch=over == "batch")}
    maps: dict[str, dict[Point, float]] = {}
    for point, runs in every.items():
        if (ratio := gpu_speed(runs)) is not None:
            maps.setdefault(point.setting, {})[point] = ratio
    return found | {f"GPU relative to CPU{f', {setting}' if setting else ''}": _map(wins) for setting, wins in maps.items()}


def _bars(timed: Sequence[Status]) -> Figure:
    palette = colours([status["choices"]["method"] for status in timed])
    middle = [status["metrics"]["speed/step_seconds"] for status in timed]
    low, high = ([status["metrics"][f"speed/step_seconds_{end}"] for status in timed] for end in ("low", "high"))
    error = {
        "type": "data",
        "array": [h - m for h, m in zip(high, middle, strict=True)],
        "arrayminus": [m - each for m, each in zip(middle, low, strict=True)],
    }
    names = [status["name"] for status in timed]
    trace = {"type": "bar", "x": middle, "y": names, "orientation": "h", "error_x": error, "marker": {"color": palette}}
    axes = {"xaxis": {**GRID, "title": {"text": "seconds a step, median and its 95 % interval"}}}
    return {"data": [trace], "layout": _layout() | axes | {"yaxis": {**GRID, "autorange": "reversed"}}}


def _lines(every: dict[Point, list[Status]], *, over_batch: bool) -> Figure:
    """A line for each method, device and width over the batch; or over the width, of one batch. Each of one setting."""
    several = len({status["benchmark"]["threads"] for runs in every.values() for status in runs}) > 1
    lines: dict[tuple[str, str, int], list[tuple[int, float]]] = {}
    for point, status in ((point, status) for point, runs in every.items() for status in runs):
        who = " ".join(status["choices"][group] for group in ("method", "device", "precision"))
        also = ", ".join([f"threads={status['benchmark']['threads']}"] * several + [point.setting] * bool(point.setting))
        across, other = (point.rows, point.hidden) if over_batch else (point.hidden, point.rows)
        lines.setdefault((who, also, other), []).append((across, status["metrics"]["speed/step_seconds"]))
    traces: list[dict[str, Any]] = []
    for ((who, also, other), measured), colour in zip(lines.items(), colours([who for who, _, _ in lines]), strict=True):
        xs, ys = zip(*sorted(measured), strict=True)
        marks = {
            "mode": "lines+markers",
            "line": {"color": colour},
            "name": f"{who}{', ' * bool(also)}{also}, {'hidden' if over_batch else 'batch'} {other}",
        }
        traces.append({"type": "scatter", "x": list(xs), "y": list(ys)} | marks)
    axes = {
        "xaxis": {**GRID, **LOGARITHMIC, "title": {"text": "rows of a batch" if over_batch else "hidden units"}},
        "yaxis": {**GRID, **LOGARITHMIC, "title": {"text": "seconds a step"}},
    }
    return {"data": traces, "layout": _layout() | axes}


def _map(wins: dict[Point, float]) -> Figure:
    """How many times as fast the GPU is, for every width and batch of one setting."""
    across, along = sorted({point.rows for point in wins}), sorted({point.hidden for point in wins})
    shapes = {(point.hidden, point.rows): ratio for point, ratio in wins.items()}
    values = [[shapes.get((hidden, rows)) for rows in across] for hidden in along]
    shown = [[None if value is None else f"{value:.3g}" for value in row] for row in values]
    colour = [[None if value is None else log10(value) for value in row] for row in values]
    trace = {"type": "heatmap", "x": [str(rows) for rows in across], "y": [str(hidden) for hidden in along], "z": colour}
    trace |= {"text": shown, "texttemplate": "%{text}", "hoverinfo": "x+y+text", "colorscale": "RdBu", "zmid": 0}
    powers = range(-4, 5)
    trace |= {"colorbar": {"tickvals": [*powers], "ticktext": [f"{10.0**power:g}" for power in powers]}}
    axes = {"xaxis": {"type": "category", "title": {"text": "rows of a batch"}}}
    axes |= {"yaxis": {"type": "category", "title": {"text": "hidden units"}}}
    return {"data": [trace], "layout": _layout() | axes}


def _layout() -> dict[str, Any]:
    font = {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13, "color": "#1f2328"}
    return {"font": font, "paper_bgcolor": "#fff", "plot_bgcolor": "#fff", "margin": {"l": 70, "r": 16, "t": 12, "b": 46}}
