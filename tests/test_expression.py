"""Conditions over a row: what they mean, what is refused and how, and that nothing typed is ever executed."""

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exp.errors import InputError
from exp.expression import Condition, require_readable

CONFIGURED = {
    "method": "numpy",
    "precision": "bf16",
    "optimizer": "sgd",
    "optimizer.lr": 3e-6,
    "network.hidden": [100, 50],
    "network.bias": False,
    "training.batch_size": None,
    "seed": 2,
    "name": None,
}
MEASURED = {
    "run": "numpy lr=1e-6",
    "method": "numpy",
    "verdict": "equivalent",
    "final/loss": 3.8e-5,
    "final/train/loss": 7.0,
    "time/step_seconds": 0.25,
    "seconds": 8.0,
    "steps": 4,
    "seeds": 5,
    "valid/accuracy": None,
    "first/loss": math.nan,
}


def holds(text: str, row: dict[str, Any] = CONFIGURED) -> bool:
    return Condition.parse("exclude", text, row).holds(row)


def refused(text: str, row: dict[str, Any] = CONFIGURED) -> str:
    with pytest.raises(InputError) as raised:
        holds(text, row)
    said = str(raised.value)
    assert "\n" not in said and said.startswith("exclude=")
    return said.removeprefix(f"exclude={' '.join(text.split())}: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("method == 'numpy' and precision == 'bf16'", True),
        ('method == "numpy" and not precision == "bf16"', False),
        ("method == 'tensor' or seed >= 2", True),
        ("optimizer.lr < 1e-6", False),
        ("1e-6 < optimizer.lr <= 3e-6", True),
        ("1e-6 < optimizer.lr < 3e-6", False),
        ("seed in [0, 2] and seed not in (1, 3)", True),
        ("seed * 2 - 1 == 3 and -seed < 0 and +seed / 4 == 0.5", True),
        ("network.hidden == [100, 50]", True),
        ("network.hidden == (100, 50)", True),
        ("100 in network.hidden", True),
        ("99 in network.hidden", False),
        ("'sg' in optimizer", True),
        ("network.bias == false or network.bias == True", True),
        ("network.bias", False),
        ("not network.bias", True),
        ("true", True),
        ("False", False),
        # a bare word as text
        ("method == numpy", True),
        ("numpy == method", True),
        ("method != tensor", True),
        ("method in [numpy, tensor]", True),
        ("method not in (tensor, autograd)", True),
        # missing values
        ("training.batch_size == null", True),
        ("training.batch_size != None", False),
        ("null == seed", False),
        ("seed != null", True),
        ("training.batch_size < 5", False),
        ("seed < null", False),
        ("null in [1, null]", True),
        ("training.batch_size == 5", False),
        ("training.batch_size != 5", False),
        ("training.batch_size == name", False),
        ("training.batch_size * 2 == 4", False),
        ("training.batch_size in [1, 2]", False),
        ("training.batch_size not in [1, 2]", False),
        ("training.batch_size in [1, null]", True),
        ("not training.batch_size < 5", True),
        ("name", False),
        ("'a' in name", False),
        ("seed / 0 == 1", False),
        ("seed\n==\n2", True),
        (" seed == 2 ", True),
    ],
)
def test_a_condition_of_the_configuration(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("final/loss < 1e-3 and verdict == 'equivalent'", True),
        ("final/loss < 1e-3 and verdict == different", False),
        ("final/train/loss == 7", True),
        ("2 * final/loss < 8e-5", True),
        ("2*final/loss > 7e-5", True),
        ("final/loss/seconds < 5e-6", True),
        ("seconds/steps == 2", True),
        ("seconds / steps == 2", True),
        ("seconds/steps/2 == 1", True),
        ("seconds/time/step_seconds == 32", True),
        ("valid/accuracy > 0.9", False),
        ("first/loss < 1", False),
        ("first/loss != 1", True),
        ("verdict == 'final/loss'", False),
        ("'lr=1e-6' in run", True),
    ],
)
def test_a_condition_of_a_table(text: str, expected: bool) -> None:
    assert holds(text, MEASURED) is expected


def test_the_rows_names_decide_what_a_slash_is() -> None:
    assert holds("a/b == 2", {"a": 4, "b": 2}) and holds("a/b == 3", {"a": 4, "b": 2, "a/b": 3})
    assert holds("a/b == 3", {"a/b": 3})
    assert holds("x.a/y.b == 3", {"x.a/y.b": 3})
    assert holds("1e2/loss == 50", {"e2/loss": 1, "loss": 2})


def test_a_row_may_lack_a_known_column_and_hold_a_tuple() -> None:
    condition = Condition.parse("exclude", "optimizer.momentum > 0.5", ["optimizer.momentum"])
    assert (condition.holds({"optimizer.momentum": 0.9}), condition.holds({}), condition.holds({"x": 1})) == (
        True,
        False,
        False,
    )
    assert holds("hidden == [1, 2] and 1 in hidden", {"hidden": (1, 2)})


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("method = 'numpy'", ["cannot be read at character", "compare with =="]),
        ("method == 'numpy", ["cannot be read at character 11", "unterminated string"]),
        ("(method == 'numpy'", ["cannot be read at character 1", "never closed"]),
        ("seed == 1 &&", ["cannot be read at character 12"]),
        ("seed 1", ["cannot be read at character"]),
        ("  seed 1", ["cannot be read at character 8"]),
        ("final/loss <", ["cannot be read at its end: a value or a name is missing"]),
        ("seed == 1 and ", ["cannot be read at its end"]),
        ("not", ["cannot be read at its end"]),
        ("\0", ["cannot be read"]),
        ("seed == " + "9" * 1999, ["is longer than"]),
        ("(" * 250 + ")" * 250, ["cannot be read"]),
        ("not " * 300 + "network.bias", ["is nested too deeply"]),
        ("-" * 1500 + "1 == 1", ["nested too deeply"]),
        # names
        ("optimizer.lrr < 1", ["optimizer.lrr is no name here; nearest: optimizer.lr,"]),
        ("methd == 'numpy'", ["methd is no name here; nearest: method,"]),
        ("precison == fp32", ["precison is no name here; nearest: precision,"]),
        ("method == numpy.float", ["numpy.float is no name here"]),
        ("method < numpy", ["numpy is no name here"]),
        ("'numpy' == tensor", ["tensor is no name here"]),
        ("optimizer == precison", ["precison is no name here; nearest: precision; put it in quotes"]),
        # not allowed
        ("print(1)", ["print(1) is not allowed; allowed: and, or, not, comparisons"]),
        ("seed == __import__('os').system('true')", ["is not allowed"]),
        ("().__class__ == 1", ["is not allowed"]),
        ("network.hidden[0] == 100", ["network.hidden[0] is not allowed"]),
        ("seed ** 2 == 4", ["seed ** 2 is not allowed"]),
        ("seed % 2 == 0", ["seed % 2 is not allowed"]),
        ("[x for x in network.hidden] == 1", ["is not allowed"]),
        ("lambda: 1", ["is not allowed"]),
        ("f'{seed}' == method", ["is not allowed"]),
        ("(seed := 2) == 2", ["is not allowed"]),
        ("method == b'numpy'", ["is not allowed"]),
        ("seed == 1j", ["is not allowed"]),
        ("seed == ...", ["is not allowed"]),
        ("seed is 2", ["seed is 2 is not allowed; compare with == or !="]),
        ("{seed} == 2", ["is not allowed"]),
        ("~seed == 2", ["~seed is not allowed"]),
        ("True if seed else False", ["is not allowed"]),
        # no conditions
        ("5", ["5 is no condition; compare it"]),
        ("'numpy'", ["'numpy' is no condition"]),
        ("seed + 1", ["seed + 1 is no condition"]),
        ("-seed", ["-seed is no condition"]),
        ("[seed]", ["[seed] is no condition"]),
        ("null", ["null is no condition"]),
        ("method", ["method is no condition; compare it, as in method == …"]),
        ("not seed", ["seed is no condition"]),
        ("seed and method == numpy", ["seed is no condition"]),
        # kinds
        ("method == 5", ["method == 5 compares text, 'numpy', with a number, 5"]),
        ("method < 5", ["compares text"]),
        ("seed == '2'", ["compares a number, 2, with text, '2'"]),
        ("network.hidden == 100", ["compares a list, [100, 50], with a number, 100"]),
        ("network.hidden < [1]", ["compares a list"]),
        ("method + 1 == 2", ["method + 1 calculates with 'numpy', which is text, not a number"]),
        ("method * 2 == 'numpynumpy'", ["calculates with 'numpy'"]),
        ("-method == 2", ["-method calculates with 'numpy'"]),
        ("seed in ['a', 'b']", ["looks for a number, 2, among text"]),
        ("method in seed", ["looks for 'numpy' in 2, which is a number, no list"]),
        ("1 in method", ["looks for 1 in 'numpy', which is text, no list"]),
    ],
)
def test_what_is_refused_is_one_line(text: str, fragments: list[str]) -> None:
    said = refused(text)
    assert [fragment for fragment in fragments if fragment not in said] == [], said


@pytest.mark.parametrize("text", ["5", "seed + 1", "-seed", "[seed]", "null", "not -seed"])
def test_what_is_never_a_condition_is_refused_without_a_row(text: str) -> None:
    with pytest.raises(InputError, match="is no condition"):
        Condition.parse("exclude", text, CONFIGURED)


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_condition_is_refused(text: str) -> None:
    assert "is empty; give a condition" in refused(text)


def test_an_unknown_column_with_a_slash_is_told_whole() -> None:
    assert "final/los is no name here; nearest: final/loss," in refused("final/los < 1", MEASURED)
    assert "stps is no name here; nearest: steps," in refused("seconds/stps < 1", MEASURED)


def test_the_key_and_the_text_are_shown_as_typed() -> None:
    with pytest.raises(InputError, match=r"^compare\.require=final/los<1: "):
        Condition.parse("compare.require", "final/los<1", MEASURED)


def test_what_python_cannot_read_is_known_without_the_names() -> None:
    require_readable("exclude", "anything/at.all == whatever")
    with pytest.raises(InputError, match=r"^exclude=a = 1: cannot be read"):
        require_readable("exclude", "a = 1")


PIECES = [*MEASURED, *"()[],.+-*/<>='\"#\\:~{}@", "==", "!=", "<=", "and", "or", "not", "in", "is", "null", "true", "1", "2.5"]
PIECES += ["'text'", "lambda", "final", "\n", "\0", "é", "f''", "b''", "1e999", "9" * 30, "if", "else", "await", "yield"]
garbled = st.lists(st.sampled_from(PIECES), max_size=14).flatmap(
    lambda words: st.sampled_from([" ".join(words), "".join(words)])
)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=60) | garbled)
def test_any_text_is_a_condition_or_bad_input(text: str) -> None:
    try:
        condition = Condition.parse("exclude", text, MEASURED)
        assert condition.holds(MEASURED) in (True, False)
        assert condition.holds({}) in (True, False)
    except InputError as error:
        assert "\n" not in str(error)


ROW = {"seed": 3, "lr": 0.5, "method": "numpy", "hidden": [7, 5], "bias": True}
numbers = st.recursive(
    st.sampled_from(["seed", "lr", "2", "0.25", "-4", "1e-3"]),
    lambda inner: (
        st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda parts: f"({' '.join(parts)})")
        | st.tuples(inner, st.sampled_from(["/ 2", "/ lr", "/ seed"])).map(" ".join)
        | inner.map(lambda number: f"-({number})")
    ),
    max_leaves=5,
)
texts = st.sampled_from(["method", "'numpy'", "'tensor'", '"a/b"', "''"])
comparison = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
compared = (
    st.tuples(numbers, comparison, numbers).map(" ".join)
    | st.tuples(numbers, comparison, numbers, comparison, numbers).map(" ".join)
    | st.tuples(texts, comparison, texts).map(" ".join)
    | st.tuples(numbers, st.sampled_from(["in", "not in"]), st.lists(numbers, max_size=3)).map(
        lambda parts: f"{parts[0]} {parts[1]} [{', '.join(parts[2])}]"
    )
    | st.tuples(numbers, st.sampled_from(["in hidden", "not in hidden"])).map(" ".join)
    | st.tuples(texts, st.sampled_from(["in method", "in ['numpy', 'x']", "not in ('tensor', method)"])).map(" ".join)
    | st.sampled_from(["bias", "True", "False", "hidden == [7, 5]", "bias == True", "bias == 1", "hidden != [7]"])
)
conditions = st.recursive(
    compared,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join)
        | inner.map(lambda condition: f"not ({condition})")
        | inner.map(lambda condition: f"({condition})")
    ),
    max_leaves=6,
)


@settings(max_examples=500, deadline=None)
@given(conditions)
def test_a_well_formed_condition_means_what_it_means_in_python(text: str) -> None:
    assert holds(text, ROW) is bool(eval(text, {"__builtins__": {}}, dict(ROW)))


def test_it_is_read_once_and_asked_often() -> None:
    """Rows are many: what does not depend on them is decided beforehand."""
    condition = Condition.parse("exclude", "seed > 1 and method == numpy", CONFIGURED)
    rows = [{**CONFIGURED, "seed": seed} for seed in random.Random(0).sample(range(10), 10)]
    assert [condition.holds(row) for row in rows] == [row["seed"] > 1 for row in rows]
    assert repr(condition) == "Condition(key='exclude', text='seed > 1 and method == numpy')"
