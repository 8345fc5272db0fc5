"""What the pages of a comparison and of a benchmark have in common: frame, style, script and the list of what is to be known.

The script draws the figures in turn, and what its buttons do is plotly's own.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"
"""What the browser holds the page to: nothing is loaded from anywhere."""

COLOURED = ("warning", "unverified", "failed", "blew up")

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1500px; padding: 14px 24px 40px; background: #f6f7f9; color: #1f2328;
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 20px; margin: 0; } header p { margin: 0 0 8px; color: #59636e; }
h2 { font-size: 15px; margin: 0 0 8px; display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center; }
section { background: #fff; border: 1px solid #dfe3e8; border-radius: 8px; padding: 12px 16px; margin-top: 12px; }
.beside { display: flex; flex-wrap: wrap; gap: 0 12px; } .beside > section { flex: 1 1 330px; min-width: 0; }
.beside > #table { flex: 100 1 auto; max-width: 100%; } #differs li { overflow-wrap: anywhere; }
ul { margin: 0; padding-left: 18px; }
.results { display: flex; flex-wrap: wrap; gap: 8px; padding: 0; list-style: none; }
.results li { background: #fff; border: 1px solid #dfe3e8; border-radius: 8px; padding: 6px 14px; }
.results span { display: block; color: #59636e; font-size: 12px; } .results em { font-style: normal; margin-left: 8px; }
.notes { margin-top: 8px; padding: 0; list-style: none; max-height: 150px; overflow: auto; }
.notes li { padding-left: 10px; border-left: 3px solid #c9cdd2; margin-bottom: 2px; }
.notes .warning, .notes .unverified { border-color: #d49a00; } .notes .failed, .notes .blew-up { border-color: #c93c37; }
.scroll { max-height: 250px; overflow: auto; } .scroll.few { max-height: none; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 18px 3px 0; text-align: left; white-space: nowrap; vertical-align: top; }
th { position: sticky; top: 0; background: #fff; border-bottom: 1px solid #c9cdd2; font-weight: 600; }
.sortable th { cursor: pointer; } .sortable th[data-order="1"]::after { content: " ↑"; }
.sortable th[data-order="-1"]::after { content: " ↓"; }
tbody tr:nth-child(even) td { background: #fafbfc; } tr.baseline td { font-weight: 600; }
#environment td, .wide td { white-space: normal; overflow-wrap: anywhere; }
.chart { height: 380px; } .chart.tall { height: 460px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(430px, 1fr)); gap: 12px; align-items: start; }
.buttons { display: inline-flex; border: 1px solid #c9cdd2; border-radius: 6px; overflow: hidden; }
.buttons button { border: 0; background: #fff; padding: 2px 10px; font: inherit; font-size: 12px; cursor: pointer; }
.buttons button.on { background: #1f2328; color: #fff; }
"""

SCRIPT = """
const config = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"]};
const place = name => document.getElementById(name);

function mark(button) {
  for (const other of button.parentElement.children) other.classList.toggle("on", other === button);
}

document.querySelectorAll("button[data-scale]").forEach(button => {
  const name = button.parentElement.dataset.for;
  const now = figures[name].layout.yaxis.type === "log" ? "log" : "linear";
  if (button.dataset.scale === now) mark(button);
  button.onclick = () => {
    mark(button);
    const range = (figures[name].layout.meta || {})[button.dataset.scale];
    const shown = range ? {"yaxis.range": range} : {"yaxis.autorange": true};
    Plotly.relayout(name, {"yaxis.type": button.dataset.scale, ...shown});
  };
});

document.querySelectorAll("button[data-show]").forEach(button => {
  if (button.dataset.show === "mean") mark(button);
  button.onclick = () => {
    mark(button);
    const runs = button.dataset.show === "run";
    Plotly.restyle("losses", {visible: place("losses").data.map(trace => (trace.meta === "run") === runs)});
  };
});

document.querySelectorAll(".sortable").forEach(table => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.onclick = () => {
    const order = head.dataset.order === "1" ? -1 : 1;
    heads.forEach(other => delete other.dataset.order);
    head.dataset.order = order;
    const value = row => row.cells[column].dataset.value;
    const compare = (one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === "" || b === "") return (a === "") - (b === "");
      return order * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  });
});

(async () => {
  for (const name in figures) {
    await Plotly.newPlot(name, figures[name].data, figures[name].layout, config);
    await new Promise(done => setTimeout(done));
  }
  document.body.dataset.drawn = "all";
})();
"""


def document(title: str, body: Sequence[str], figures: Mapping[str, Any]) -> str:
    """The whole file, plotly.js in it. `figures` are drawn in the elements of their ids."""
    from plotly.offline import get_plotlyjs

    written = json.dumps(figures, allow_nan=False, separators=(",", ":")).replace("</", "<\\/")
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<style>{STYLE}</style></head><body>",
            *body,
            f"<script>{get_plotlyjs()}</script>",
            f"<script>const figures = {written};\n{SCRIPT}</script>",
            "</body></html>",
        ]
    )


def note_list(notes: Sequence[str]) -> str:
    """A list, in colour where a note begins with one of COLOURED and a colon."""
    kinds = [note.partition(":")[0] for note in notes]
    classes = [f' class="{kind.replace(" ", "-")}"' if kind in COLOURED else "" for kind in kinds]
    items = (f"<li{each}>{escape(note)}</li>" for each, note in zip(classes, notes, strict=True))
    return f'<ul class="notes">{"".join(items)}</ul>'
