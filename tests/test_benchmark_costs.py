"""What a step costs, against counts that were made otherwise; what a machine can do; what it is warned of."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from exp.arrays import Place
from exp.benchmark import machine
from exp.benchmark.ceilings import ceilings
from exp.benchmark.costs import costs, step_costs
from exp.benchmark.machine import Look
from exp.benchmark.plan import Size, expected_seconds, too_large, too_slow
from exp.benchmark.replay import JUDGING, judgeable, judged_with_blocks
from exp.benchmark.session import Participant
from exp.composition import compose
from exp.configuration import instantiate
from exp.verification.verdict import UNDECIDED


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", [(7, 3), (7, 5, 3), (11, 7, 5, 3)])
def test_products_are_those_that_torch_counts(widths: tuple[int, ...], bias: bool) -> None:
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [torch.nn.Linear(inputs, outputs, bias=bias), torch.nn.ReLU()]
    model, rows = torch.nn.Sequential(*layers[:-1]), 13
    with FlopCounterMode(display=False) as counted:
        model(torch.ones(rows, widths[0])).square().sum().backward()
    assert step_costs(rows, widths, bias=bias).products == counted.get_total_flops()


def test_all_operations_of_a_small_step_counted_by_hand() -> None:
    """N = 2, widths 3 → 4 → 5 with biases, momentum and weight decay."""
    products = 2 * 2 * (3 * 4) * 2 + 2 * 2 * (4 * 5) * 3
    bias = 2 * (2 * 4 + 2 * 5)  # added forward, summed backward
    activation = 2 * (2 * 4)  # once forward, once backward
    loss = 5 * (2 * 5)
    update = (4 + 2) * (3 * 4 + 4 + 4 * 5 + 5)
    found = step_costs(2, (3, 4, 5), bias=True, slots=("momentum_buffer",), decays=True)
    assert found.products == products
    assert found.operations == products + bias + activation + loss + update
    assert found.parameters == 41


def test_all_numbers_of_a_small_step_counted_by_hand() -> None:
    """N = 2, widths 3 → 4 → 5, plain SGD without biases: every array by its size, beat by beat."""
    x, w1, z1, w2, z2 = 2 * 3, 3 * 4, 2 * 4, 4 * 5, 2 * 5
    forward = (x + w1 + z1) + (z1 + z1) + (z1 + w2 + z2)  # a product, the activation, a product
    loss = z2 + z2 + z2  # prediction and target, the signal
    backward = (z1 + z2 + w2) + (w2 + z1) + 3 * z1 + (x + z1 + w1)  # ∂W₂, the signal, ReLU's (z, signal twice), ∂W₁
    update = 3 * (w1 + w2)
    found = step_costs(2, (3, 4, 5), bias=False)
    assert found.numbers == forward + loss + backward + update
    assert found.bytes("float32") == 4 * found.numbers
    assert found.bytes("float64") == 8 * found.numbers


def experiment(*words: str) -> Participant:
    made, _ = instantiate(*compose(["method=numpy", "tracker=none", *words]))
    data = made.check()
    made.resolve_device()
    return Participant("numpy", made, data)


def test_the_tutorial_costs_what_its_shapes_say() -> None:
    each = experiment()
    found = costs(each.experiment, each.data)
    assert found.products == 4 * 64 * 1000 * 100 + 6 * 64 * 100 * 10
    assert found.parameters == 101_000
    batch = experiment("training.batch_size=16")
    assert costs(batch.experiment, batch.data).products == found.products // 4


def test_what_is_too_large_says_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    each = experiment()
    assert too_large([each]) is None
    assert too_slow(each, 8.0) is None
    monkeypatch.setattr("exp.benchmark.plan.free_bytes", lambda _: 2**20)
    assert too_large([each]) == "needs about 0.0 GiB of memory, of which 0.0 GiB are free"
    large = experiment("network.hidden=[16384]", "problem.samples=20000", "problem.inputs=100")
    reason = too_slow(large, 2.0)
    assert reason is not None and "a step would take about" in reason and "benchmark.seconds=" in reason


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_ceilings_are_measured_on_the_array_library(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exp.benchmark.ceilings.COPY_BYTES", 2**20)
    monkeypatch.setattr("exp.benchmark.ceilings.LARGEST_PRODUCT", 256)
    found = ceilings(Place(library, "cpu", "float32"), lambda: None)
    assert np.isfinite([found.operations_per_second, found.bytes_per_second]).all()
    assert found.operations_per_second > 0 and found.bytes_per_second > 0


class Matrix:
    """Made up: a product of it takes time by what a library is good at, of the kinds in `rates`."""

    rates: dict[str, float] = {}
    seconds = 0.0

    def __init__(self, shape: tuple[int, ...], kind: str = "plain"):
        self.shape, self.kind = shape, kind

    @property
    def T(self) -> "Matrix":  # noqa: N802
        return Matrix(self.shape[::-1], "transposed")

    def __matmul__(self, other: "Matrix") -> None:
        kind = "flat" if self.shape[0] < self.shape[1] else "square"
        kind = "first" if self.kind == "transposed" else "second" if other.kind == "transposed" else kind
        Matrix.seconds += 2 * self.shape[0] * self.shape[1] * other.shape[1] / self.rates.get(kind, 1e9)

    def __setitem__(self, _: object, value: object) -> None:
        Matrix.seconds += 1.0


@pytest.mark.parametrize("kind", ["square", "flat", "first", "second"])
def test_the_ceiling_is_that_of_the_fastest_kind_of_product(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 on a CPU the kinds differ by a factor of twenty: an honest step must not exceed it."""
    monkeypatch.setattr(Matrix, "rates", {kind: 2e10})
    monkeypatch.setattr(Matrix, "seconds", 0.0)
    monkeypatch.setattr("exp.benchmark.ceilings.put", lambda values, place: Matrix(values.shape))
    monkeypatch.setattr("exp.benchmark.clock.seconds", lambda: Matrix.seconds)
    found = ceilings(Place("numpy", "cpu", "float32"), lambda: None)
    assert found.operations_per_second == pytest.approx(2e10)
    assert Matrix.seconds < 15  # five copies are five seconds of it


def look(at: float, busy: float, own: float, *, stolen: float = 0.0, hertz: float | None = None) -> Look:
    return Look(at, busy, stolen, own, hertz)


def test_a_busy_machine_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    quiet = [(look(0.0, 100.0, 5.0), look(10.0, 110.5, 15.0))]
    assert machine.warnings(quiet, [], threads=1) == []
    busy = [(look(0.0, 100.0, 5.0), look(10.0, 118.0, 15.0, stolen=2.0))]
    (said,) = machine.warnings(busy, [], threads=1)
    assert said.startswith("busy machine: other processes kept 1 of 2 cores computing")


def test_throttling_and_too_many_threads_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    slowing = [(look(0.0, 0.0, 0.0, hertz=3e9), look(10.0, 10.0, 10.0, hertz=2e9))]
    said = machine.warnings(slowing, [[50e9, 49e9], [80e9, 40e9]], threads=3)
    assert [line.partition(":")[0] for line in said] == [
        "threads=3 on 2 cores",
        "throttling",
        "unsteady machine (throttling, or others that compute)",
    ]
    assert "from 3.00 to 2.00 GHz" in said[1]
    assert "40 to 80 GFLOP/s" in said[2]


def test_this_machine_can_be_looked_at() -> None:
    first = machine.look([])
    sum(range(200_000))
    last = machine.look([None])
    assert last.at > first.at
    assert machine.others(first, last) is None or machine.others(first, last) >= 0  # type: ignore[operator]


def test_what_children_have_computed_is_our_own() -> None:
    """A compiler that a worker called, or a worker that failed, is nobody else."""
    work = [sys.executable, "-c", "sum(range(20_000_000))"]
    first = machine.look([])
    subprocess.run(work, check=True)
    last = machine.look([])
    assert last.own_seconds - first.own_seconds >= 0.1
    waits = f"import subprocess, sys; subprocess.run({work!r}); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        if Path(f"/proc/{worker.pid}/stat").exists():
            assert machine._computed_by(worker.pid) >= 0.1
        worker.communicate()


def test_it_takes_less_long_where_no_processes_start() -> None:
    found = [Size([experiment()])]
    new, here, none = (expected_seconds(found, count, 8.0, isolated=i) for count, i in ((5, True), (5, False), (0, False)))
    assert new > here > none


def test_a_step_that_is_too_much_to_be_judged_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    each = experiment("problem.samples=8", "network.hidden=[4]", "method=numpy", "threads=2")
    each.experiment.resolve_device()
    step = costs(each.experiment, each.data).operations
    assert judgeable(each) > 1000
    monkeypatch.setattr("exp.benchmark.replay.MOST_OPERATIONS", 7 * JUDGING * step / 2)  # for each of two threads
    assert judgeable(each) == 7
    monkeypatch.setattr("exp.benchmark.replay.MOST_OPERATIONS", 0.9 * JUDGING * step / 2)
    assert judgeable(each) == 0
    verdict = judged_with_blocks(each)
    assert verdict.verdict == UNDECIDED and "more threads" in verdict.line
