"""How often task=benchmark finds a planted slow-down of 3 %, and how often it sees one between equals: for real.

`python -m campaigns.power [trials] [seconds]`, in the folder `tests`. In every trial four workers of the tutorial's step in
NumPy are timed together, `seconds` of blocks in all: the baseline, its twin, an equal, and one that does every 33rd step twice.
What is said of the last two is counted.
"""

import sys
import time
from dataclasses import dataclass

from campaigns.machine import machine

from exp.arrays import Array, Place
from exp.benchmark.machine import others
from exp.benchmark.outcome import floor, relative
from exp.benchmark.plan import Size
from exp.benchmark.session import Participant, measure
from exp.composition import compose
from exp.configuration import instantiate
from exp.methods.base import Formulas, Method
from exp.methods.manual import NumPy
from exp.state import State

EVERY = 33
PROCESSES = 5


@dataclass(kw_only=True)
class Slower(NumPy):
    """Every 33rd step is done twice: 3.03 % more work of the same kind, whatever the machine."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.done = 0

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        self.done += 1
        if self.done % EVERY == 0:
            super().transition(state, x, y)
        return super().transition(state, x, y)


def participant(label: str, method: Method, kind: str = "combination") -> Participant:
    experiment, _ = instantiate(*compose(["method=numpy", "tracker=none"]))
    data = experiment.check()
    experiment.resolve_device()
    experiment.method = method
    return Participant(label, experiment, data, kind)


def trial(seed: int, seconds: float) -> tuple[bool, bool, str]:
    """Whether equals were told apart, whether the slow-down was found, and a line."""
    equal, slower = participant("equal", NumPy()), participant("slower", Slower())
    members = [participant("baseline", NumPy()), equal, slower]
    size = Size(members, participant("twin", NumPy(), "twin"), original=members[0])
    session = measure(size.participants, seed, PROCESSES, seconds / 4)
    hidden = floor(size)
    found = [relative(each, size.members[0]) for each in (equal, slower)]
    assert hidden is not None and None not in found
    same, slow = (ratio for ratio in found if ratio is not None)
    apart, seen = not hidden.hides(same), not hidden.hides(slow) and slow.ratio > 1
    shares = [share for pair in session.looks if (share := others(*pair)) is not None]
    busy = f"others {sum(shares) / len(shares):.2f} cores" if shares else "others unknown"
    words = [f"{ratio.ratio:.4f} ({ratio.low:.4f}–{ratio.high:.4f})" for ratio in (same, slow)]
    line = f"equal {words[0]} {'APART' if apart else 'none'}; slower {words[1]} {'found' if seen else 'MISSED'}"
    return apart, seen, f"{line}; floor {hidden.share:.2%}; {busy}"


def main(trials: int, seconds: float) -> None:
    print(f"{machine('1 thread')}; {seconds:g} s of timed blocks a trial, {PROCESSES} sets of processes", flush=True)
    apart, seen = [], []
    for number in range(trials):
        began = time.perf_counter()
        one, other, line = trial(number, seconds)
        apart.append(one)
        seen.append(other)
        print(f"{number + 1:3} {line}; {time.perf_counter() - began:.0f} s", flush=True)
    print(f"no difference between equals: {trials - sum(apart)} of {trials}; slow-down of 3 % found: {sum(seen)} of {trials}")


if __name__ == "__main__":
    from campaigns.power import main  # by the name by which workers import it

    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30, float(sys.argv[2]) if len(sys.argv) > 2 else 60.0)
