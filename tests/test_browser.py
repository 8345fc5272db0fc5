"""The nine curves of the tutorial's sweep: what is printed of them, and MLflow's own pages in headless Chromium."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import clean, exp
from test_command_line import cells, ok, statuses

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
FLAGS = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
FLAGS += ["disable-background-networking", "disable-component-update"]
NINE = {f"{method} lr={lr}" for method in ("numpy", "tensor", "autograd") for lr in ("1e-7", "3e-7", "1e-6")}

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the path")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    shutil.copy(new_database, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def swept(folder: Path) -> subprocess.CompletedProcess[str]:
    """The sweep, done."""
    return exp("-m", "method=numpy,tensor,autograd", "optimizer.lr=1e-7,3e-7,1e-6", cwd=folder, timeout=300)


@pytest.fixture(scope="module")
def sweep(folder: Path, swept: subprocess.CompletedProcess[str]) -> Iterator[tuple[str, str]]:
    """The address of a plain `mlflow ui` started where the sweep ran, and the link that the sweep printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).parent / "mlflow"
    with (folder / "ui.log").open("w") as log:
        env = clean({"MLFLOW_WORKERS": "1", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})  # each process imports MLflow
        server = subprocess.Popen([program, "ui", "--port", str(port)], cwd=folder, env=env, stdout=log, stderr=log)
        try:
            _wait_for(f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}", _link(swept.stdout, f"http://127.0.0.1:{port}")
        finally:
            server.terminate()
            server.wait()


def _wait_for(url: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def single(sweep: tuple[str, str], folder: Path) -> str:
    """The link that a single run printed, in the same folder."""
    return _link(exp("method=numpy", cwd=folder).stdout, sweep[0])


def _link(printed: str, address: str) -> str:
    """The link in the last line; the tests serve the store at another port than plain `mlflow ui` does."""
    return re.findall(r"http://\S+", printed.splitlines()[-1])[0].replace("http://127.0.0.1:5000", address)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in FLAGS])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1500, "height": 950})
    page = context.new_page()
    page.set_default_timeout(120_000)
    yield page
    context.close()


def _curves(page: Any, count: int = 9) -> set[str]:
    """The names of the curves in the first chart that shows `count` of them, once it is drawn."""
    names = "curve => curve.data.filter(one => one.y && one.y.length > 100).map(one => one.name)"
    charts = f"[...document.querySelectorAll('.js-plotly-plot')].filter(chart => chart.data).map({names})"
    drawn = f"{charts}.find(names => new Set(names).size == {count})"
    page.wait_for_function(f"() => {drawn}")
    return {re.sub(r" \(.*| *<.*", "", name) for name in page.evaluate(f"() => {drawn}")}


def test_a_sweep_is_named_ranked_and_linked(folder: Path, swept: subprocess.CompletedProcess[str]) -> None:
    lines = ok(swept)
    heading, *rows = cells(lines, "run")
    assert {row[0] for row in rows} == NINE
    finals = [float(row[heading.index("final loss")]) for row in rows]
    assert len(finals) == 9 and finals == sorted(finals)
    assert {row[heading.index("first loss")] for row in rows} == {"3.398e7"}
    assert swept.stdout.count("http://") == 1 and "mlflow ui, then open http://" in lines[-1]
    recorded = statuses(folder)
    assert {*recorded} == {row[0] for row in rows}
    assert len({status["sweep"] for status in recorded.values()}) == 1


@pytest.mark.browser
@needs_browser
def test_the_printed_link_shows_nine_overlaid_curves_at_once(page: Any, sweep: tuple[str, str]) -> None:
    page.goto(sweep[1])
    assert _curves(page) == NINE
    first = page.locator(".js-plotly-plot").first
    assert first.bounding_box()["y"] < 950, "the curves are in sight without scrolling"
    assert first.evaluate("chart => chart.layout.yaxis.type") == "log"


@pytest.mark.browser
@needs_browser
def test_three_clicks_from_the_first_page_lead_to_the_curves_too(page: Any, sweep: tuple[str, str]) -> None:
    page.goto(sweep[0])
    page.get_by_text("Model training", exact=True).first.click()
    page.get_by_role("link", name="exp", exact=True).first.click()
    page.locator("label:has(input[value=CHART])").click()
    page.get_by_role("heading", name="final/loss").wait_for()
    page.mouse.move(800, 600)
    page.mouse.wheel(0, 5000)  # the section train is the last
    assert _curves(page) == NINE


@pytest.mark.browser
@needs_browser
def test_the_link_of_a_single_run_shows_its_curve(page: Any, sweep: tuple[str, str], single: str) -> None:
    page.goto(single)
    assert _curves(page, count=1) == {"numpy"}
