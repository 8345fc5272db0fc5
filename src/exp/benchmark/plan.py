"""What is timed together: combinations of one size with the twin of the first, which is their baseline; peers on request."""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from exp.benchmark.costs import costs
from exp.benchmark.peers import peers
from exp.benchmark.session import Participant
from exp.experiment import Experiment
from exp.memory import free_bytes

MOST_TOGETHER = 12
"""Of sizes with more participants in all each is timed by itself: idle workers hold memory."""

MEMORY_SHARE = 0.7
"""Of the memory that is free, what the workers that are timed together may need."""

USUAL_OPERATIONS = {"cpu": 2e10, "cuda": 5e12, "mps": 1e12}
"""Operations a second that any such device does (a CPU with each thread): to tell beforehand what takes far too long."""

SAME_SIZE = ("problem", "network", "loss", "optimizer", "training", "seed")

NUMPY_START_SECONDS, TORCH_START_SECONDS, JUDGED_SECONDS = 1.0, 2.0, 4.0
"""What a set of processes takes beside the blocks, for each worker; and a verdict: to say beforehand how long it takes."""

WARMING_SECONDS = 0.5
"""What remains of that where a combination has no process to start."""


@dataclass
class Size:
    """Combinations that differ in method, device, precision or threads only. The first that is timed is their baseline."""

    members: list[Participant]
    twin: Participant | None = None
    peers: list[Participant] = field(default_factory=list)
    original: Participant | None = None
    """The combination that the twin is a second worker of: where it fails, the twin is none of the baseline's."""
    baseline_verdict: str | None = None
    """None until the baseline is judged: what is relative to it is not shown before."""

    @property
    def participants(self) -> list[Participant]:
        return [each for each in (*self.members, self.twin, *self.peers) if each is not None and each.able]


def sizes(participants: Sequence[Participant], wanted_peers: Sequence[str]) -> list[Size]:
    """The sizes in the order of the plan, each with its twin and its peers."""
    found: dict[str, Size] = {}
    for each in participants:
        found.setdefault(size_key(each.experiment), Size([])).members.append(each)
    for size in found.values():
        able = [each for each in size.members if each.able]
        if able:
            first = able[0]
            size.original, size.twin = first, Participant(f"{first.label} (twin)", first.experiment, first.data, "twin")
            size.peers = [_peer(first, name, method) for name, method in peers(first.experiment, wanted_peers).items()]
    return list(found.values())


def size_key(experiment: Experiment) -> str:
    """A short name of all that makes the size: equal where the same steps are done."""
    said = json.dumps({name: experiment.config.get(name) for name in SAME_SIZE}, sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def _peer(first: Participant, name: str, method: object) -> Participant:
    """A peer on the baseline's data, in its device, precision and threads."""
    experiment = copy.copy(first.experiment)
    experiment.method = method  # type: ignore[assignment]
    experiment.choices = first.experiment.choices | {"method": name}
    return Participant(name, experiment, first.data, "peer")


def sessions(found: Sequence[Size]) -> list[list[Size]]:
    """Sizes that are timed together: all of them where they are few and fit into memory, else one at a time."""
    able = [size for size in found if size.participants]
    together = [each for size in able for each in size.participants]
    if len(together) <= MOST_TOGETHER and too_large(together) is None:
        return [able] if able else []
    return [[size] for size in able]


def too_large(participants: Sequence[Participant]) -> str | None:
    """Why these do not fit into memory together, in a sentence; None where they do, or nobody knows."""
    host, device = 0.0, {}
    for each in participants:
        experiment = each.experiment
        held = float(costs(experiment, each.data).held_bytes(experiment.precision.dtype))
        split = each.data.train
        host += 4 * (split.inputs.nbytes + split.targets.nbytes)  # as loaded, as sent, mixed anew, and in the precision
        if (name := experiment.device.torch_name).startswith("cuda"):
            device[name] = device.get(name, 0.0) + held
        else:
            host += held
    for name, wanted in device.items():
        import torch

        free, _ = torch.cuda.mem_get_info(name)
        if wanted > MEMORY_SHARE * free:
            return f"needs about {wanted / 2**30:.1f} GiB on {name}, of which {free / 2**30:.1f} GiB are free"
    free = free_bytes("cpu")
    if free is not None and host > MEMORY_SHARE * free:
        return f"needs about {host / 2**30:.1f} GiB of memory, of which {free / 2**30:.1f} GiB are free"
    return None


def too_slow(each: Participant, seconds: float) -> str | None:
    """Why a step would take too long to be timed, in a sentence; None where it would not."""
    experiment = each.experiment
    rate = USUAL_OPERATIONS.get(experiment.device.torch_name.partition(":")[0], 2e10)
    step = costs(experiment, each.data).operations / rate / (experiment.threads if rate < 1e12 else 1)
    if step <= max(seconds, 1.0):
        return None
    return f"a step would take about {step:.0f} s, of {seconds:g} s to be timed; benchmark.seconds={step:.0f} would do"


def expected_seconds(found: Sequence[Size], processes: int, seconds: float, *, isolated: bool) -> float:
    """About how long all of it will take, on a machine that is quiet: blocks, what is between them, verdicts."""
    total = 0.0
    for size in found:
        for each in size.participants:
            start = NUMPY_START_SECONDS if each.experiment.method.library == "numpy" else TORCH_START_SECONDS
            total += (
                1.3 * seconds
                + processes * (start if isolated else WARMING_SECONDS)
                + JUDGED_SECONDS * (each.kind == "combination")
            )
    return total
