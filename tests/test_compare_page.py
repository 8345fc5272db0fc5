"""The page of a comparison in headless Chromium: drawn from one file, offline, with 3 and with 500 runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import exp as command
from test_browser import CHROMIUM, browser
from written_sweeps import grid, written_sweep

from exp.sweep_folder import sweeps

__all__ = ["browser"]

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the path")]


def opened(browser: Any, folder: Path, *words: str) -> tuple[Any, list[str], list[str]]:
    """The drawn page of the sweep in `folder`, what it asked for, and what its console said of trouble."""
    done = command("task=compare", *words, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    file = sweeps(folder / "runs")[-1].path / "compare.html"
    page = browser.new_page(viewport={"width": 1500, "height": 950})
    page.set_default_timeout(120_000)
    asked: list[str] = []
    trouble: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: trouble.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(file.absolute().as_uri())
    page.wait_for_function("document.body.dataset.drawn === 'all'")
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [file.absolute().as_uri()]
    return page, asked, trouble


def lines(page: Any, name: str) -> int:
    """How many lines a chart shows; each is drawn as a path."""
    shown = f"document.getElementById('{name}').data.filter(trace => trace.visible !== false && trace.meta !== 'band').length"
    paths = "[...document.querySelectorAll('.scatterlayer .js-line')].filter(path => path.getAttribute('d').length > 20).length"
    found = page.evaluate(f"() => {shown}")
    assert page.evaluate(f"() => {paths.replace('.scatterlayer', f'#{name} .scatterlayer')}") >= found
    return found


def axis(page: Any, name: str) -> str:
    return page.evaluate(f"() => document.getElementById('{name}')._fullLayout.yaxis.type")


def press(page: Any, name: str, what: str, value: str) -> None:
    page.locator(f"[data-for={name}] [data-{what}={value}]").click()


def test_three_runs_are_drawn_at_full_resolution_offline(browser: Any, tmp_path: Path) -> None:
    planned = grid(("numpy", "tensor", "autograd"), (1e-6,), (0,), steps=500)
    written_sweep(tmp_path / "runs", planned)
    page, _, trouble = opened(browser, tmp_path)
    assert trouble == []
    found = page.evaluate("() => document.getElementById('losses').calcdata.map(trace => trace.map(point => point.y))")
    assert [len(curve) for curve in found] == [500] * 3
    np.testing.assert_array_equal(found[1], planned[1]["losses"])
    assert lines(page, "losses") == 3 and lines(page, "distances") == 2 and lines(page, "times") == 3
    assert page.evaluate("() => document.querySelectorAll('.bars .bars path').length") == 3 * 3
    assert axis(page, "losses") == "log"
    press(page, "losses", "scale", "linear")
    page.wait_for_function("() => document.getElementById('losses')._fullLayout.yaxis.type === 'linear'")
    press(page, "losses", "scale", "log")
    assert axis(page, "losses") == "log" and trouble == []
    top = page.locator("header").inner_text()
    assert "Lowest final loss\nautograd lr=1e-6" in top and "Fastest\nnumpy lr=1e-6" in top and "unverified" in top
    assert page.locator("#losses").bounding_box()["y"] < 700, "the curves begin on the first screen"
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    legend = page.locator("#losses .legendtext").all_text_contents()
    assert legend == [run["name"] for run in planned]
    colours = page.evaluate("() => document.getElementById('losses').data.map(trace => trace.line.color)")
    assert len({*colours}) == 3


def test_500_runs_have_bands_over_seeds_and_every_run_at_a_click(browser: Any, tmp_path: Path) -> None:
    rates = [round(1e-7 * 1.1**place, 10) for place in range(25)]
    written_sweep(tmp_path / "runs", grid(("numpy", "tensor", "autograd", "module"), rates, range(5), steps=500))
    page, _, trouble = opened(browser, tmp_path, "compare.baseline=method=autograd")
    kinds = page.evaluate("() => document.getElementById('losses').data.map(trace => trace.meta)")
    assert [kinds.count(kind) for kind in ("run", "mean", "band")] == [500, 100, 200]
    assert lines(page, "losses") == 100
    press(page, "losses", "show", "run")
    page.wait_for_function("() => document.querySelectorAll('#losses .scatterlayer .trace').length === 500")
    assert lines(page, "losses") == 500
    lengths = page.evaluate("() => document.getElementById('losses').calcdata.map(trace => trace.length)")
    assert [length for length in lengths if length != 500] == [1] * 300, "those that are not shown have no points"
    press(page, "losses", "scale", "linear")
    assert axis(page, "losses") == "linear" and trouble == []
    assert page.locator("#table tbody tr").count() == 100
    assert page.locator("#losses").bounding_box()["y"] < 700
    page.locator("#table th", has_text="final loss").click()
    values = page.evaluate(
        "() => [...document.querySelectorAll('#table tbody tr')].map(row => Number(row.cells[2].dataset.value))"
    )
    assert values == sorted(values)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_names_are_text_and_never_code_also_where_nothing_has_finished(browser: Any, tmp_path: Path) -> None:
    planned = grid(("numpy", "</script><script>document.title='taken'</script>"), (1e-6,), (0, 1), steps=9)
    for run in planned:
        run |= {"blew_up_at_step": 9}
    planned[3] |= {"losses": np.array([]), "metrics": {}, "config": {"training": {"steps": 9}, "threads": 1}}
    written_sweep(tmp_path / "runs", planned)
    page, _, trouble = opened(browser, tmp_path)
    assert page.title().startswith("Sweep ") and trouble == []
    assert "</script>" in page.locator("#table tbody").inner_text()
    assert "blew up: 4 of 4 runs" in page.locator("header").inner_text()
    stored = json.loads((sweeps(tmp_path / "runs")[-1].path / "compare.json").read_text())
    assert [row["n"] for row in stored["table"]] == [0, 0]
