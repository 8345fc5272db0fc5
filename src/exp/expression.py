"""Conditions over the columns of a row, as a user types them: `final/loss < 1e-3 and method in [numpy, tensor]`.

Python reads the text, a list of what is allowed decides, and nothing of it is ever executed.
"""

import ast
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from numbers import Real
from operator import add, eq, ge, gt, le, lt, mul, ne, neg, pos, sub, truediv
from typing import Any

from exp.errors import InputError, listed, nearest

Row = Mapping[str, Any]
Evaluate = Callable[[Row], Any]

LONGEST, DEEPEST, ALIKE = 2_000, 100, 0.8
"""The longest text, the deepest nesting; and from which ratio of difflib's on a word may be a mistyped name."""
WORDS = {"true": True, "false": False, "null": None}
SLASH = "\N{LATIN LETTER DENTAL CLICK}"
"""Stands for the / in a name while Python reads the text: a letter to Python, so `final/loss` is one word."""
TEXT_OR_NAME = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|(?<![\w.])[^\W\d][\w.]*(?:/[^\W\d][\w.]*)+", re.DOTALL)
ARITHMETIC: dict[type, Any] = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Div: truediv}
COMPARISONS: dict[type, Any] = {ast.Eq: eq, ast.NotEq: ne, ast.Lt: lt, ast.LtE: le, ast.Gt: gt, ast.GtE: ge}
ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
MEMBERSHIP = (ast.In, ast.NotIn)
ALLOWED = "and, or, not, comparisons, in, + - * /, numbers, texts, lists and the names of columns"


@dataclass(frozen=True)
class Condition:
    """A condition that was read: whether it holds depends on the row alone."""

    key: str
    text: str
    _evaluate: Evaluate = field(repr=False, compare=False)

    @classmethod
    def parse(cls, key: str, text: str, names: Collection[str]) -> "Condition":
        """The condition `text`, typed as the value of `key`, over rows with columns of these `names`.

        Raises `InputError` for what cannot be read, is not allowed, or names no column.
        """
        return cls(key, text, _Reader(key, text, names).read())

    def holds(self, row: Row) -> bool:
        """Whether it holds in `row`. A column that is absent or None makes a comparison false, other than with null.

        Raises `InputError` where text is compared with a number, or something is no condition.
        """
        return self._evaluate(row)


def require_readable(key: str, text: str) -> None:
    """Raise `InputError` unless Python can read `text`; the names of the columns need not be known yet."""
    _parsed(key, text, text)


def _parsed(key: str, text: str, prepared: str) -> ast.expr:
    if len(text) > LONGEST:
        raise InputError(key, f"{text[:40]}…", f"is longer than {LONGEST} characters")
    if not text.strip():
        raise InputError(key, repr(text), "is empty; give a condition, such as seed == 0")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(re.sub(r"\s", " ", prepared).strip(), mode="eval").body
    except SyntaxError as error:
        hint = "; compare with ==" if re.search(r"(?<![=!<>])=(?!=)", text) else ""
        skipped = len(prepared) - len(prepared.lstrip())
        where = f"character {error.offset + skipped}" if error.offset else "its end"  # 0: Python read all, and wants more
        told = error.msg.partition(". ")[0] if error.offset else "a value or a name is missing"
        problem = f"cannot be read at {where}: {told}{hint}"
        raise InputError(key, text, problem) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(key, text, f"cannot be read: {error or 'nested too deeply'}") from None
    level, depth = [tree], 0
    while level := [child for node in level for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]:
        if (depth := depth + 1) > DEEPEST:
            raise InputError(key, text, "is nested too deeply")
    return tree


class _Reader:
    """Turns the tree of one condition into a function of the row, or says what of it is not allowed."""

    def __init__(self, key: str, text: str, names: Collection[str]):
        self.key, self.text, self.names = key, text, names

    def read(self) -> Evaluate:
        return self._condition(_parsed(self.key, self.text, TEXT_OR_NAME.sub(self._slashes_kept, self.text)))

    def _slashes_kept(self, found: re.Match[str]) -> str:
        """`final/loss` as one word where the row has it, or where no part of it is a name; else it is a division."""
        if found[0][0] in "'\"":
            return found[0]
        words, parts = [], found[0].split("/")
        while parts:
            lengths = range(len(parts), 0, -1)
            count = next((count for count in lengths if "/".join(parts[:count]) in self.names), 1)
            words.append("/".join(parts[:count]))
            parts = parts[count:]
        known = any(word in self.names for word in words)
        return "/".join(word.replace("/", SLASH) for word in (words if known else [found[0]]))

    def _error(self, problem: str) -> InputError:
        return InputError(self.key, self.text, problem)

    def _not_allowed(self, node: ast.expr) -> InputError:
        return self._error(f"{_shown(node)} is not allowed; allowed: {ALLOWED}")

    def _condition(self, node: ast.expr) -> Evaluate:
        """What is true or false."""
        value = self._value(node)
        problem = f"{_shown(node)} is no condition; compare it, as in {_shown(node)} == …"
        never = isinstance(node, ast.BinOp | ast.List | ast.Tuple) or self._is_null(node)
        never = never or (isinstance(node, ast.Constant) and not isinstance(node.value, bool))
        if never or (isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not)):
            raise self._error(problem)

        def evaluate(row: Row) -> bool:
            found = value(row)
            if found is not None and _kind(found) != "true or false":
                raise self._error(problem)
            return bool(found)

        return evaluate

    def _value(self, node: ast.expr) -> Evaluate:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as constant):
                return lambda row: constant
            case ast.Name() | ast.Attribute():
                return self._column(node)
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                values = [self._value(element) for element in elements]
                return lambda row: [value(row) for value in values]
            case ast.BoolOp(op=operator, values=operands):
                conditions = [self._condition(operand) for operand in operands]
                together = all if isinstance(operator, ast.And) else any
                return lambda row: together(condition(row) for condition in conditions)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                condition = self._condition(operand)
                return lambda row: not condition(row)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as operator, operand=operand):
                return self._arithmetic(neg if isinstance(operator, ast.USub) else pos, node, operand)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in ARITHMETIC:
                return self._arithmetic(ARITHMETIC[type(operator)], node, left, right)
            case ast.Compare(left=left, ops=operators, comparators=others):
                pairs = zip([left, *others], operators, others, strict=False)
                links = [self._comparison(one, operator, other) for one, operator, other in pairs]
                return lambda row: all(link(row) for link in links)
        raise self._not_allowed(node)

    def _column(self, node: ast.expr) -> Evaluate:
        name = self._name(node)
        if name in self.names:
            return lambda row: list(value) if isinstance(value := row.get(name), tuple) else value
        if name in WORDS:
            return lambda row: WORDS[name]
        raise self._error(f"{name} is no name here; nearest: {listed(nearest(name, self.names)[:3])}")

    def _name(self, node: ast.expr) -> str:
        ends = []
        while isinstance(node, ast.Attribute):
            ends.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            raise self._not_allowed(node)
        return ".".join([node.id, *reversed(ends)]).replace(SLASH, "/")

    def _arithmetic(self, calculate: Callable[..., Any], node: ast.expr, *sides: ast.expr) -> Evaluate:
        """A number; None where a column is absent, or where division by 0 leaves none."""
        operands, shown = [self._value(side) for side in sides], _shown(node)

        def evaluate(row: Row) -> Any:
            numbers = [operand(row) for operand in operands]
            if wrong := [number for number in numbers if number is not None and not _comparable(number, 0)]:
                raise self._error(f"{shown} calculates with {_told(wrong[0])}, which is {_kind(wrong[0])}, not a number")
            try:
                return None if None in numbers else calculate(*numbers)
            except ArithmeticError:
                return None

        return evaluate

    def _comparison(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Evaluate:
        """One comparison of two sides."""
        shown = _shown(ast.Compare(left, [operator], [right]))
        compare = COMPARISONS.get(type(operator))
        if compare is None and not isinstance(operator, MEMBERSHIP):
            raise self._error(f"{shown} is not allowed; compare with == or !=")
        ordered = isinstance(operator, ORDER)
        first, second = self._side(left, right, ordered), self._side(right, left, ordered)
        with_null = any(self._is_null(side) for side in (left, right)) and isinstance(operator, ast.Eq | ast.NotEq)

        def evaluate(row: Row) -> bool:
            one, other = first(row), second(row)
            if with_null and compare:
                return compare(one, other)
            if other is None or (one is None and not (isinstance(other, list) and None in other)):
                return False
            if compare is None:
                return self._is_in(one, other, shown) == isinstance(operator, ast.In)
            if not _comparable(one, other) or (ordered and _kind(one) == "a list"):
                told = f"{_kind(one)}, {_told(one)}, with {_kind(other)}, {_told(other)}"
                raise self._error(f"{shown} compares {told}")
            return bool(compare(one, other))

        return evaluate

    def _is_in(self, element: Any, container: Any, shown: str) -> bool:
        if isinstance(container, str) and isinstance(element, str):
            return element in container
        if not isinstance(container, list):
            raise self._error(f"{shown} looks for {_told(element)} in {_told(container)}, which is {_kind(container)}, no list")
        if element is not None and container and not any(_comparable(element, each) for each in container):
            raise self._error(f"{shown} looks for {_kind(element)}, {_told(element)}, among {_kind(container[0])}")
        return any(_comparable(element, each) and element == each for each in container)

    def _is_null(self, node: ast.expr) -> bool:
        named = isinstance(node, ast.Name) and node.id == "null" and "null" not in self.names
        return named or (isinstance(node, ast.Constant) and node.value is None)

    def _side(self, node: ast.expr, opposite: ast.expr, ordered: bool) -> Evaluate:
        """A side of a comparison; `numpy` in `method == numpy` is text."""
        named = isinstance(opposite, ast.Name | ast.Attribute) and self._name(opposite) in self.names
        return self._value(self._words_as_text(node) if named and not ordered else node)

    def _words_as_text(self, node: ast.expr) -> ast.expr:
        """Words that are no names, nor like one, as text."""
        if isinstance(node, ast.List | ast.Tuple):
            return ast.List([self._words_as_text(element) for element in node.elts], ast.Load())
        if not isinstance(node, ast.Name) or (word := self._name(node)) in {*self.names, *WORDS} or "/" in word:
            return node
        if best := next((name for name in self.names if SequenceMatcher(None, word, name).ratio() >= ALIKE), None):
            raise self._error(f"{word} is no name here; nearest: {best}; put it in quotes if it is meant as text")
        return ast.Constant(word)


def _shown(node: ast.expr) -> str:
    return ast.unparse(node).replace(SLASH, "/")


def _kind(value: Any) -> str:
    kinds = ((bool, "true or false"), (Real, "a number"), (str, "text"), (list, "a list"), (type(None), "null"))
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)


def _comparable(left: Any, right: Any) -> bool:
    numbers = ("true or false", "a number")  # true is 1, as in Python
    return _kind(left) == _kind(right) or (_kind(left) in numbers and _kind(right) in numbers)


def _told(value: Any) -> str:
    return repr(value) if isinstance(value, str) else "null" if value is None else str(value).lower()
