"""task=benchmark: how fast is a step, by how much faster than another, how surely; and were the timed steps right?"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from exp.benchmark.crossing import answer
from exp.benchmark.outcome import baseline, losses, raw
from exp.benchmark.page import page
from exp.benchmark.peers import absences, require_peers
from exp.benchmark.plan import Size, expected_seconds, sessions, size_key, sizes, too_large, too_slow
from exp.benchmark.replay import judged_with_blocks
from exp.benchmark.rows import peer_row, row
from exp.benchmark.session import MOST_SEED, Participant, Session, measure
from exp.benchmark.table import COLUMNS, notes, rows_of, text
from exp.claims import Claim
from exp.environment import cores
from exp.errors import require
from exp.experiment import Experiment
from exp.problems import Data
from exp.report import Report
from exp.run_folder import RunFolder
from exp.tasks.base import Group, Member, RunTask, Table
from exp.tasks.recording import alone, beating, begun, carried_out, end_early
from exp.tasks.verify import verdict_status
from exp.tracking.uploader import shared_uploader
from exp.verification.verdict import EXIT_CODES, UNSUPPORTED


class NotMeasured(RuntimeError):
    """A combination that failed in its worker."""


@dataclass(kw_only=True)
class Benchmark(RunTask):
    """Time all combinations of a sweep together, or a single one. See docs/benchmark.md.

    `seconds` of timed blocks for each, in `processes` sets of new processes; `isolated` false: all in this process.
    """

    kind, undisturbed = "benchmark", True

    seconds: float = 8.0
    processes: int = 5
    isolated: bool = True
    peers: list[str] = field(default_factory=list)
    seed: int | None = None

    def __post_init__(self) -> None:
        require(0 < self.seconds <= 3600, "seconds", self.seconds, "a number > 0 and <= 3600")
        require(self.processes >= 1, "processes", self.processes, "a whole number >= 1")
        require(
            self.seed is None or 0 <= self.seed < MOST_SEED,
            "seed",
            self.seed,
            f"a whole number >= 0 and < {MOST_SEED}, or null",
        )
        require_peers(self.peers)

    def __call__(self, experiment: Experiment) -> int:
        return alone(self, experiment, Report())

    def groups(
        self, runs: Sequence[tuple[Experiment, Data]], fuse: str, *, elsewhere: bool = False, workers: int = 1
    ) -> list[Group]:
        """All of a sweep are timed together: the task says so itself."""
        return [Group([*range(len(runs))])]

    def record(
        self, experiment: Experiment, data: Data, report: Report, claim: Claim | None = None, **status: Any
    ) -> RunFolder:
        return self.record_together([Member(experiment, data, claim, status)], report)[0]

    def record_together(self, members: Sequence[Member], report: Report) -> list[RunFolder]:
        report.end()  # the loss of a benchmark is worth no bar
        with _held(members, self.kind) as claims:
            timed = [Participant(each.experiment.name, each.experiment, each.data) for each in members]
            found = self._measured(timed, claims, report)
            folders = []
            for each, member, claim in zip(timed, members, claims, strict=True):
                work = partial(self._result, each, found, report)
                own = Member(each.experiment, each.data, claim, member.status)
                folders += carried_out([own], report, work, task=self.kind)
        if not members[0].status.get("sweep"):  # else it is written of all of the sweep, at its end
            for line in self.concluded([folder.status() for folder in folders], folders[0]):
                report.say(line)
        return folders

    def _measured(
        self, timed: list[Participant], claims: Sequence[Claim], report: Report
    ) -> dict[int, tuple[Size, Session, str]]:
        """Time them; returns of each, by its `id`, its size, its session and the session's name."""
        for each, claim in zip(timed, claims, strict=True):
            each.experiment.resolve_device()
            if not claim.uploads:
                each.failed = "runs that other processes do at the same time cannot be timed; use hydra/launcher=basic"
            else:
                each.skipped = too_large([each]) or too_slow(each, self.seconds)
        seed = secrets.randbelow(MOST_SEED) if self.seed is None else self.seed
        every = sizes(timed, self.peers)
        self._say_plan(every, report)
        uploads = any(claim.uploads for claim in claims) and timed[0].experiment.tracker.address() is not None
        # Else it takes a core from what is timed, and is taken for somebody else's.
        if uploads and any(size.participants for size in every) and not shared_uploader().settle():
            report.say("the upload process still computes: it may disturb the first timed blocks")
        found: dict[int, tuple[Size, Session, str]] = {}
        began = time.monotonic()
        for number, together in enumerate(split := sessions(every)):
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"

            def progress(done: int, number: int = number, of: int = len(split)) -> None:
                sets = number * self.processes + done
                what = "sets of processes" if self.isolated else "repetitions in this process"
                report.say(f"timed {sets} of {of * self.processes} {what}, {time.monotonic() - began:.0f} s")

            taking_part = [each for size in together for each in size.participants]
            session = measure(
                taking_part, seed + number, self.processes, self.seconds, isolated=self.isolated, progress=progress
            )
            if not self.isolated:
                for each in taking_part:
                    each.memory.clear()  # of what the process took at most nobody knows whose it was
            found |= {id(each): (size, session, name) for size in together for each in size.members}
        return found

    def _say_plan(self, every: Sequence[Size], report: Report) -> None:
        """What will be done, and about how long it takes, before any of it begins."""
        taking_part = [each for size in every for each in size.participants]
        if not taking_part:
            return
        combinations = sum(each.kind == "combination" for each in taking_part)
        twins, peers = (sum(each.kind == kind for each in taking_part) for kind in ("twin", "peer"))
        what = f"{combinations} combination{'s' * (combinations != 1)}, {twins} twin{'s' * (twins != 1)} for the noise floor"
        what += f", {peers} peer{'s' * (peers != 1)}" if peers else ""
        sets = f"{self.processes} set{'s' * (self.processes != 1)} of new processes" if self.isolated else "this process"
        about = expected_seconds(every, self.processes, self.seconds, isolated=self.isolated)
        how = f"{self.seconds:g} s of timed blocks each, interleaved, in {sets}"
        report.say(f"timing {what}: {how}; then their verdicts: about {_about(about)} on a quiet machine")

    def _result(
        self,
        each: Participant,
        found: dict[int, tuple[Size, Session, str]],
        report: Report,
        members: Sequence[Member],
        folders: Sequence[RunFolder],
        device: str,
        send: Callable[[], None],
    ) -> list[dict[str, Any]]:
        """What the status of a run says of what was measured of it; its verdict is found here."""
        (folder,) = folders
        if each.skipped:
            report.say(f"skipped {each.label}: {each.skipped}")
            verdict = {"verdict": UNSUPPORTED, "verdict_reason": each.skipped, "metrics": {}}
            own: dict[str, Any] = {"session": "none", "size": 0, "notes": [f"skipped {each.label}: {each.skipped}"]}
            return [{"status": "FINISHED", "benchmark": own, **verdict}]
        if each.failed is not None:
            error = NotMeasured(each.failed)
            if each.traceback:
                error.add_note(each.traceback)  # for error.txt; what it says stays a sentence
            raise error
        size, session, name = found[id(each)]
        verdict = judged_with_blocks(each)
        if each is baseline(size):  # it comes before all that is relative to it
            size.baseline_verdict = verdict.verdict
        folder.write_json("environment.json", each.environment)
        folder.write_json("verdict.json", {**each.experiment.choices, **verdict.as_json()})
        folder.write_json("benchmark.json", raw(each, size, session))
        curve = losses(each)
        folder.write_curve({"train/loss": curve, "train/time": np.full(len(curve), time.time())})
        every = [size for size, session_, _ in found.values() if session_ is session]
        said = verdict_status(verdict, each.experiment)
        own = row(each, size, session, verdict)
        shape = (sum(each.experiment.network.hidden), each.experiment.training.batch_size or len(each.data.train.inputs))
        place = next(number for number, other in enumerate(every) if other is size)
        own["benchmark"] |= {"session": name, "size": place, "warnings": session.warnings, "shape": shape}
        own["benchmark"] |= {"threads": each.experiment.threads, "cores": cores(), "size_key": size_key(each.experiment)}
        if own["benchmark"].get("is_baseline"):
            absent = absences(each.experiment, self.peers)
            own["benchmark"]["notes"] += [f"no {peer} beside {each.label}: {why}" for peer, why in absent.items()]
            timed = [peer for peer in size.peers if peer.failed is None]
            own["benchmark"]["peers"] = [peer_row(peer, size, session, own["benchmark"]) for peer in timed]
        return [{"status": "FINISHED", **said, **own, "metrics": said["metrics"] | own["metrics"]}]

    def concluded(self, statuses: list[dict[str, Any]], folder: RunFolder) -> list[str]:
        """One page, where there are several to show."""
        finished = [status for status in statuses if status["status"] == "FINISHED"]
        if len(finished) < 2:
            return []
        folder.write_text("benchmark.html", page(finished))
        return [f"see {folder.path}/benchmark.html"]

    def table(self, statuses: list[dict[str, Any]], first: Sequence[str]) -> Table:
        columns = [*first, *(column for column in COLUMNS if column not in first)]
        rows = [[text(status, column) for column in columns] for status in rows_of(statuses)]
        names = ["speed/step_seconds", "speed/ratio", "speed/first_step_seconds"]
        return Table(columns, rows, names, [*notes(statuses), *answer(statuses)])

    def exit_code(self, statuses: list[dict[str, Any]]) -> int:
        """That of the worst verdict: different before undecided. What was skipped with its reason is no failure."""
        codes = {EXIT_CODES[status["verdict"]] for status in statuses}
        return next((code for code in (2, 4) if code in codes), 0)


@contextmanager
def _held(members: Sequence[Member], task: str) -> Iterator[list[Claim]]:
    """The claims of the members, folders of their own for those that have none."""
    claims: list[Claim] = []
    with ExitStack() as stack:
        try:
            for each in members:
                claim = each.claim
                if claim is None:
                    claim = Claim(RunFolder.create(each.experiment.runs, each.experiment.name), uploads=True)
                    claim.folder.update_status(**begun(each.experiment), **each.status, task=task)
                    stack.enter_context(beating([claim.folder], lambda: False))
                claims.append(claim)
            yield claims
        except BaseException as error:
            address = members[0].experiment.tracker.address() if claims and claims[0].uploads else None
            end_early([claim.folder for claim in claims], error, address)
            raise


def _about(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
