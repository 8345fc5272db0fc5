"""Where one device begins to win over another: the answer in a sentence, and the page with its plots."""

import json
from collections.abc import Sequence
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

Shape = tuple[int, int]
"""Hidden units (of all layers) and rows of a batch."""


def answer(statuses: Sequence[Status]) -> list[str]:
    """Where a GPU begins to win, and whether it is CLAIM times as fast; or that nobody has measured it. Of several sizes."""
    shapes = {shape_of(status) for status in statuses if "shape" in status["benchmark"]}
    if len({hidden for hidden, _ in shapes}) < 2 or len({rows for _, rows in shapes}) < 2:
        return []
    wins = {shape: ratio for shape in sorted(shapes) if (ratio := gpu_speed(statuses, shape)) is not None}
    if not wins:
        return [f"{CLAIM:.0f} times or more on a GPU, as the tutorial says: not measured, no GPU was timed beside a CPU here"]
    begin = [shape for shape, ratio in wins.items() if ratio > 1]
    best = max(wins, key=lambda shape: wins[shape])
    sure = [shape for shape in wins if (gpu_speed(statuses, shape, least=True) or 0.0) >= CLAIM]
    perhaps = [shape for shape, ratio in wins.items() if ratio >= CLAIM]
    where = f"begins to win at {_said(min(begin, key=_size))}" if begin else "wins nowhere here"
    line = f"the GPU {where}; at most it is {wins[best]:.3g} times as fast as the CPU's fastest ({_said(best)})"
    true = f"true from {_said(min(sure, key=_size))} on" if sure else "not true at any of these sizes"
    if perhaps and not sure:
        true = f"not sure at any of these sizes, perhaps from {_said(min(perhaps, key=_size))} on: the intervals are too wide"
    found = [line, f"{CLAIM:.0f} times or more, as the tutorial says: {true}"]
    threads, cores = max((own["threads"], own["cores"]) for own in (each["benchmark"] for each in statuses if _on_cpu(each)))
    if threads < cores:
        found.append(f"the CPU computed with {threads} of its {cores} cores; threads={cores} gives it all of them")
    return found


def _on_cpu(status: Status) -> bool:
    return status["choices"]["device"] == "cpu" and "shape" in status["benchmark"]


def _size(shape: Shape) -> int:
    return shape[0] * shape[1]


def _said(shape: Shape) -> str:
    return f"{shape[0]} hidden units, batch {shape[1]}"


def shape_of(status: Status) -> Shape:
    hidden, rows = status["benchmark"]["shape"]
    return int(hidden), int(rows)


def gpu_speed(statuses: Sequence[Status], shape: Shape, *, least: bool = False) -> float | None:
    """The fastest equivalent GPU combination relative to the fastest equivalent CPU one; None where one is missing.

    By their medians, or `least`: by the ends of their intervals at which the GPU is the slowest, the CPU the fastest.
    """

    def fastest(on_cpu: bool, end: str) -> float | None:
        seconds = [
            status["metrics"][f"speed/step_seconds{end}"]
            for status in statuses
            if "shape" in status["benchmark"]
            and shape_of(status) == shape
            and _on_cpu(status) == on_cpu
            and status["verdict"] == EQUIVALENT
            and not status["benchmark"].get("refused")
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
        f'<section><h2>{escape(title)}</h2><div class="chart tall" id="{title}"></div></section>' for title in figures
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
    shapes = {shape_of(status) for status in timed if "shape" in status["benchmark"]}
    if len(shapes) < 2:
        return {"Time of a step": _bars(timed)}
    over = "batch" if len({rows for _, rows in shapes}) > 1 else "width"
    found = {f"Time of a step over the {over}": _lines(timed, over_batch=over == "batch")}
    wins = {shape: ratio for shape in sorted(shapes) if (ratio := gpu_speed(statuses, shape)) is not None}
    return found | ({"GPU relative to CPU": _map(wins)} if wins else {})


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


def _lines(timed: Sequence[Status], *, over_batch: bool) -> Figure:
    """A line for each method, device and width over the batch; or over the width, of one batch."""
    lines: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for status in timed:
        if "shape" in status["benchmark"]:
            hidden, rows = shape_of(status)
            who = " ".join(status["choices"][group] for group in ("method", "device", "precision"))
            point = rows if over_batch else hidden, status["metrics"]["speed/step_seconds"]
            lines.setdefault((who, hidden if over_batch else rows), []).append(point)
    traces: list[dict[str, Any]] = []
    for (who, other), colour in zip(lines, colours([who for who, _ in lines]), strict=True):
        points = sorted(lines[who, other])
        xs, ys = zip(*points, strict=True)
        marks = {
            "mode": "lines+markers",
            "line": {"color": colour},
            "name": f"{who}, {'hidden' if over_batch else 'batch'} {other}",
        }
        traces.append({"type": "scatter", "x": list(xs), "y": list(ys)} | marks)
    axes = {
        "xaxis": {**GRID, **LOGARITHMIC, "title": {"text": "rows of a batch" if over_batch else "hidden units"}},
        "yaxis": {**GRID, **LOGARITHMIC, "title": {"text": "seconds a step"}},
    }
    return {"data": traces, "layout": _layout() | axes}


def _map(wins: dict[Shape, float]) -> Figure:
    """How many times as fast the GPU is, for every width and batch."""
    across, along = (sorted({shape[place] for shape in wins}) for place in (1, 0))
    values = [[wins.get((hidden, rows)) for rows in across] for hidden in along]
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
