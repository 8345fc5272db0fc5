"""The same sweep by every launcher leaves the same curves, bit for bit in float64; with two threads too."""

import importlib.util
from pathlib import Path

import pytest
from commands import exp as command
from sweeping import SIZE, Here, all_gone, commanded, counted, curves, here, the_sweep

__all__ = ["here"]

WORDS = ("-m", "method=numpy,module", "threads=1,2", *SIZE[:-2], "network.hidden=[40]", "precision=fp64", "training.steps=20")
WORDS = (*WORDS, "problem.samples=300", "problem.inputs=200", "optimizer.lr=1e-6", "tracker=none")


@pytest.fixture(scope="module")
def basic(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The curves of the basic launcher: in one process, one run after the other."""
    folder = tmp_path_factory.mktemp("basic")
    commanded(command(*WORDS, cwd=folder)).ok()
    return curves(folder)


@pytest.mark.parametrize("launcher", ["joblib", "ray", "submitit_local"])
def test_every_launcher_computes_the_same_bits(launcher: str, basic: dict[str, bytes], here: Here, tmp_path: Path) -> None:
    name = launcher.partition("_")[0]
    if not importlib.util.find_spec(f"hydra_plugins.hydra_{name}_launcher"):
        pytest.skip(f"needs exp[{name}]")
    done = commanded(command(*WORDS, f"hydra/launcher={launcher}", cwd=tmp_path, timeout=180)).ok()
    assert curves(tmp_path) == basic and len(basic) == 4 and all(len(curve) == 20 * 8 for curve in basic.values())
    assert counted(tmp_path) == {"FINISHED": 4} and the_sweep(tmp_path).status()["status"] == "FINISHED"
    assert sum(line.split()[0][:2] in ("1/", "2/", "3/", "4/") for line in done.lines) == 4, "each is said when it is over"
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    all_gone(tmp_path)
    assert here(*WORDS, "sweep.plan=true").ok().plan == "4 done", "the launcher is no part of a run"
