"""task=repeat: train a recorded run once more from its own configuration, and say what has changed since."""

from dataclasses import dataclass

from exp.comparison.pair import curves_differ, pair
from exp.comparison.selection import find_run
from exp.comparison.trials import Trial
from exp.errors import InputError
from exp.experiment import Experiment
from exp.report import Report
from exp.run_folder import RunFolder, mark_killed
from exp.tasks.base import RecordedConfig, Task
from exp.tasks.train import Train
from exp.tracking.links import follow_up

PLACES = ("name", "runs", "tracker", "task")
"""What says where and under which name a run is recorded: it is this command's."""


@dataclass(kw_only=True)
class Repeat(Task):
    """Train `run` again: the folder or name of a recorded training run, or "latest"."""

    run: str = "latest"

    def recorded(self, runs: str) -> RecordedConfig:
        found = _recorded(runs, self.run)
        status = found.status()
        return RecordedConfig(found.config(), status["choices"], status["name"])

    def __call__(self, experiment: Experiment) -> int:
        report, first = Report(), _recorded(experiment.runs, self.run)
        report.say(f"repeats {first.path}")
        data = experiment.check()
        report.begin(experiment, data)
        mark_killed(experiment.runs)
        again = Train().record(experiment, data, report, repeats=first.path.name)
        trials = [Trial("before", {}, first, first.status()), Trial("now", {}, again, status := again.status())]
        if status["status"] == "FINISHED":
            for line in changed(*trials):
                report.say(line)
        for line in follow_up(experiment, [again]):
            report.say(line)
        return 0 if status["status"] == "FINISHED" else 1


def changed(before: Trial, now: Trial) -> list[str]:
    """What has changed from one run to its repetition, a line each; the curves come last."""
    lines = [line for line in pair(before, now, metrics=False) if line[1].split(".")[0] not in PLACES]
    said = [f"changed: {where} {what}: {first} before, {second} now" for where, what, first, second in lines]
    kinds = [kind for kind in ("configuration", "data", "code", "environment") if kind not in {line[0] for line in lines}]
    said += [f"unchanged: {', '.join(kinds)}"] if kinds else []
    if program := before.status.get("program"):
        others = f"{program['runs'] - 1} other{'s' * (program['runs'] > 2)}"
        said.append(f"program: the recorded run was trained with {others} as one program, so last bits may differ")
    if len(before.losses):
        said.append(f"loss curves: {curves_differ(before.losses, now.losses)}")
    return said


def _recorded(runs: str, name: str) -> RunFolder:
    """The training run called `name`. Raises `InputError` (key "repeat.run")."""
    try:
        return find_run(runs, name, to_be="repeated")
    except InputError as error:
        raise InputError("repeat.run", error.value, error.problem) from None
