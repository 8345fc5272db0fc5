"""Which runs are trained as one program, and how many at once.

Together go runs that differ in numbers only: seeds, initial weights, the optimizer's numbers, and hidden widths, for units
that are padded with zeros stay zero under every update: f(0) = 0 lets nothing out of them, zero weights let no gradient in.
That is known of what is shipped: a method, optimizer or network from elsewhere is never padded.

Stacked, K runs cost each operation's overhead once, but their numbers pass through the cache in every step. Measured on a
CPU: a gain as long as they stay in it, a loss beyond (docs/sweeps.md). So `auto` takes as many as fit into CACHE_BYTES
there, none where not even LEAST do, nor fewer than FEWEST, for one of a program is trained alone too; on a GPU as many as fit
into half of its free memory, at most MOST.
"""

import json
import resource
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from exp.activations import ACTIVATIONS
from exp.experiment import Experiment
from exp.memory import free_bytes
from exp.methods.base import Method, Wrapper
from exp.optimizers import NUMBERS, Optimizer
from exp.problems import Data
from exp.tasks.base import Group

CACHE_BYTES = 4 * 2**20
LEAST = 8
FEWEST = 4
"""2 runs, one of them trained alone too, took 1.2 to 1.4 times as long as one by one."""
MOST = 1024
DRAWN = ("hidden", "initial", "seed")
"""What of a network may differ in a program: the widths where they can be padded, and what its weights are drawn by."""
OFF, AUTO = "off", "auto"


def groups(runs: Sequence[tuple[Experiment, Data]], fuse: str, *, elsewhere: bool = False, workers: int = 1) -> list[Group]:
    """Every run in one group, in the order of their first. `fuse` is "auto", "off" or how many at most.

    `elsewhere`: they are trained on machines whose memory is not known here; `workers`: so many groups at once, if there
    are as many.
    """
    kinds: dict[Hashable, list[int]] = {}
    alone: list[Group] = []
    for number, (experiment, data) in enumerate(runs):
        reason = "sweep.fuse=off" if fuse == OFF else unfused(experiment)
        if reason:
            alone.append(Group([number], reason))
        else:
            kinds.setdefault(_kind(experiment, data), []).append(number)
    found = [
        group for members in kinds.values() for group in _split(runs, members, fuse, elsewhere, -(-len(members) // workers))
    ]
    return sorted([*alone, *found], key=lambda group: group.runs[0])


def unfused(experiment: Experiment) -> str | None:
    """Why a run cannot be a part of a program; None where it can."""
    if not experiment.method.stacks:
        return f"method={experiment.choices['method']} trains one run at a time"
    parts: list[tuple[str, Any]] = [("method", method) for method in _layers(experiment.method)]
    for group, part in [*parts, ("loss", experiment.loss), ("optimizer", experiment.optimizer)]:
        if not _shipped(part) and not vars(type(part)).get("leading_axes"):
            return f"{group}={experiment.choices[group]} does not say leading_axes = True, that it knows stacks"
    return None


def member_bytes(experiment: Experiment, data: Data, *, own_data: bool) -> int:
    """What a step of a run goes through: weights, their gradients and temporaries, slots; activations and their gradients;
    and its batch, where that is its own."""
    rows, inputs = data.train.inputs.shape
    batch = experiment.training.batch_size or rows
    widths = experiment.network.widths(inputs, data.train.targets.shape[1])
    weights = experiment.network.parameters(inputs, data.train.targets.shape[1])
    numbers = weights * (3 + len(experiment.optimizer.slot_names)) + batch * 2 * sum(widths[1:])
    return (numbers + own_data * batch * (widths[0] + widths[-1])) * np.dtype(experiment.precision.dtype).itemsize


def _kind(experiment: Experiment, data: Data) -> Hashable:
    """What runs of one program have in common."""
    config, optimizer = experiment.config, experiment.optimizer
    training = {key: value for key, value in config["training"].items() if key != "seed"}
    network = experiment.network
    shape = [len(network.hidden)] if _pads(experiment) else network.hidden
    splits = [data.train, *([data.valid] if data.valid else [])]
    return json.dumps(
        [
            [config[part] for part in ("method", "device", "precision", "loss", "threads")],
            [_class_name(optimizer), _others(optimizer, _numbers(optimizer)), training],
            [_class_name(network), _others(network, DRAWN), shape],
            [[split.inputs.shape, split.targets.shape] for split in splits],
            data.metric,
        ],
        sort_keys=True,
    )


def _layers(method: Method) -> Iterator[Method]:
    """A method, and those whose steps it takes."""
    yield method
    while isinstance(method, Wrapper):
        yield (method := method.inner)


def _shipped(part: Any) -> bool:
    return type(part).__module__.startswith("exp.")


def _class_name(part: Any) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _others(part: Any, left_out: Sequence[str]) -> dict[str, str]:
    """The values of a part but for those left out."""
    return {key: repr(value) for key, value in vars(part).items() if key not in left_out}


def _numbers(optimizer: Optimizer) -> Sequence[str]:
    """The fields that are numbers of the rule: of a class from elsewhere those that it says are constants, for the others
    its rule may read from itself."""
    return NUMBERS if _shipped(optimizer) else [name for name in NUMBERS if name in optimizer.constants()]


def _pads(experiment: Experiment) -> bool:
    """Whether units of zero weights stay zero."""
    network = experiment.network
    shipped = all(_shipped(part) for part in (*_layers(experiment.method), experiment.optimizer, network))
    return shipped and not np.any(ACTIVATIONS[network.activation].value(np.zeros(1)))


def _split(runs: Sequence[tuple[Experiment, Data]], members: list[int], fuse: str, elsewhere: bool, share: int) -> list[Group]:
    """Runs of one kind in groups of a `share` at most, the widest networks first, so that little is padded."""
    own_data = len({id(runs[number][1]) for number in members}) > 1
    sizes = {number: member_bytes(*runs[number], own_data=own_data) for number in members}
    left = sorted(members, key=lambda number: (-sizes[number], runs[number][0].network.hidden, number))
    found = []
    while left:
        experiment, data = runs[left[0]]
        beyond_steps = _kept_bytes(experiment, data, own_data=own_data)
        most, rule = _most(experiment, sizes[left[0]], beyond_steps, fuse, elsewhere=elsewhere)
        chosen, left = sorted(left[: min(most, share)]), left[min(most, share) :]
        if len(chosen) == 1 and most > 1:
            rule = "as many at once as there are" if share == 1 and len(members) > 1 else "no other is like it, or left"
        elif 1 < len(chosen) < FEWEST and fuse == AUTO and _on_cpu(experiment):
            found += [Group([number], _too_few(most, share, len(members))) for number in chosen]
            continue
        found.append(Group(chosen, rule))
    return found


def _too_few(most: int, share: int, members: int) -> str:
    """Why runs are not a program that could be one."""
    which = "like it, or left"
    if most < FEWEST:
        which = "fit into half of the free memory"
    elif share < FEWEST <= members:
        which = "for each worker"
    return f"fewer than {FEWEST} {which}: one of a program is trained alone too, together they would be slower"


def _kept_bytes(experiment: Experiment, data: Data, *, own_data: bool) -> int:
    """What a run needs beyond a step: the layers and predictions of its validation split, and all rows that are its own."""
    splits = [data.train, *([data.valid] if data.valid else [])]
    numbers = own_data * sum(split.inputs.size + split.targets.size for split in splits)
    if data.valid:
        widths = experiment.network.widths(data.valid.inputs.shape[1], data.valid.targets.shape[1])
        numbers += len(data.valid.inputs) * 2 * sum(widths[1:])
    return numbers * np.dtype(experiment.precision.dtype).itemsize


def _on_cpu(experiment: Experiment) -> bool:
    return experiment.device.name in ("cpu", "auto") or experiment.method.library == "numpy"


def _most(experiment: Experiment, size: int, beyond_steps: int, fuse: str, *, elsewhere: bool) -> tuple[int, str]:
    """How many runs of a size go together, and why."""
    free = None if elsewhere else free_bytes(experiment.device.torch_name)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2  # of every run of a program one is open
    fitting = max(1, min(MOST, files, MOST if free is None else int(free / 2 / (size + beyond_steps))))
    if fuse != AUTO:
        return min(int(fuse), fitting), f"at most {fuse}: sweep.fuse={fuse}"
    if not _on_cpu(experiment):
        return fitting, f"at most {MOST}" + (", as many as half of the free memory holds" if free else "")
    in_cache = CACHE_BYTES // size
    if in_cache < LEAST:
        return 1, f"not even {LEAST} fit into {CACHE_BYTES >> 20} MiB of cache, stacked they would be slower"
    return min(in_cache, fitting), f"as many as {CACHE_BYTES >> 20} MiB of cache hold"
