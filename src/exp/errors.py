"""What a user typed cannot work: one line that says what, why and what to type instead."""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input. `str()` is the whole message, on one line: the key as typed, the value, what is allowed, what to do.

    `key` may be relative (a constructor knows `lr`, not `optimizer.lr`); `under` puts the group in front.
    """

    def __init__(self, key: str, value: object, problem: str):
        self.key, self.value, self.problem = key, value, problem
        super().__init__(key, value, problem)

    def under(self, group: str) -> "InputError":
        """The same error of a key in `group`; an environment variable (in capitals) stays as it is."""
        return type(self)(self.key if self.key.isupper() else f"{group}.{self.key}", self.value, self.problem)

    def __str__(self) -> str:
        value = "null" if self.value is None else str(self.value)
        typed = f"{self.key}={value}" if self.value is not MISSING else self.key
        return _without_secrets(" ".join(f"{typed}: {self.problem}".split()))


def _without_secrets(text: str) -> str:
    """`text` without what looks like a password in an address."""
    text = re.sub(r"[^\s/=:@]+:(?!//)[^\s@]*@", "***@", text)
    return re.sub(r"((?:pass|pwd|token|secret)\w*=)[^\s&;]+", r"\1***", text, flags=re.IGNORECASE)


class SecretError(InputError):
    """A value that must not be shown as it was typed: `value` is what may be."""


class _Missing:
    """Stands for "there is no value to show"."""


MISSING = _Missing()


@contextmanager
def within(group: str) -> Iterator[None]:
    """What is raised inside speaks of keys in `group`."""
    try:
        yield
    except InputError as error:
        raise error.under(group) from None


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raise `InputError` unless `condition` holds; `allowed` completes "allowed: …"."""
    if not condition:
        raise InputError(key, value, f"allowed: {allowed}")


def require_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """Raise `InputError` with the choices, nearest first, unless `value` is one of them."""
    if value not in (choices := list(choices)):
        raise InputError(key, value, f"choose {listed(nearest(value, choices))}")


def nearest(word: str, choices: Iterable[str]) -> list[str]:
    """All `choices`, the one nearest to `word` first.

    The nearest first by difflib's ratio, the order of ties kept. A choice that contains the word counts as close.
    """

    def distance(choice: str) -> float:
        ratio = difflib.SequenceMatcher(None, word.lower(), choice.lower()).ratio()
        return -max(ratio, 0.7 if len(word) > 2 and word.lower() in choice.lower() else 0.0)

    return sorted(choices, key=distance)


def listed(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *head, last = list(words) or ["nothing"]
    return f"{', '.join(head)} or {last}" if head else last


LONGEST_REASON = 250
"""Letters of an error in a line: torch's on a GPU's memory say a page."""


def in_a_line(error: BaseException) -> str:
    """The kind of an error and what it says, the middle left out where that is long."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    half = LONGEST_REASON // 2
    return text if len(text) <= LONGEST_REASON else f"{text[: half - 2]} … {text[-half + 1 :]}"
