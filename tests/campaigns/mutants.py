"""The campaign of mutants: every planted fault in each precision in which it can be seen, and all cheats.

    cd tests && python -m campaigns.mutants

Exit code 1 if a bar is not met. The printed results are kept in docs/campaigns/mutants.txt. Faults that are smaller than
what bfloat16 resolves are left out there: see `method_mutants.COARSE`. In bf16 a mutant of method=numpy is run on torch's
arrays, which are the same code. TF32 needs a GPU, and is not among the precisions.
"""

import sys

from campaigns import formula_mutants, further_mutants, method_mutants
from campaigns.campaign import conditions_line, outcomes, table, timed, totals
from campaigns.faults import Fault
from campaigns.method_mutants import Mutant

PRECISIONS = ("fp64", "fp32", "bf16")

BARS = {"caught": 99.5, "right beat": 100.0, "right tensor": 98.0}

ALL: list[Mutant] = [*method_mutants.MUTANTS, *formula_mutants.MUTANTS, *further_mutants.MUTANTS]

CHEATS = [entry for entry in ALL if entry.family.startswith("cheat")]
MUTANTS = [entry for entry in ALL if not entry.family.startswith("cheat")]


def precisions(fault: Fault) -> list[str]:
    assert isinstance(fault, Mutant)
    return [precision for precision in PRECISIONS if precision in fault.precisions]


def run() -> bool:
    """All of them, with the totals of each precision."""
    print(conditions_line(), "\n")
    found = table(outcomes(MUTANTS, precisions))
    print("\nCheats\n")
    cheats = table(outcomes(CHEATS, precisions))
    families = {entry.family for entry in ALL}
    print(f"\n{len(families)} families, {len(ALL)} entries, {len(found) + len(cheats)} verdicts")
    for precision in PRECISIONS:
        chosen = [each for each in found + cheats if each.precision == precision]
        print(f"\n{precision}: {len(chosen)} verdicts")
        totals(chosen, BARS)
    print("\nCheats")
    always = totals(cheats, {"caught": 100.0})
    print("\nAll")
    return totals(found + cheats, BARS) and always and len(families) >= 60


if __name__ == "__main__":
    sys.exit(timed(run))
