"""README is true: its commands run and print what it shows, its Python runs, its test command is CI's.

A command whose output is shown, or that needs processes of its own, is run as it stands; the others go through the command
line's own `main` in this process, with one upload process, for speed.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import clean
from sweeping import Here, commanded, here, one_uploader

__all__ = ["here", "one_uploader"]

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SETUP = ("python3 -m venv", "pip", "pytest")


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command of README with the output that README shows for it (none: []), but for those that set up."""
    for language, text in BLOCKS:
        if language == "console":
            command, *shown = text.splitlines()
            yield command.removeprefix("$ "), shown
        elif language == "sh":
            for line in text.splitlines():
                if not any(word in line for word in SETUP):
                    yield line.partition("#")[0].strip(), []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: `my.csv` with a column `price`, and README's own method in `my/`."""
    folder = tmp_path_factory.mktemp("reader")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(90, 3)) * [1, 10, 100]
    table = np.column_stack([x, 1000 + x @ [5, 3, 0.2]])
    np.savetxt(folder / "my.csv", table, delimiter=",", header="rooms,area,age,price", comments="")
    (folder / "my" / "method").mkdir(parents=True)
    (folder / "my" / "mine.py").write_text(next(text for language, text in BLOCKS if "class Mine" in text))
    (folder / "my" / "method" / "mine.yaml").write_text(next(text for language, text in BLOCKS if language == "yaml"))
    return folder


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run in `folder`, `python` and `mlflow` being those of the environment under test."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(words, cwd=folder, env=clean({"PATH": path}), capture_output=True, text=True, timeout=300)


def shape(line: str) -> str:
    """A line with its numbers, and names made of them, masked."""
    line = re.sub(r"\d{8}-\d{6}\S*", "<time>", line)
    line = re.sub(r"(?<==)\d{14}\w+|(?<==)%5B\S+", "<id>", line)
    return " ".join(re.sub(r"\d[\d.]*(e-?\d+)?", "#", line).split())


@pytest.mark.parametrize(("command", "shown"), list(commands()), ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.usefixtures("one_uploader")
def test_a_command_runs_and_prints_what_is_shown(
    command: str, shown: list[str], folder: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    words = shlex.split(command)
    words += ["benchmark.seconds=0.2", "benchmark.processes=1"] * ("task=benchmark" in words)  # its own are for a person
    if shown or "hydra/launcher" in command or "sweep=methods" in command or words[:3] != ["python", "-m", "exp"]:
        done = commanded(run(words, folder))
    else:
        done = here(*words[3:])
    assert done.code == 0, done.err
    printed = [shape(line) for line in done.lines]
    for line in shown:
        if line != "…":
            wanted = shape(line).removesuffix("…")
            assert any(each.startswith(wanted) if line.endswith("…") else each == wanted for each in printed), (line, printed)


def test_the_python_runs(folder: Path) -> None:
    program = next(text for language, text in BLOCKS if language == "python" and "from exp import" in text)
    done = run(
        [sys.executable, "-c", program + "\nassert len(trained.losses) == 50 and labels.shape == digits.valid.y.shape"], folder
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_a_method_of_ones_own_is_under_30_lines() -> None:
    lines = [text for language, text in BLOCKS if "class Mine" in text or language == "yaml"]
    assert len(lines) == 2
    assert sum(len(text.splitlines()) for text in lines) < 30


def test_ci_calls_the_very_test_command() -> None:
    command = next(line for language, text in BLOCKS if language == "sh" for line in text.splitlines() if "pytest" in line)
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == command


def test_readme_is_under_200_lines() -> None:
    assert len(README.splitlines()) < 200


def test_every_choice_and_exit_code_is_in_it() -> None:
    for path in (ROOT / "conf").glob("*/*.yaml"):
        assert path.parent.name == "hydra" or f"`{path.stem}`" in README, path
