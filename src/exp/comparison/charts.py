"""Plotly figures, as the plain dictionaries that plotly.js reads: a hue for each method, a shade for each setting.

Arrays go as base64 of their bytes (plotly's typed arrays): full resolution at full precision, small and quick to write.
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from exp.colours import colours
from exp.comparison.curves import Band, distances, levels, losses, times_to
from exp.comparison.table import MARK, NUMBERS, Row
from exp.comparison.trials import Trial

MOST_NAMED = 30
"""Up to how many settings a legend or the labels of an axis name each; beyond, hovering does."""

MOST_POINTS_SVG = 400_000
"""Up to how many points the curves are drawn as SVG, which every browser can; beyond, by WebGL."""

Figure = dict[str, Any]
GRID = {"gridcolor": "#e6e8eb", "zerolinecolor": "#c9cdd2", "linecolor": "#8a9099", "showline": True, "automargin": True}
LOGARITHMIC = {"type": "log", "exponentformat": "e", "nticks": 9}


def array(values: np.ndarray) -> dict[str, str]:
    """A one-dimensional array for plotly.js, bit for bit."""
    return {"dtype": "f8", "bdata": base64.b64encode(np.ascontiguousarray(values, "<f8").tobytes()).decode()}


def shades(rows: Sequence[Row]) -> list[str]:
    """A colour for each setting."""
    return colours([row.method for row in rows])


def loss_curves(rows: Sequence[Row]) -> Figure:
    """`train/loss` of every run, and of settings with several seeds their mean and band (least to greatest)."""
    points = sum(len(trial.losses) for row in rows for trial in row.trials)
    kind = "scatter" if points <= MOST_POINTS_SVG else "scattergl"
    seeded = any(len(row.trials) > 1 for row in rows)
    traces = []
    for row, colour in zip(rows, shades(rows), strict=True):
        for trial in row.trials:
            if len(trial.losses):
                line = {"color": colour, "width": 1.0 if seeded else 1.6}
                named = {"name": trial.name, "legendgroup": row.setting, "showlegend": not seeded, "hovertext": trial.name}
                traces.append(
                    {"type": kind, "mode": "lines", "y": array(trial.losses), "line": line, "meta": "run", **named}
                    | ({"opacity": 0.55, "visible": False} if seeded else {})
                )
        if seeded and any(len(trial.losses) for trial in row.trials):
            traces += _band_traces(losses(row), row.setting, colour, kind)
    layout = _layout("step", "train/loss", rows, logarithmic=_positive(rows))
    return {"data": traces, "layout": _in_sight(layout, [trial.losses for row in rows for trial in _tame(row)], rows)}


def distance_curves(rows: Sequence[Row], baseline: Row) -> Figure:
    """How far each setting's curve is from the baseline's, relative to it."""
    traces = []
    for row, colour in zip(rows, shades(rows), strict=True):
        if row.setting != baseline.setting and len((found := distances(row, baseline)).mean):
            equal = not np.nanmax(found.high, initial=0.0)
            name = f"{row.setting} (equal bit for bit)" if equal else row.setting
            traces += _band_traces(found, name, colour, "scatter", positive=True)
    layout = _layout("step", "|difference| / baseline", rows, logarithmic=True)
    tame = [distances(row, baseline).high for row in rows if row.setting != baseline.setting and _tame(row) == row.trials]
    return {"data": traces, "layout": _in_sight(layout, tame, rows)}


def time_curves(rows: Sequence[Row]) -> Figure:
    """Seconds of training until a loss was first reached."""
    wanted = levels(rows)
    traces = []
    for row, colour in zip(rows, shades(rows), strict=True):
        if len((found := times_to(row, wanted)).mean):
            name = row.setting + (MARK if not row.verified else "")
            traces += _band_traces(found, name, colour, "scatter", x=wanted)
    layout = _layout("train/loss", "seconds", rows, logarithmic=True)
    layout["xaxis"] |= {"autorange": "reversed"} | (LOGARITHMIC if len(wanted) and wanted[-1] > 0 else {})
    return {"data": traces, "layout": layout}


def bars(rows: Sequence[Row], name: str) -> Figure:
    """One number of every setting as bars: the mean, and the sample standard deviation where there are several seeds."""
    shown = [(row, colour) for row, colour in zip(rows, shades(rows), strict=True) if row.spread(name).n]
    few = len(shown) <= MOST_NAMED
    scale = 2**20 if name.startswith("memory/") else 1
    means = [row.spread(name).mean / scale for row, _ in shown]
    deviations = [0.0 if row.spread(name).n < 2 else row.spread(name).std / scale for row, _ in shown]
    labels = [row.setting + (MARK if name == "speed" and not row.verified else "") for row, _ in shown]
    values, errors = ("x", "error_x") if few else ("y", "error_y")
    trace: dict[str, Any] = {"type": "bar", values: means, ("y" if few else "x"): labels, "orientation": "h" if few else "v"}
    trace |= {"marker": {"color": [colour for _, colour in shown]}, "showlegend": False}
    trace[errors] = {"type": "data", "array": deviations, "visible": any(deviations), "thickness": 1, "color": "#30353b"}
    heading = {"speed": "speed relative to the baseline", "memory/host_bytes": "memory, MiB"}.get(name, NUMBERS.get(name, name))
    heading = "device memory, MiB" if name == "memory/device_bytes" else heading
    across, along = {**GRID, "title": {"text": heading}}, {**GRID, "showgrid": False, "showticklabels": few, "type": "category"}
    logarithmic = name == "final/loss" and bool(means) and min(means) > 0 and max(means) > 20 * min(means)
    across |= LOGARITHMIC if logarithmic else {"rangemode": "tozero"}
    along |= {"autorange": "reversed"} if few else {"title": {"text": f"{len(shown)} settings, in the order of the plan"}}
    layout = _base() | ({"xaxis": across, "yaxis": along} if few else {"xaxis": along, "yaxis": across})
    layout["height"] = max(180, 90 + 24 * len(shown)) if few else 300
    return {"data": [trace], "layout": layout}


def _tame(row: Row) -> list[Trial]:
    """The runs of a setting that did not blow up."""
    return [trial for trial in row.trials if trial.state != "blew up"]


def _in_sight(layout: dict[str, Any], curves: Sequence[np.ndarray], rows: Sequence[Row]) -> dict[str, Any]:
    """The layout with the range of these curves, where others blew up and would press them flat. `meta` is for the script."""
    values = [np.asarray(curve)[np.isfinite(curve)] for curve in curves]
    known = np.concatenate([*values, np.empty(0)])
    logarithmic = layout["yaxis"].get("type") == "log"
    known = known[known > 0] if logarithmic else known
    if len(known) < 2 or all(_tame(row) == row.trials for row in rows) or known.min() == known.max():
        return layout
    low, high = float(known.min()), float(known.max())
    ranges = {"linear": [min(low, 0.0), 1.05 * high]}
    if low > 0:
        ranges["log"] = [float(np.log10(low)) - 0.1, float(np.log10(high)) + 0.1]
    return layout | {"yaxis": layout["yaxis"] | {"range": ranges["log" if logarithmic else "linear"]}, "meta": ranges}


def _positive(rows: Sequence[Row]) -> bool:
    return all((trial.losses > 0).all() for row in rows for trial in row.trials)


def _band_traces(
    found: Band, name: str, colour: str, kind: str, *, x: np.ndarray | None = None, positive: bool = False
) -> list[dict[str, Any]]:
    """The mean as a line, and where there are several runs the band from least to greatest below it."""
    group: dict[str, Any] = {"legendgroup": name, "type": kind, "mode": "lines"} | ({} if x is None else {"x": array(x)})

    def drawn(values: np.ndarray) -> dict[str, str]:
        return array(np.where(values > 0, values, np.nan) if positive else values)

    traces = []
    if found.n > 1:
        edge = {**group, "line": {"width": 0, "color": colour}, "showlegend": False, "hoverinfo": "skip", "meta": "band"}
        low, high = found.low, found.high
        if positive:  # on a logarithmic axis a band from 0 begins at its own foot
            foot = 0.5 * np.min(high[high > 0], initial=np.inf)
            low, high = (np.where(edges > 0, edges, np.where(high > 0, foot, np.nan)) for edges in (low, high))
        traces = [{**edge, "y": array(low)}, {**edge, "y": array(high), "fill": "tonexty", "fillcolor": f"{colour}33"}]
    line = {"color": colour, "width": 1.8}
    return [*traces, {**group, "name": name, "y": drawn(found.mean), "line": line, "meta": "mean", "showlegend": True}]


def _base() -> dict[str, Any]:
    font = {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13, "color": "#1f2328"}
    margins = {"l": 60, "r": 16, "t": 12, "b": 46}
    return {"font": font, "paper_bgcolor": "#fff", "plot_bgcolor": "#fff", "margin": margins, "hovermode": "closest"}


def _layout(x: str, y: str, rows: Sequence[Row], *, logarithmic: bool) -> dict[str, Any]:
    axes = {
        "xaxis": {**GRID, "title": {"text": x}},
        "yaxis": {**GRID, "title": {"text": y}} | (LOGARITHMIC if logarithmic else {}),
    }
    legend = {"x": 1.01, "y": 1, "bgcolor": "rgba(255,255,255,0.8)", "font": {"size": 12}, "tracegroupgap": 2}
    named = sum(len(row.trials) for row in rows) if all(len(row.trials) == 1 for row in rows) else len(rows)
    return _base() | axes | {"legend": legend, "showlegend": named <= MOST_NAMED, "hoverlabel": {"namelength": -1}}
