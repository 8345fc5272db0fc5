"""The campaign of mutants: every planted fault in each precision in which it can be seen, and all cheats.

    cd tests && python -m campaigns.mutants [fp64] [fp32] [bf16]

Without a precision, all of them. Exit code 1 if a bar is not met. The printed results are kept in
docs/campaigns/mutants.txt. Faults that are smaller than what bfloat16 resolves are left out there: see
`method_mutants.COARSE`. In bf16 a mutant of method=numpy is run on torch's arrays, which are the same code. TF32 needs a
GPU, and is not among the precisions.
"""

import sys
from collections.abc import Sequence

from campaigns import formula_mutants, further_mutants, method_mutants
from campaigns.campaign import Outcome, conditions_line, outcome, table, timed, totals
from campaigns.method_mutants import Mutant

PRECISIONS = ("fp64", "fp32", "bf16")

BARS = {"caught": 99.5, "right beat": 100.0, "right tensor": 98.0}

ALL: list[Mutant] = [*method_mutants.MUTANTS, *formula_mutants.MUTANTS, *further_mutants.MUTANTS]

CHEATS = [entry for entry in ALL if entry.family.startswith("cheat")]
MUTANTS = [entry for entry in ALL if not entry.family.startswith("cheat")]


def run(precisions: Sequence[str]) -> bool:
    """All of them, precision by precision."""
    print(conditions_line())
    found: list[Outcome] = []
    for precision in precisions:
        for title, entries in (("mutants", MUTANTS), ("cheats", CHEATS)):
            print(f"\n{precision}, {title}\n")
            found += table(outcome(entry, precision) for entry in entries if precision in entry.precisions)
        print(f"\n{precision}, both")
        totals([each for each in found if each.precision == precision], BARS)
    print("\ncheats")
    always = totals([each for each in found if each.fault in CHEATS], {"caught": 100.0})
    families = {entry.family for entry in ALL}
    print(f"\nall: {len(families)} families, {len(ALL)} entries, {len(found)} verdicts")
    return totals(found, BARS) and always and len(families) >= 60


if __name__ == "__main__":
    sys.exit(timed(lambda: run(sys.argv[1:] or PRECISIONS)))
