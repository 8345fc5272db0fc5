"""Values as one would type them behind `key=`, in the grammar of Hydra's overrides."""

import re
from decimal import Decimal, InvalidOperation
from typing import Any

from exp.naming import short

BARE = re.compile(r"[A-Za-z_./][\w./@%+-]*", re.ASCII)
"""A text that means itself without quotes, unless it reads as a number, or as one of these words."""
WORDS = ("true", "false", "null", "nan", "inf")


def value_text(value: Any) -> str:
    """A value as one would type it: null, true, 1e-6, [100,50], {a:1}, a word, or a text in quotes where it needs them."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return short(value, "")
    if isinstance(value, list | tuple):
        return f"[{','.join(value_text(element) for element in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{value_text(key)}:{value_text(inner)}' for key, inner in value.items())}}}"
    text = str(value)
    if isinstance(value, int) or (BARE.fullmatch(text) and text.lower() not in WORDS and not _is_number(text)):
        return text
    return in_quotes(text)


def in_quotes(text: str) -> str:
    """A text in single quotes: those in it, and the backslashes before them, are escaped."""
    escaped = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + (r"\'" if end[2] else ""), text)
    return f"'{escaped}'"


def meaning(text: str) -> str:
    """Equal for texts of one number: `1e-6` and `1e-06`; of everything else the text."""
    try:
        return str(Decimal(text).normalize())
    except InvalidOperation:
        return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
