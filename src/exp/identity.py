"""The identity of a run: the hash of what defines its result.

No part of it is what changes last bits only: the processor, and the runs that it was trained with as one program.
"""

import hashlib
import json
from typing import Any

from exp.environment import packages, version
from exp.experiment import Experiment
from exp.sources import kinds_of, modules_of, sources

PARTS = ("method", "device", "precision", "problem", "network", "loss", "optimizer", "training")
"""The groups that say what a run is. The tracker, the task, the sweep say how it is done."""

LOGGING = ("log_every",)
"""Settings of the training that only say how much is printed."""


LOOP = "exp.loop"
"""The module of the loop that trains them all."""


BUILDER = "exp.program"
"""The module that gives the method its first state and its constants; what it imports is the rest of exp."""


def run_sources(experiment: Experiment) -> dict[str, str]:
    """SHA-256 of the files that define the run: its parts and the loop that trains them."""
    parts = (kind for part in PARTS for kind in kinds_of(getattr(experiment, part)))
    return sources([*modules_of(parts), LOOP], alone=[BUILDER])


def identity(experiment: Experiment, data_digest: str) -> str:
    """SHA-256 of the resolved configuration without the how, the content of the data, the files and the versions.

    The thread count is a part of the configuration: OpenBLAS gives other last bits for 1 and for 2 threads.
    """
    config = {key: experiment.config[key] for key in (*PARTS, "seed", "threads")}
    config["training"] = {key: value for key, value in config["training"].items() if key not in LOGGING}
    return _hashed(
        {
            "config": config,
            "data": data_digest,
            "sources": run_sources(experiment),
            "versions": {name: version(name) for name in packages(experiment.method.library)},
        }
    )


def task_identity(identity: str, task: Any) -> str:
    """The identity of a task done with a run: a verification of a run is not its training."""
    return _hashed([identity, f"{type(task).__qualname__} {vars(task)}"])


def _hashed(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
