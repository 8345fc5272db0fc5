"""What users type to have a method verified: the verdict, its exit code, what is kept, what MLflow hears."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import points, tracked
from sweeping import Here, here

from exp import run
from exp.run_folder import run_folders

__all__ = ["here"]

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(mlflow|sqlalchemy|alembic)")

SMALL = ["problem=diabetes", "loss=mean_squared_error", "network.hidden=[5]", "training.steps=20"]
THEIRS = """
from dataclasses import dataclass

from exp.methods.manual import NumPy

@dataclass(kw_only=True)
class Wrong(NumPy):
    def update(self, state, grads):
        return super().update(state, {**grads, "layer2.weight": grads["layer2.weight"] * 1.01})

@dataclass(kw_only=True)
class Uncounted(NumPy):
    def update(self, state, grads):
        return super().update(state, grads)._replace(count=state.count)

@dataclass(kw_only=True)
class Clipped(NumPy):
    def update(self, state, grads):
        return super().update(state, {name: grad.clip(-1e5, 1e5) for name, grad in grads.items()})

@dataclass(kw_only=True)
class Raising(NumPy):
    def transition(self, state, x, y):
        raise ZeroDivisionError("nothing to divide by")
"""


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of the user's own methods; their module has a name of its own, for it is imported once in a process."""
    folder = tmp_path / "my"
    module = f"theirs_{tmp_path.name}"
    (folder / "method").mkdir(parents=True)
    (folder / f"{module}.py").write_text(THEIRS)
    for name in ("Wrong", "Uncounted", "Clipped", "Raising"):
        (folder / "method" / f"{name.lower()}.yaml").write_text(f"_target_: {module}.{name}\n")
    return folder


def verdicts(folder: Path) -> list[dict[str, Any]]:
    """The verdict.json of every run, oldest first."""
    return [found.read_json("verdict.json") for found in run_folders(folder / "runs")]


@pytest.mark.usefixtures("used_folder")
def test_an_equivalent_method_is_told_printed_and_recorded(here: Here, tmp_path: Path) -> None:
    done = here("task=verify", "method=numpy", "optimizer=momentum", "verify.kit=full", *SMALL)
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.lines]
    assert ["beat", "tensor", "resolution", "largest", "error", "/", "tolerance"] in lines
    assert ["method", "device", "precision", "verdict", "resolution", "bluntest"] in lines
    told = next(line for line in lines if line[:4] == ["numpy", "cpu", "fp32", "equivalent"])
    assert done.out.count("\nkept ") == 9
    assert "free-running losses of 20 steps: at most" in done.out
    folder = run_folders(tmp_path / "runs")[0].path
    found = verdicts(tmp_path)[0]
    assert (found["verdict"], found["method"], found["precision"], found["first"]) == ("equivalent", "numpy", "fp32", None)
    names = ["layer2.weight", "layer1.weight", "momentum_buffer/layer1.weight", "momentum_buffer/layer2.weight"]
    expected = {"forward/layer2.output", "loss/loss", "backward/layer1.weight", "backward/layer2.weight"}
    assert {*found["resolution"]} == {*found["largest"]} == expected | {f"update/{name}" for name in names}
    bluntest = max(found["resolution"], key=found["resolution"].get)
    assert told[4:] == [f"{found['resolution'][bluntest]:.1e}", bluntest]
    assert all(item["kept"] for item in found["kit"]["items"].values())
    assert (folder / "kit.txt").read_text() == found["kit"]["report"]
    with np.load(folder / "curve.npz") as curve:
        np.testing.assert_allclose(curve["train/loss"], curve["reference/loss"], rtol=1e-5)
        assert len(curve["train/loss"]) == 20
    recorded = tracked(f"sqlite:///{tmp_path}/mlflow.db")[folder.name]
    assert recorded.info.status == "FINISHED"
    tags, metrics = recorded.data.tags, recorded.data.metrics
    assert (tags["kind"], tags["verdict"], tags["verdict.bluntest"]) == ("verify", "equivalent", bluntest)
    assert "verdict.first_wrong" not in tags
    assert {key.removeprefix("resolution/"): metrics[key] for key in metrics if key.startswith("resolution/")} == pytest.approx(
        found["resolution"]
    )
    assert metrics["verdict/resolution"] == pytest.approx(found["resolution"][bluntest])
    assert metrics["verdict/largest_error"] == pytest.approx(max(found["largest"].values()))
    assert metrics["verdict/seconds"] > 0
    assert recorded.data.params["verify.kit"] == "full"
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert [step for step, _ in points(uri, recorded, "reference/loss")] == list(range(20))


def test_a_wrong_method_is_named_by_beat_tensor_element_and_both_values(here: Here, tmp_path: Path, theirs: Path) -> None:
    done = here("--config-dir", str(theirs), "task=verify", "method=wrong", "tracker=none", *SMALL)
    assert (done.code, done.err) == (2, "")
    found = verdicts(tmp_path)[0]
    first = found["first"]
    assert (found["verdict"], first["beat"], first["tensor"], first["layer"]) == ("different", "backward", "layer2.weight", 2)
    assert first["found"] / first["expected"] == pytest.approx(1.01, rel=1e-5)
    assert first["ratio"] > 100
    place = f"layer2.weight[{first['index'][0]}, 0]"
    values = f"{first['found']:.9g} where {first['expected']:.9g} is right ({first['ratio']:.3g} times the tolerance)"
    assert f"different: backward, {place} at probe signed 1: {values}" in done.out
    assert f"backward, {place}" in next(line for line in done.lines if line.startswith("wrong   cpu"))


def test_a_sweep_says_who_shares_a_step_and_ends_with_the_worst_verdict(here: Here, tmp_path: Path, theirs: Path) -> None:
    words = ("task=verify", "method=raising,numpy,tensor", "precision=fp32,tf32", "tracker=none", *SMALL)
    done = here("--config-dir", str(theirs), "-m", *words)
    assert (done.code, done.err) == (4, "")  # undecided before equivalent
    lines = done.lines
    assert "numpy and tensor are one implementation (exp.methods.manual.Manual): that they agree is no independent" in done.out
    assert "skipped tensor tf32: TF32 is a mode of NVIDIA GPUs; use device=cuda, or precision=fp32" in lines
    table = lines[next(number for number, line in enumerate(lines) if line.startswith("run ")) :]
    assert [line.split()[0] for line in table[1:4]] == ["numpy", "tensor", "raising"]
    assert "raising fp32 is undecided: the method raised ZeroDivisionError: nothing to divide by" in done.out
    assert "would decide it: a step that runs at every probe" in done.out
    by_method = {found["method"]: found for found in verdicts(tmp_path)}
    assert {method: found["verdict"] for method, found in by_method.items()} == {
        "numpy": "equivalent",
        "tensor": "equivalent",
        "raising": "undecided",
    }
    failed = next(found.path for found in run_folders(tmp_path / "runs") if "raising" in found.path.name)
    assert "ZeroDivisionError" in (failed / "error.txt").read_text()


def test_what_cannot_run_here_is_unsupported_with_the_reason(here: Here, tmp_path: Path) -> None:
    done = here("task=verify", "method=tensor", "precision=tf32", "device=cpu")
    assert done.code == 1
    reason = "TF32 is a mode of NVIDIA GPUs; use device=cuda, or precision=fp32"
    assert done.out == f"verdict: unsupported: method=tensor device=cpu precision=tf32: {reason}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=verify", "verify.kit=ful"], "error: verify.kit=ful: choose full or quick\n"),
        (["verify.kit=full"], "error: verify.kit=full: is a key of task=verify; add task=verify\n"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_type(words: list[str], said: str, here: Here, tmp_path: Path) -> None:
    done = here(*words)
    assert (done.code, done.out, done.err) == (1, "", said)
    assert list(tmp_path.iterdir()) == []


# A verdict beside a training


def remembered(folder: Path) -> list[Path]:
    return sorted((folder / "runs" / ".verdicts").glob("*"), key=lambda path: path.stat().st_mtime_ns)


def test_a_training_has_its_verdict_and_the_next_one_does_not_judge_again(here: Here, tmp_path: Path, theirs: Path) -> None:
    words = ["method=wrong", "training.verify=true", "tracker=none", *SMALL]
    done = here("--config-dir", str(theirs), *words)
    assert (done.code, done.err) == (0, "")  # trained
    assert "\nverdict: different: backward, layer2.weight[" in done.out
    heading, row = (line.split() for line in done.lines if line.startswith(("method ", "wrong   ")))
    assert (heading[-1], row[-1]) == ("verdict", "different")
    first, known = run_folders(tmp_path / "runs")[0], remembered(tmp_path)
    assert len(known) == 1
    assert first.status()["verdict"] == "different"
    assert first.status()["metrics"].keys() >= {"verdict/resolution", "resolution/loss/loss", "final/loss"}
    stored = json.loads(known[0].read_text())
    assert stored.items() <= first.read_json("verdict.json").items()
    known[0].write_text(json.dumps({**stored, "first": None, "verdict": "equivalent", "resolution": {"loss/loss": 0.0625}}))
    done = here("--config-dir", str(theirs), *words, "optimizer.lr=1e-4", "seed=3")
    assert (done.code, done.err) == (0, "")
    assert "verdict: equivalent; a relative fault from 6.2e-02 on (loss/loss) would have been seen" in done.out
    assert remembered(tmp_path) == known


def test_a_training_whose_state_counts_other_than_its_steps_says_so(here: Here, theirs: Path) -> None:
    done = here("--config-dir", str(theirs), "method=uncounted", "tracker=none", *SMALL, "training.steps=7").ok()
    assert (
        "the method's state counts 0 updates after 7 steps: some were left out, or not counted; task=verify says which"
        in done.lines
    )


def test_a_verdict_is_not_that_of_other_code_or_another_precision(
    tmp_path: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def trained(*words: str) -> dict[str, Any]:
        run("method=uncounted", "training.verify=true", "tracker=none", *SMALL, *words, config_dir=theirs)
        assert run_folders("runs")[-1].status()["verdict"] == "different"
        return verdicts(tmp_path)[-1]

    first = trained()
    assert (first["first"]["tensor"], first["first"]["ratio"]) == ("count", "inf")
    judged = [len(remembered(tmp_path))]
    same = trained("seed=7", "optimizer.lr=1e-5")
    assert {key: same[key] for key in ("first", "resolution", "seconds")} == {
        key: first[key] for key in ("first", "resolution", "seconds")
    }
    judged.append(len(remembered(tmp_path)))
    for words in (["precision=fp64"], ["network.hidden=[6]"], ["network.activation=tanh"], ["network.initial=he"]):
        trained(*words)
        judged.append(len(remembered(tmp_path)))
    trained("optimizer.weight_decay=0.1")
    judged.append(len(remembered(tmp_path)))
    trained("training.log_every=3", "training.evaluate_every=3")  # other blocks
    judged.append(len(remembered(tmp_path)))
    source = next(theirs.glob("*.py"))
    source.write_text(source.read_text() + "\n# another step\n")
    trained()
    judged.append(len(remembered(tmp_path)))
    assert judged == [1, 1, 2, 3, 4, 5, 6, 7, 8]


def test_a_fault_that_only_numbers_as_large_as_the_trainings_show_is_seen(
    tmp_path: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At probes no gradient is as large as the tutorial's first."""
    monkeypatch.chdir(tmp_path)
    run("method=clipped", "training.verify=true", "training.steps=3", "tracker=none", config_dir=theirs)
    assert run_folders("runs")[-1].status()["verdict"] == "different"
    (found,) = verdicts(tmp_path)
    assert (found["first"]["probe"], found["first"]["step"], found["first"]["beat"]) == ("training", 0, "backward")


def test_what_task_verify_found_different_no_training_calls_equivalent(here: Here, tmp_path: Path, theirs: Path) -> None:
    words = ("--config-dir", str(theirs), "method=wrong", "tracker=none", *SMALL)
    assert here(*words, "task=verify").code == 2
    (known,) = remembered(tmp_path)
    stored = json.loads(known.read_text())
    done = here(*words, "training.verify=true")
    assert done.code == 0 and "verdict: different" in done.out
    assert json.loads(known.read_text()) == stored


def test_what_is_not_decided_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from exp import judgement
    from exp.verification.verdict import undecided

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(judgement, "judged", lambda *given, **options: undecided("why", "what"))
    run("method=numpy", "training.verify=true", "tracker=none", *SMALL)
    assert run_folders("runs")[0].status()["verdict"] == "undecided"
    assert remembered(tmp_path) == []
