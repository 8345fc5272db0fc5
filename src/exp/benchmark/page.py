"""The page of a benchmark: its table, what is to be known of it, and the plots."""

from collections.abc import Sequence
from html import escape
from math import log10
from typing import Any

from exp.benchmark.crossing import Point, answer, gpu_speed, points
from exp.benchmark.table import COLUMNS, Status, notes, rows_of, text
from exp.colours import colours
from exp.comparison.charts import GRID, LOGARITHMIC, Figure
from exp.comparison.page_parts import document, note_list


def page(statuses: Sequence[Status]) -> str:
    """One file that opens offline."""
    figures = charts(statuses)
    places = (
        f'<section><h2>{escape(each)}</h2><div class="chart tall" id="{escape(each)}"></div></section>' for each in figures
    )
    top = f"<header><h1>Benchmark</h1>{note_list([*answer(statuses), *notes(statuses)])}</header>"
    table = f'<section><h2>Speed</h2><div class="scroll few">{_table(statuses)}</div></section>'
    return document("benchmark", [top, table, *places], figures)


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
