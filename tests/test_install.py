"""The wheel holds everything: what is built, unpacked and run from another folder is the whole program."""

import importlib.util
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from commands import clean
from commands import exp as command

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout. Without hatchling in the environment, pip fetches it from the index."""
    folder = tmp_path_factory.mktemp("wheel")
    backend = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    words = ["pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", *backend, "--wheel-dir", folder, ROOT]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, env=clean(), timeout=300)
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the unpacked wheel is importable and the checkout is not."""
    folder, site = tmp_path_factory.mktemp("unpacked"), tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    (site / "sitecustomize.py").write_text(
        f"import sys\nsys.path[:] = [path for path in sys.path if not path.startswith({str(ROOT / 'src')!r})]\n"
        f"sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in repr(finder)]\n"
    )
    return {"PYTHONPATH": f"{folder}{os.pathsep}{site}", "UNPACKED": str(folder)}


def files(folder: Path, suffix: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob(f"*{suffix}")}


def test_the_wheel_holds_every_module_and_every_choice(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    conf = {f"exp/conf/{name}" for name in files(ROOT / "conf", ".yaml")}
    assert "exp/conf/config.yaml" in conf
    assert names == conf | files(ROOT / "src", ".py")


def test_the_wheel_declares_the_command_and_the_license(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    inner = {name.partition(".dist-info/")[2]: name for name in archive.namelist()}
    assert "exp = exp.__main__:command" in archive.read(inner["entry_points.txt"]).decode()
    assert "licenses/LICENSE" in inner
    requires = archive.read(inner["METADATA"]).decode()
    for dependency in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        assert f"Requires-Dist: {dependency.partition('>')[0]}" in requires


def test_what_is_imported_is_the_unpacked_wheel(installed: dict[str, str], tmp_path: Path) -> None:
    code = "import exp, hydra_plugins.exp_sweeper as sweeper; print(exp.__file__); print(sweeper.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=clean(installed), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(installed["UNPACKED"]) for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], "Choices:"),
        (["--cfg", "job"], "_target_: exp.methods.autograd.Autograd"),
        (["method=numpy", "debug=fast"], "numpy fp32, random 64"),
        (["-m", "seed=0,1", "debug=fast", "method=numpy"], "sweep "),
    ],
)
def test_the_unpacked_wheel_works(words: list[str], said: str, installed: dict[str, str], tmp_path: Path) -> None:
    done = command(*words, cwd=tmp_path, env=installed)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert said in done.stdout
    if "-m" in words:  # the sweeper is exp's own: it compares
        assert "1/2 seed=0" in done.stdout and "2/2 seed=1" in done.stdout and "(the sweep: runs/sweeps/" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}


def test_the_console_script_works_from_any_folder(tmp_path: Path) -> None:
    console = Path(sys.executable).parent / "exp"
    words = ["method=numpy", "debug=fast"]
    done = subprocess.run([console, *words], cwd=tmp_path, env=clean(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("numpy fp32, random 64") and len(list((tmp_path / "runs").iterdir())) == 1
