"""The campaign of replays: bugs that were reported in public, each with its source, judged in one precision.

    cd tests && python -m campaigns.replayed

Exit code 1 if one is not caught, or if its beat or tensor is named wrongly. The printed results are kept in
docs/campaigns/replays.txt.
"""

import sys

from campaigns.campaign import conditions_line, outcome, table, timed, totals
from campaigns.replays import REPLAYS

BARS = {"caught": 100.0, "right beat": 100.0, "right tensor": 98.0}


def run() -> bool:
    print(conditions_line(), "\n")
    found = table((outcome(entry, "fp32") for entry in REPLAYS), sources=True)
    print()
    return totals(found, BARS)


if __name__ == "__main__":
    sys.exit(timed(run))
