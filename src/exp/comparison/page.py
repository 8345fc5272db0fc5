"""One self-contained HTML file: it opens offline, asks the network for nothing, and its first screen tells the result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from exp.comparison.cells import columns, heading, text
from exp.comparison.charts import Figure, bars, distance_curves, loss_curves, time_curves
from exp.comparison.page_parts import document, note_list
from exp.comparison.table import Row


@dataclass(frozen=True)
class Contents:
    """What the page shows beside its charts."""

    title: str
    subtitle: str
    rows: Sequence[Row]
    baseline: Row
    notes: Sequence[str]
    differs: Sequence[str]
    environment: Sequence[tuple[str, str]]
    pair: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None


def page(contents: Contents) -> str:
    """The whole file, plotly.js in it."""
    figures = charts(contents.rows, contents.baseline)
    return document(contents.title, [_top(contents), *_sections(contents, figures)], figures)


def charts(rows: Sequence[Row], baseline: Row) -> dict[str, Figure]:
    """Every figure by the id of its place in the page."""
    names = [name for name in ("final/loss", *_valid(rows), "speed", "time/train_seconds") if _has(rows, name)]
    names += [name for name in ("memory/host_bytes", "memory/device_bytes") if _has(rows, name)]
    found = {"losses": loss_curves(rows)}
    if len(rows) > 1:
        found["distances"] = distance_curves(rows, baseline)
    found["times"] = time_curves(rows)
    return found | {f"bars-{number}": bars(rows, name) for number, name in enumerate(names)}


def _valid(rows: Sequence[Row]) -> list[str]:
    return [name for name in rows[0].numbers if name.startswith("final/valid_")][:1]


def _has(rows: Sequence[Row], name: str) -> bool:
    return any(row.spread(name).n for row in rows)


def _top(contents: Contents) -> str:
    return (
        f"<header><h1>{escape(contents.title)}</h1><p>{escape(contents.subtitle)}</p>"
        f'<ul class="results">{"".join(f"<li>{line}</li>" for line in _results(contents))}</ul>'
        f"{note_list(contents.notes)}</header>"
    )


def _results(contents: Contents) -> list[str]:
    """The result in a sentence each: the best, the fastest, the baseline."""
    finished = [row for row in contents.rows if row.n]
    found = [f"<span>Baseline</span><b>{escape(contents.baseline.setting)}</b>"]
    if scored := [row for row in finished if row.spread("final/loss").n]:
        best = min(scored, key=lambda row: row.spread("final/loss").mean)
        value = escape(text(best, "final/loss"))
        found.append(f"<span>Lowest final loss</span><b>{escape(best.setting)}</b><em>{value}</em>")
    for name in _valid(contents.rows):
        if valid := [row for row in finished if row.spread(name).n]:
            best = max(valid, key=lambda row: row.spread(name).mean)
            label = f"Best {heading(name)}"
            found.append(f"<span>{label}</span><b>{escape(best.setting)}</b><em>{escape(text(best, name))}</em>")
    if timed := [row for row in finished if row.speed.n]:
        fastest = max(timed, key=lambda row: row.speed.mean)
        found.append(f"<span>Fastest</span><b>{escape(fastest.setting)}</b><em>{escape(text(fastest, 'speed'))}</em>")
    return found


def _sections(contents: Contents, figures: Mapping[str, Figure]) -> list[str]:
    both = '<button data-scale="log">log</button><button data-scale="linear">linear</button>'
    scale = f'<span class="buttons" data-for="{{}}">{both}</span>'
    seeded = any(trace.get("meta") == "band" for trace in figures["losses"]["data"])
    shown = '<button data-show="mean">mean and band</button><button data-show="run">every run</button>'
    show = f'<span class="buttons" data-for="losses">{shown}</span>' if seeded else ""
    few = "" if len(contents.rows) > 12 else " few"
    differs = "".join(f"<li>{escape(line)}</li>" for line in contents.differs)
    found = [
        f'<div class="beside"><section id="table"><h2>Relative to {escape(contents.baseline.setting)}</h2>',
        f'<div class="scroll{few}">{_table(contents)}</div></section>',
        f'<section id="differs"><h2>What differs apart from the declared factors</h2><ul>{differs}</ul></section></div>',
        f'<section><h2>Training loss{scale.format("losses")}{show}</h2><div class="chart tall" id="losses"></div></section>',
    ]
    if "distances" in figures:
        title = f"Difference to the baseline’s curve{scale.format('distances')}"
        found.append(f'<section><h2>{title}</h2><div class="chart" id="distances"></div></section>')
    found.append(f'<section><h2>Time to a loss{scale.format("times")}</h2><div class="chart" id="times"></div></section>')
    places = "".join(f'<div class="bars" id="{name}"></div>' for name in figures if name.startswith("bars-"))
    found.append(f'<section><h2>Final numbers</h2><div class="grid">{places}</div></section>')
    if contents.pair:
        found.append(f"<section><h2>Everything that differs between the two</h2>{_grid(*contents.pair)}</section>")
    environment = _grid(("what", "value"), contents.environment)
    return [*found, f'<section id="environment"><h2>Environment</h2>{environment}</section>']


def _table(contents: Contents) -> str:
    names = columns(contents.rows)
    heads = "".join(f"<th>{escape(heading(name))}</th>" for name in names)
    lines = []
    for row in contents.rows:
        mark = ' class="baseline"' if row.setting == contents.baseline.setting else ""
        cells = (f'<td data-value="{_sortable(row, name)}">{escape(text(row, name))}</td>' for name in names)
        lines.append(f"<tr{mark}>{''.join(cells)}</tr>")
    return f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def _sortable(row: Row, name: str) -> str:
    value: Any = row.values.get({"time/train_seconds": "seconds"}.get(name, name))
    return "" if value is None else escape(str(value), quote=True)


def _grid(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
