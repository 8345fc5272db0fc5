"""The annotations of a constructor: the types in them, and how they are told to a user."""

import types
import typing
from collections.abc import Iterator
from typing import Any


def leaf_types(schema: type, key: str) -> Iterator[type]:
    """The types in an annotation such as `list[int] | None`."""
    pending = [typing.get_type_hints(schema)[key]]
    while pending:
        hint = pending.pop()
        pending += typing.get_args(hint)
        yield hint


def in_words(schema: type, key: str) -> str:
    """An annotation in words."""
    hint = typing.get_type_hints(schema)[key]
    optional = type(None) in typing.get_args(hint) and isinstance(hint, types.UnionType)
    hint = next(part for part in typing.get_args(hint) if part is not type(None)) if optional else hint
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        list[int]: "a list of whole numbers, such as [64,32]",
        list[float]: "a list of numbers, such as [0.9,0.999]",
        list[str]: "a list of texts, such as [age,bmi]",
        list[Any]: "a list of parts, such as [{grid:{seed:[0,1]}}]",
        dict[str, Any]: "keys with their values, such as {seed:[0,1]}",
    }
    return words.get(hint, str(hint)) + (" or null" if optional else "")
