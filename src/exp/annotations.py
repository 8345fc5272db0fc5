"""The annotations of a constructor: the types in them, and how they are told to a user."""

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import field, fields, make_dataclass
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


def parts_of(schema: type, groups: Mapping[str, type]) -> dict[str, str]:
    """The arguments of a constructor that are parts themselves, each with the group that it is a choice of."""
    hints = typing.get_type_hints(schema)
    named = {kind: group for group, kind in groups.items()}
    return {each.name: named[hints[each.name]] for each in fields(schema) if hints[each.name] in named}


def as_given(schema: type, parts: Mapping[str, str]) -> type:
    """The constructor as a configuration fills it: a part is given by the name of a choice."""
    if not parts:
        return schema
    hints = typing.get_type_hints(schema) | dict.fromkeys(parts, str)
    kept = [
        (each.name, hints[each.name], field(default=each.default, default_factory=each.default_factory))
        for each in fields(schema)
    ]  # type: ignore[call-overload]
    return make_dataclass(schema.__name__, kept, kw_only=True)
