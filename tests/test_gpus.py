"""A GPU for each worker process: spread evenly, kept while the process lives, given to its successor when it has died."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import clean

from exp.gpus import assign_gpu, visible_gpus

WORKER = """
import sys
from pathlib import Path
from exp.gpus import assign_gpu, visible_gpus
slots = Path(sys.argv[1])
print(assign_gpu(slots, visible_gpus()), assign_gpu(slots, visible_gpus()), "torch" in sys.modules, flush=True)
sys.stdin.read()
"""


@contextmanager
def worker(slots: Path, gpus: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has taken a GPU, and the GPU."""
    command = [sys.executable, "-c", WORKER, str(slots)]
    env = clean({"CUDA_VISIBLE_DEVICES": gpus})
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout
        first, second, torch = process.stdout.readline().split()
        assert first == second, "the GPU of a process does not change"
        assert torch == "False", "named GPUs are known without torch"
        yield process, first
        process.kill()


def test_workers_take_the_gpus_in_turn(tmp_path: Path) -> None:
    with worker(tmp_path, "4,7") as (_, a), worker(tmp_path, "4,7") as (_, b), worker(tmp_path, "4,7") as (_, c):
        assert [a, b, c] == ["4", "7", "4"]


def test_the_successor_of_a_killed_worker_gets_its_gpu(tmp_path: Path) -> None:
    with worker(tmp_path, "0,1,2") as (_, first), worker(tmp_path, "0,1,2") as (killed, second):
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        with worker(tmp_path, "0,1,2") as (_, successor), worker(tmp_path, "0,1,2") as (_, next_one):
            assert [first, second, successor, next_one] == ["0", "1", "1", "2"]


def test_sweeps_with_folders_of_their_own_do_not_meet(tmp_path: Path) -> None:
    with worker(tmp_path / "one", "0,1") as (_, first), worker(tmp_path / "other", "0,1") as (_, second):
        assert first == second == "0"


@pytest.mark.parametrize(
    ("named", "gpus"),
    [
        ("", []),
        ("-1", []),
        ("3", ["3"]),
        ("2, 0", ["2", "0"]),
        ("0,-1,1", ["0"]),
        ("1,1", ["1"]),
        ("GPU-ab,GPU-c", ["GPU-ab", "GPU-c"]),
    ],
)
def test_gpus_are_read_as_cuda_reads_them(named: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == gpus


def test_without_names_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert visible_gpus() == ["0", "1", "2"]


def test_where_no_gpu_is_none_is_assigned(tmp_path: Path) -> None:
    assert assign_gpu(tmp_path / "slots", []) is None
    assert not (tmp_path / "slots").exists()
