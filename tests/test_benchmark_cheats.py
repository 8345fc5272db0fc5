"""How a method could look faster than it is: each way is refused, judged different, or does not pay."""

import os
import pickle
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cheating
import numpy as np
import pytest
import torch
from cheating import STEP_SECONDS, Clock

from exp.benchmark import clock, machine
from exp.benchmark.bench import MOST_CALLS, Bench, Timed, Warm
from exp.benchmark.ceilings import Ceilings
from exp.benchmark.outcome import compared, metrics, raw, refused_of
from exp.benchmark.plan import Size
from exp.benchmark.processes import Worker, _pickled
from exp.benchmark.replay import judged_with_blocks
from exp.benchmark.rows import row
from exp.benchmark.session import Participant, Session, _calls, _timed, measure
from exp.benchmark.worker import Orders, serve
from exp.composition import compose
from exp.conditions import controlled
from exp.configuration import instantiate
from exp.methods.base import Method
from exp.methods.manual import NumPy, Tensor
from exp.optimizers import SGD
from exp.verification.verdict import DIFFERENT, EQUIVALENT, UNDECIDED

SMALL = ["method=numpy", "tracker=none", "problem.samples=11", "problem.inputs=7", "problem.outputs=3", "network.hidden=[5]"]
RATE = "optimizer.lr=1e-4"


@pytest.fixture
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes only when a method says so, the same on every machine."""
    monkeypatch.setitem(clock._clocks, "host", lambda: round(Clock.host * 1e9))
    monkeypatch.setitem(clock._clocks, "processor", lambda: round(Clock.processor * 1e9))
    monkeypatch.setattr("exp.benchmark.bench.ceilings", lambda place, edge: Ceilings(1e9, 1e9))  # no product ticks


@pytest.fixture(autouse=True)
def own_clock() -> Iterator[None]:
    """What a method replaces in this process is put back."""
    kept = time.perf_counter, time.perf_counter_ns
    yield
    time.perf_counter, time.perf_counter_ns = kept


class Unheard(SGD):
    """The reference has none of its name."""

    torch_name = "Unheard"


def participant(method: Method, *words: str) -> Participant:
    experiment, _ = instantiate(*compose([*SMALL, RATE, *words]))
    data = experiment.check()
    experiment.resolve_device()
    experiment.method = method
    return Participant(type(method).__name__, experiment, data)


def timed(*methods: Method, isolated: bool = False, words: tuple[str, ...] = ()) -> tuple[Size, Session]:
    """The methods timed together, the first as baseline, with a twin of it."""
    members = [participant(method, *words) for method in methods]
    twin = Participant("twin", members[0].experiment, members[0].data, "twin")
    size = Size(members, twin if isolated is False else None, original=members[0], baseline_verdict=EQUIVALENT)
    session = measure(size.participants, seed=3, processes=1, seconds=0.3, isolated=isolated)
    for each in size.participants:
        assert each.failed is None, each.traceback
    assert all(each.blocks for each in members), [each.traceback for each in members]
    return size, session


@pytest.mark.usefixtures("fake_clock")
@pytest.mark.parametrize("words", [(), ("training.batch_size=4",)], ids=["whole", "batches"])
def test_an_honest_method_is_equivalent_and_as_fast_as_it_says(words: tuple[str, ...]) -> None:
    size, session = timed(cheating.Honest(), cheating.Honest(), words=words)
    other = size.members[1]
    assert judged_with_blocks(other, alone=True).verdict == EQUIVALENT
    assert refused_of(other) is None
    assert metrics(other, session)["speed/step_seconds"] == pytest.approx(STEP_SECONDS)
    assert compared(other, size, EQUIVALENT)["speed"] == "none"


@pytest.mark.usefixtures("fake_clock")
@pytest.mark.parametrize(
    "cheat",
    [cheating.Cached, cheating.Skipping, cheating.Prepared, cheating.Ahead, cheating.NotANumber],
    ids=lambda kind: kind.__name__,
)
def test_steps_that_were_not_done_are_different_and_no_speed_is_shown(cheat: type[Method]) -> None:
    size, _ = timed(cheating.Honest(), cheat())
    cheater = size.members[1]
    judged = judged_with_blocks(cheater, alone=True)  # by its timed blocks alone: at probes it may be right
    assert judged.verdict == DIFFERENT, judged.line
    assert compared(cheater, size, judged.verdict) == {"speed": "not shown"}


@pytest.mark.usefixtures("fake_clock")
def test_the_timed_blocks_themselves_are_judged() -> None:
    """The method is right at every probe and in every block but the timed ones: their own losses are looked at."""
    size, _ = timed(cheating.Honest())
    honest = size.members[0]
    assert judged_with_blocks(honest, alone=True).verdict == EQUIVALENT
    honest.audits[0].timed.losses[3] *= 1.001
    judged = judged_with_blocks(honest)
    assert judged.verdict == DIFFERENT
    assert judged.first is not None and judged.first.probe.startswith("timed block") and judged.first.step == 3


@pytest.mark.usefixtures("fake_clock")
def test_blocks_that_no_reference_can_judge_are_undecided() -> None:
    size, _ = timed(cheating.Honest())
    size.members[0].experiment.optimizer = Unheard(lr=1e-3)
    judged = judged_with_blocks(size.members[0], alone=True)
    assert judged.verdict == UNDECIDED and judged.reason.startswith("the reference has no Unheard")


@pytest.mark.usefixtures("fake_clock")
def test_final_weights_of_a_timed_block_are_judged() -> None:
    size, _ = timed(cheating.Honest())
    honest = size.members[0]
    after = honest.audits[0].after
    after.params["layer2.weight"][...] = honest.audits[0].before.params["layer2.weight"] + 1.0
    assert judged_with_blocks(honest, alone=True).verdict == DIFFERENT


@pytest.mark.usefixtures("fake_clock")
def test_what_a_lazy_output_computes_when_it_is_read_is_timed() -> None:
    size, session = timed(cheating.Honest(), cheating.Lazy())
    assert metrics(size.members[1], session)["speed/step_seconds"] == pytest.approx(STEP_SECONDS)


@pytest.mark.usefixtures("fake_clock")
@pytest.mark.parametrize("cheat", [cheating.LeftOver, cheating.LeftOverTwice], ids=lambda kind: kind.__name__)
def test_work_left_for_after_the_block_is_refused(cheat: type[Method]) -> None:
    size, _ = timed(cheating.Honest(), cheat())
    lazy = size.members[1]
    refused = refused_of(lazy)
    assert refused is not None and refused.sign == "left over"
    assert "after the block" in refused.sentence
    assert compared(lazy, size, EQUIVALENT) == {"speed": "refused (left over)"}


@pytest.mark.usefixtures("fake_clock")
def test_more_threads_than_set_are_refused() -> None:
    size, session = timed(cheating.Honest(), cheating.Threaded())
    refused = refused_of(size.members[1])
    assert refused is not None
    assert (refused.sign, refused.sentence) == ("threads", "it computes with 2 threads where threads=1 is set")
    assert metrics(size.members[1], session)["speed/threads"] == pytest.approx(2.0)
    assert compared(size.members[1], size, EQUIVALENT)["speed"] == "refused (threads)"


@pytest.mark.skipif(machine.quiet_core(0) is None, reason="a single core, or a system that does not let one choose")
def test_workers_of_one_thread_share_a_core_and_the_next_set_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores differ from moment to moment: a ratio of times on two of them is noise."""
    found: list[set[int]] = []

    class Watched(Worker):
        def do(self, name: str, *arguments: Any) -> Any:
            if name == "start" and self.pid:
                found.append(os.sched_getaffinity(self.pid))
            return super().do(name, *arguments)

    monkeypatch.setattr("exp.benchmark.session.Worker", Watched)
    monkeypatch.setattr(machine, "quiet_core", lambda turn: sorted(os.sched_getaffinity(0))[turn % 2])
    members = [participant(NumPy()), participant(NumPy(), "threads=2")]
    session = measure(members, seed=0, processes=2, seconds=0.1)
    first, second = session.cores
    allowed = os.sched_getaffinity(0)
    for core, affinities in ((first, found[:2]), (second, found[2:])):
        assert sorted(map(len, affinities)) == sorted([1, len(allowed)])
        assert all(core in each for each in affinities)
    assert first != second and {first, second} <= allowed
    assert {each.environment["cores"] for each in members} == {len(allowed)}  # of the machine, not of the worker
    assert raw(members[0], Size(members), session)["core"] == [first, second]
    assert raw(members[1], Size(members), session)["core"] == [None, None]


def test_a_busy_core_is_left_to_others_and_a_slow_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", None, raising=False)
    monkeypatch.setattr(machine, "LOOK_SECONDS", 0.2)
    idle = iter([dict.fromkeys(range(4), 100), {0: 120, 1: 101, 2: 119, 3: 120}])  # ticks of a hundredth of a second
    monkeypatch.setattr(machine, "_idle_ticks", lambda: next(idle))
    monkeypatch.setattr(machine, "_text", lambda path: "512" if "cpu3/" in path else "1024")
    assert machine.quiet_core(1) == 2  # of 0 and 2 the second
    monkeypatch.setattr(machine, "_idle_ticks", dict)  # a system that does not tell
    assert [machine.quiet_core(turn) for turn in range(4)] == [0, 1, 2, 0]


@pytest.mark.usefixtures("fake_clock")
def test_warming_up_is_told_and_counts_for_nothing() -> None:
    size, session = timed(cheating.Honest(), cheating.WarmingUp())
    numbers = metrics(size.members[1], session)
    assert numbers["speed/step_seconds"] == pytest.approx(STEP_SECONDS)
    assert numbers["speed/first_step_seconds"] == pytest.approx(1.0 + STEP_SECONDS)
    assert numbers["speed/warm_up_steps"] >= 19
    assert all(warm.stable for warm in size.members[1].warm)


@pytest.mark.parametrize("pace", [0.25, 0.65])
def test_a_patched_clock_is_refused(pace: float) -> None:
    """In processes of their own: the parent's clock beside the worker's shows it."""
    size, _ = timed(cheating.PatchedClock(pace=pace), isolated=True)
    refused = refused_of(size.members[0])
    assert refused is not None and refused.sign == "clock"
    assert "the clock of another process" in refused.sentence


def block(seconds: float, outside: float, calls: int = 1) -> Timed:
    return Timed(0, calls, calls, seconds, None, seconds, 0.0, calls, np.ones(calls), outside)


def test_a_block_that_was_far_too_short_by_the_parents_clock_is_longer_next_time() -> None:
    """A method that is slow while it warms up would else have blocks of one step, and much that could be left for later."""
    each = participant(cheating.Honest())
    each.warm, each.blocks = [Warm(1, 1.0, True, 0.04, 1, 1)], [[]]
    assert _calls(each) == 1
    each.blocks[-1].append(block(0.04, 0.0005))
    assert _calls(each) == MOST_CALLS
    each.blocks[-1].append(block(0.0, 0.02, calls=7))
    assert _calls(each) == 7


def test_a_clock_that_stands_still_does_not_time_for_ever() -> None:
    each = participant(cheating.Honest())
    each.blocks = [[block(0.0, 0.04), block(0.0, 0.05)]]
    assert _timed(Session(0, [each]), {0: None}) == pytest.approx(0.09)


def test_a_worker_whose_parent_is_gone_says_nothing() -> None:
    class Gone:
        def recv(self) -> Any:
            return "nothing", ()

        def send(self, answer: Any) -> None:
            answers.append(answer)
            raise BrokenPipeError

    answers: list[Any] = []
    parent: Any = Gone()
    serve(parent, Orders(parent))
    assert answers == [("ok", None)]  # and no second try


def test_no_worker_knows_by_which_seed_blocks_are_kept() -> None:
    each = participant(cheating.Honest())
    each.experiment.config["benchmark"] = {"seed": 7}
    assert "benchmark" not in pickle.loads(_pickled(each.experiment)).config
    assert each.experiment.config["benchmark"] == {"seed": 7}


@pytest.mark.usefixtures("fake_clock")
def test_losses_of_which_few_could_be_judged_are_told_of() -> None:
    size, session = timed(cheating.Honest())
    (honest,) = size.members
    verdict = judged_with_blocks(honest, alone=True)
    decided, of = honest.decided
    assert decided == of > 0
    assert not any("could be judged" in note for note in row(honest, size, session, verdict)["benchmark"]["notes"])
    honest.decided = of // 4, of
    assert any(
        f"the losses of {of // 4} could be judged" in n for n in row(honest, size, session, verdict)["benchmark"]["notes"]
    )


@pytest.mark.usefixtures("fake_clock")
def test_a_method_that_got_faster_after_it_was_warm_is_told_of() -> None:
    size, session = timed(cheating.Honest())
    (honest,) = size.members
    verdict = judged_with_blocks(honest, alone=True)
    honest.warm = [replace(honest.warm[0], step_seconds=4 * honest.warm[0].step_seconds)]
    assert any("still changing its speed" in note for note in row(honest, size, session, verdict)["benchmark"]["notes"])


def test_where_no_timed_loss_is_finite_nothing_is_equivalent() -> None:
    """The method is right, its rate too large: what was timed computes nothing."""
    size, _ = timed(NumPy(), words=("optimizer.lr=1e3",))
    verdict = judged_with_blocks(size.members[0])
    assert verdict.verdict == UNDECIDED and "timed losses are not finite" in verdict.line


def test_a_method_that_no_other_process_can_import_fails_alone() -> None:
    class Here(cheating.Honest):
        pass

    each = participant(Here())
    measure([each], seed=3, processes=1, seconds=0.1)
    assert each.failed is not None
    assert each.failed.startswith("method=numpy cannot be sent to a process of its own")
    assert each.failed.endswith("put its class into a module beside its YAML")


def test_clocks_are_taken_before_a_method_can_replace_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("perf_counter", "perf_counter_ns", "process_time_ns", "monotonic"):
        monkeypatch.setattr(time, name, lambda: 0)
    first = clock.seconds()
    assert first > 0
    assert clock.seconds() > first


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason=f"needs a CUDA device; torch {torch.__version__} finds none")
def test_work_on_another_stream_is_waited_for() -> None:
    """The device is waited for, not a stream: what a method left on a stream of its own is in the time."""
    streams = []

    class Aside(Tensor):
        def steps(self, x, y, block, place):
            losses = super().steps(x, y, block, place)
            streams.append(torch.cuda.Stream())
            with torch.cuda.stream(streams[-1]):
                large = torch.ones(4096, 4096, device="cuda")
                for _ in range(20):
                    large = large @ large / 4096
            return losses

    experiment, _ = instantiate(*compose([*SMALL, RATE, "method=tensor", "device=cuda"]))
    data = experiment.check()
    experiment.resolve_device()
    experiment.method = Aside()
    with controlled(1, "torch", experiment.precision, "cuda:0"):
        bench = Bench(experiment, data)
        bench.start()
        bench.prepare(seed=5, steps=3, calls=2)
        bench.ready()
        done: list[bool] = []
        timed_block = bench.go(lambda: done.append(all(stream.query() for stream in streams)))
    assert done == [True]
    assert timed_block.device_seconds is not None
