"""The conformance kit: every check of `contract` on a method, and a report with the smallest failing example."""

from typing import Any

from exp.verification.case import Case
from exp.verification.contract import CHECKS, Broken, Limit, start_of
from exp.verification.smallest import smallest_example
from exp.verification.verdict import DIFFERENT, Finding, Verdict


def conformance(case: Case, verdict: Verdict, conditions: tuple[Any, ...]) -> Verdict:
    """The verdict with the kit's report. A broken contract is `different`. `conditions` are the arguments of `controlled`."""
    start = start_of(case)
    items: dict[str, dict[str, Any]] = {}
    for name, check in CHECKS.items():
        try:
            items[name] = {"kept": True, "seen": check(case, start, conditions)}
        except Limit as limit:
            items[name] = {"kept": None, "seen": str(limit)}
        except Broken as broken:
            items[name] = {"kept": False, "seen": str(broken)}
        except (Exception, SystemExit) as error:
            items[name] = {"kept": False, "seen": " ".join(f"raised {type(error).__name__}: {error}".split())}
    broken = next((name for name, item in items.items() if item["kept"] is False), None)
    if broken and verdict.first is None:
        nan = float("nan")
        verdict.verdict, verdict.reason = DIFFERENT, f"{broken}: {items[broken]['seen']}"
        verdict.first = Finding("contract", broken, None, "", None, (), nan, nan, nan, items[broken]["seen"])
    example = smallest_example(case) if verdict.first is not None and verdict.first.beat != "contract" else None
    words = {True: "kept", False: "broken", None: "not done"}
    lines = [f"{words[item['kept']]:<9} {name}: {item['seen']}" for name, item in items.items()]
    verdict.kit = {"items": items, "smallest_example": example, "report": "\n".join([*lines, *(example or [])]) + "\n"}
    return verdict
