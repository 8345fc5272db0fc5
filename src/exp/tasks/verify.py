"""task=verify: is the method's step right, where does it first go wrong, how small a fault would have been seen?"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

import numpy as np

from exp.claims import Claim
from exp.environment import environment
from exp.errors import require_choice
from exp.experiment import Experiment, Unsupported
from exp.identity import run_sources
from exp.judgement import conditions, judged, judged_by_kit, remember_different
from exp.problems import Data
from exp.report import Report
from exp.run_folder import RunFolder, Verdicts
from exp.seeds import digest
from exp.summary import cell
from exp.tasks.base import Member, RunTask, Table
from exp.tasks.recording import alone, carried_out
from exp.verification.verdict import EXIT_CODES, UNDECIDED, UNSUPPORTED, Verdict

KITS = ("quick", "full")


@dataclass(kw_only=True)
class Verify(RunTask):
    """Judge the method by the reference. `kit` "full" adds what else is asked of a method: see `verification.kit`."""

    kind = "verify"

    kit: str = "quick"

    def __post_init__(self) -> None:
        require_choice("kit", self.kit, KITS)

    def __call__(self, experiment: Experiment) -> int:
        report = Report()
        try:
            return alone(self, experiment, report)
        except Unsupported as reason:
            report.say(f"verdict: unsupported: {reason}")
            return EXIT_CODES[UNSUPPORTED]

    def record(
        self, experiment: Experiment, data: Data, report: Report, claim: Claim | None = None, **status: Any
    ) -> RunFolder:
        report.end()  # nothing of a verification is worth a bar
        member = Member(experiment, data, claim, status)
        return carried_out([member], report, partial(self._verify, report), task=self.kind)[0]

    def _verify(
        self,
        report: Report,
        members: Sequence[Member],
        folders: Sequence[RunFolder],
        device: str,
        send: Callable[[], None],
    ) -> list[dict[str, Any]]:
        (member,), (folder,) = members, folders
        experiment, data = member.experiment, member.data
        with conditions(experiment, device) as set_conditions:
            state = experiment.initial_state(data)
            digests = {"data": data.digest, "weights": digest(state.params)}
            described = environment(device) | {"conditions": set_conditions, "sources": run_sources(experiment)}
            folder.write_json("environment.json", described)
            verdict = (judged_by_kit if self.kit == "full" else judged)(experiment, data, device)
            remember_different(verdict, experiment, data, device, Verdicts(experiment.runs))
        if verdict.traceback:
            folder.write_text("error.txt", verdict.traceback)
        if verdict.kit:
            folder.write_text("kit.txt", verdict.kit["report"])
        folder.write_json("verdict.json", {**experiment.choices, **verdict.as_json()})
        if verdict.curve:
            folder.write_curve(_curves(verdict))
        if report.detailed:
            _say_details(report, verdict)
        return [{"status": "FINISHED", "digests": digests, **verdict_status(verdict, experiment)}]

    def table(self, statuses: list[dict[str, Any]], first: Sequence[str]) -> Table:
        known = ("device", "precision", "verdict", "resolution", "bluntest", "first wrong")
        columns = [*first, *(column for column in known if column not in first)]
        if not any(status.get("first_wrong") for status in statuses):
            columns.remove("first wrong")
        ranked = sorted(statuses, key=lambda status: list(EXIT_CODES).index(status["verdict"]))
        rows = [[_cell(status, column) for column in columns] for status in ranked]
        return Table(columns, rows, ["verdict/resolution", "verdict/largest_error"], _notes(ranked))

    def exit_code(self, statuses: list[dict[str, Any]]) -> int:
        """That of the worst verdict: different before undecided before equivalent."""
        codes = {EXIT_CODES[status["verdict"]] for status in statuses}
        return next((code for code in (2, 4, 1) if code in codes), 0)


def verdict_status(verdict: Verdict, experiment: Experiment) -> dict[str, Any]:
    """What a run's status says of a verdict: it goes into tags and metrics."""
    numbers = {f"resolution/{key}": value for key, value in verdict.resolution.items()}
    if verdict.bluntest:
        numbers |= {"verdict/resolution": verdict.bluntest[1], "verdict/largest_error": max(verdict.largest.values())}
    numbers |= {"verdict/seconds": verdict.seconds}
    return {
        "verdict": verdict.verdict,
        "verdict_reason": verdict.reason or None,
        "would_decide": verdict.would_decide or None,
        "first_wrong": str(verdict.first) if verdict.first else None,
        "bluntest": verdict.bluntest and verdict.bluntest[0],
        "implementation": _implementation(experiment),
        "metrics": {name: value for name, value in numbers.items() if isfinite(value)},
    }


def _implementation(experiment: Experiment) -> str:
    """The class that says how to compute: methods that share it are one implementation."""

    def computes(kind: type) -> bool:
        return any(callable(value) for name, value in vars(kind).items() if not name.startswith("__") and name != "unsupported")

    found = next(kind for kind in type(experiment.method).__mro__ if computes(kind))
    return f"{found.__module__}.{found.__qualname__}"


def _notes(statuses: list[dict[str, Any]]) -> list[str]:
    """What a reader must know to weigh the verdicts."""
    notes = []
    for status in statuses:
        if status.get("first_wrong"):
            notes.append(f"{status['name']} is {status['verdict']}: {status['first_wrong']}")
        elif status.get("verdict_reason"):
            what = f"would decide it: {status['would_decide']}" if status["verdict"] == UNDECIDED else status["would_decide"]
            notes.append(f"{status['name']} is {status['verdict']}: {status['verdict_reason']}; {what}")
    methods: dict[str, list[str]] = {}
    for status in statuses:
        methods.setdefault(status["implementation"], []).append(status["choices"]["method"])
    for implementation, names in methods.items():
        if len(different := list(dict.fromkeys(names))) > 1:
            one = f"{' and '.join(sorted(different))} are one implementation ({implementation})"
            notes.append(f"{one}: that they agree is no independent evidence, that each agrees with the reference is")
    return notes


def _cell(status: dict[str, Any], column: str) -> str:
    if column == "resolution":
        value = status["metrics"].get("verdict/resolution")
        return "–" if value is None else f"{value:.1e}"
    if column == "first wrong":
        return status["first_wrong"].partition(" at probe")[0] if status.get("first_wrong") else "–"
    if column == "bluntest":
        return status.get("bluntest") or "–"
    return cell(status, column)


def _curves(verdict: Verdict) -> dict[str, np.ndarray]:
    """The free-running curves of method and reference, up to where one is not finite."""
    method, reference = np.array(verdict.curve["method"]), np.array(verdict.curve["reference"])
    now = np.full(len(method), time.time())
    return {"train/loss": method, "train/time": now, "reference/loss": reference, "reference/time": now}


def _say_details(report: Report, verdict: Verdict) -> None:
    """Every tensor with its resolution, what could not be decided, and the curves."""
    rows = []
    for key, resolution in verdict.resolution.items():
        beat, _, tensor = key.partition("/")
        rows.append([beat, tensor, f"{resolution:.1e}", f"{verdict.largest[key]:.2g}"])
    if rows:
        report.table(("beat", "tensor", "resolution", "largest error / tolerance"), rows)
    for remark in verdict.remarks:
        report.say(remark)
    if verdict.curve:
        steps, at = verdict.curve["steps"], verdict.curve["at_step"]
        distance = f"{verdict.curve['largest_relative_difference']:.1e} at step {at}"
        report.say(f"free-running losses of {steps} steps: at most {distance} from the reference's (not judged)")
    if verdict.kit:
        for line in verdict.kit["report"].splitlines():
            report.say(line)
