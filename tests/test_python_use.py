"""`exp.run`, `exp.data` and `exp.load` as a notebook uses them: in one process, again and again, beside other code."""

import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import client, tracked, until
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import exp
from exp.tracking.uploader import close_shared_uploader, shared_uploader

SHORT = ("training.steps=3", "problem.inputs=7", "network.hidden=[5]", "problem.outputs=3")


def test_results_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained = exp.run("method=numpy", "tracker=none", *SHORT)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(trained.losses) == 3
    assert trained.folder.is_absolute()


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_torch_is_left_as_it_was(precision: str, tmp_path: Path) -> None:
    """Also where the user has set TF32 by torch's newer switch, which does not go with the older one."""
    switch, threads = torch.backends.cuda.matmul, torch.get_num_threads()
    before, switch.fp32_precision = switch.fp32_precision, precision
    try:
        trained = exp.run("method=tensor", "device=cpu", "threads=2", "tracker=none", f"runs={tmp_path}", *SHORT)
        assert trained.status == "FINISHED"
        assert switch.fp32_precision == precision
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (threads, False)
    finally:
        switch.fp32_precision = before


def test_several_threads_may_run(tmp_path: Path) -> None:
    found: dict[int, np.ndarray] = {}

    def train(seed: int) -> None:
        found[seed] = exp.run("method=numpy", "tracker=none", f"seed={seed}", f"runs={tmp_path}", *SHORT).losses

    threads = [threading.Thread(target=train, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        again = exp.run("method=numpy", "tracker=none", f"seed={seed}", f"runs={tmp_path}", *SHORT)
        np.testing.assert_array_equal(found[seed], again.losses)


def test_threads_that_ask_for_other_conditions_take_turns(tmp_path: Path) -> None:
    before, found = torch.get_num_threads(), {}

    def train(threads: int) -> None:
        trained = exp.run("method=tensor", f"threads={threads}", "device=cpu", "tracker=none", f"runs={tmp_path}", *SHORT)
        found[threads] = json.loads((trained.folder / "environment.json").read_text())["conditions"]

    threads = [threading.Thread(target=train, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: each["torch_threads"] for number, each in found.items()} == {1: 1, 2: 2, 3: 3}
    assert {number: {pool["num_threads"] for pool in each["threads"]} for number, each in found.items()} == {
        1: {1},
        2: {2},
        3: {3},
    }
    assert all(each["deterministic"] for each in found.values())
    assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == (before, 0)


def test_a_hydra_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        exp.data("problem=random", "problem.inputs=4")
        assert GlobalHydra.instance().is_initialized()


def test_a_folder_of_ones_own_may_have_any_name(tmp_path: Path) -> None:
    my = tmp_path / "my dir, (x) é"
    (my / "method").mkdir(parents=True)
    (my / "method" / "other.yaml").write_text("_target_: exp.methods.manual.NumPy\n")
    trained = exp.run("method=other", "tracker=none", f"runs={tmp_path / 'runs'}", *SHORT, config_dir=my)
    assert trained.name.startswith("other")


@pytest.mark.usefixtures("used_folder")
def test_an_upload_process_that_died_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    try:
        exp.run("method=numpy", *SHORT)
        process = shared_uploader()._processes[0]._process
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: process.poll() is not None)
        second = exp.run("method=numpy", "seed=1", *SHORT)
        assert second.folder.name in tracked(f"sqlite:///{tmp_path}/mlflow.db")
    finally:
        close_shared_uploader()
        client.cache_clear()


def test_a_method_that_leaves_python_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SystemExit must not leave the run RUNNING, nor end the program with a code that says that all is well."""
    monkeypatch.setattr("exp.methods.manual.NumPy.step", lambda *given: (_ for _ in ()).throw(SystemExit(3)))
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        exp.run("method=numpy", "tracker=none", f"runs={tmp_path}", *SHORT)
    [folder] = tmp_path.iterdir()
    assert exp.load(folder).status == "FAILED"
