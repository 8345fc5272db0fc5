"""What a user mistypes: exit code 1, one line on stderr that says what to type instead, and nothing else happens.

The whole table goes through the command line's own `main` in this process, for speed; a part of it once more as a command
of its own. The ranges and types of every key of every choice are generated from the folders of `conf/`.
"""

import contextlib
import copy
import os
import signal
import sys
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import exp as command
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class
from omegaconf import OmegaConf

import exp
from exp import registry
from exp.__main__ import main
from exp.composition import compose
from exp.configuration import GROUPS, TopLevel, instantiate
from exp.errors import InputError
from exp.methods import Method

METHOD = "_target_: exp.methods.manual.NumPy\n"
FILES = {
    "good.csv": "a,b,y\n1,2,3\n2,3,4.5\n3,4,5\n4,5,6\n5,6,7.5\n",
    "text.csv": "a,city,y\n1,Oslo,3\n2,Rome,4\n",
    "missing.csv": "a,b,y\n1,,3\n2,3,4\n",
    "infinite.csv": "a,y\ninf,1\n2,3\n",
    "repeated.csv": "a,a,y\n1,2,3\n1,2,3\n",
    "one_class.csv": "a,y\n1,cat\n2,cat\n",
    "only_target.csv": "y\n1\n2\n",
    "empty.csv": "",
    "header.csv": "a,y\n",
    "ragged.csv": "a,b,y\n1,2\n3,4,5,6\n",
    "no.parquet": "no",
    "no.npz": "no",
    "unreadable.csv": "a,y\n1,2\n",
    "data.txt": "a,y\n1,2\n",
    "folder.csv/inside": "",
    "my/theirs.py": "class Plain: ...\n",
    "my/raising.py": "1 / 0\n",
    "my/unfinished.py": "def (\n",
    "my/method/key.yaml": METHOD + "foo: 1\n",
    "my/method/absent.yaml": "_target_: nowhere_at_all.Mine\n",
    "my/method/class.yaml": "_target_: theirs.Nothing\n",
    "my/method/plain.yaml": "_target_: theirs.Plain\n",
    "my/method/abstract.yaml": "_target_: exp.methods.base.ArrayMethod\n",
    "my/method/no_target.yaml": "{}\n",
    "my/method/raises.yaml": "_target_: raising.Mine\n",
    "my/method/syntax.yaml": "_target_: unfinished.Mine\n",
    "my/method/interpolation.yaml": "_target_: ${nowhere}\n",
    "my/method/parent.yaml": "defaults:\n  - nothing\n" + METHOD,
    "my/optimizer/mandatory.yaml": "_target_: exp.optimizers.SGD\nlr: ???\n",
    "broken/method/mine.yaml": "_target_: [a\n  b: {",
}
"""What lies in the folder in which everything is typed."""


def table(path: str, *words: str, target: str = "y") -> list[str]:
    return ["problem=table", f"problem.path={path}", f"problem.target={target}", "loss=mean_squared_error", *words]


def mine(*words: str) -> list[str]:
    return ["--config-dir", "my", *words]


here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
no_cuda = pytest.mark.skipif(here["cuda"], reason="this machine has CUDA")
as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
no_mps = pytest.mark.skipif(here["mps"], reason="this machine has MPS")


def row(words: str | list[str], *fragments: str, marks: typing.Any = ()) -> typing.Any:
    """What is typed, how the line begins, and what else it holds."""
    words = words.split() if isinstance(words, str) else words
    return pytest.param(words, fragments, id=" ".join(words) or "nothing", marks=marks)


TYPED = [
    # names
    row("metod=numpy", "metod=numpy: no such key", "nearest: method", "use method=numpy"),
    row("method=autogard", "method=autogard: no such choice; choose autograd,"),
    row("method=Numpy", "method=Numpy: no such choice; choose numpy,"),
    row("experiment=digit", "experiment=digit: ", "choose digits,"),
    row("debug=fats", "debug=fats: ", "choose fast"),
    row("lr=1e-5", "lr=1e-5: no such key", "use optimizer.lr=1e-5"),
    row("optimizer.lrr=1e-5", "optimizer.lrr=1e-5: no such key", "use optimizer.lr=1e-5"),
    row("optimizer.betas=[0.9,0.99]", "optimizer.betas=[0.9,0.99]: the chosen optimizer has no betas", "optimizer=adam"),
    row("optimizer=adam optimizer.momentum=0.9", "optimizer.momentum=0.9: ", "optimizer=momentum has"),
    row("tracker=none tracker.uri=x", "tracker.uri=x: the chosen tracker has no uri; tracker=mlflow has"),
    row("task.port=80", "task.port=80: ", "task=ui has"),
    row("+foo=1", "foo=1: no such key"),
    row("+optimizer.foo=1", "optimizer.foo=1: no such key", "nearest: optimizer."),
    row("++optimizer.foo=1", "optimizer.foo=1: no such key"),
    row("+optimizer.lr=1", "+optimizer.lr=1: is there already; leave the + out: optimizer.lr=1"),
    row("+experiment=digits", "+experiment=digits: is there already; leave the + out: experiment=digits"),
    row("~method", "method=null: choose autograd"),
    row("~foo", "~foo: there is nothing of that name"),
    row("~optimizer.lr", "optimizer.lr: is missing"),
    row("method=null", "method=null: choose autograd"),
    row("optimizer=null", "optimizer=null: choose adam"),
    row("method=5", "method=5: choose autograd"),
    row("method=[numpy]", "method=", "choose autograd"),
    row("method=", "method=: ", "choose autograd"),
    row("network.activation=rleu", "network.activation=rleu: choose relu,"),
    row("network.initial=hee", "network.initial=hee: choose he,"),
    # the grammar
    row("foo", "foo: cannot be read as key=value"),
    row("a=b=c", "a=b=c: cannot be read"),
    row("optimizer.lr=[1", "optimizer.lr=[1: cannot be read"),
    row("=5", "=5: "),
    row("method=numpy,tensor", "method=numpy,tensor: several values are a sweep: python -m exp -m …"),
    row("optimizer.lr=1e-6,1e-7", "optimizer.lr=1e-6,1e-7: several values are a sweep"),
    row("name=${nope}", "name", "nope"),
    row("optimizer.lr=${oc.env:EXP_NOT_SET}", "optimizer.lr", "EXP_NOT_SET"),
    row("--foo", "--foo: ", "unrecognized"),
    row("-x method=numpy", "-x method=numpy: ", "unrecognized"),
    row("method=numpy --config-dir my seed=1", "method=numpy --config-dir my seed=1: ", "come before the overrides"),
    row("--cfg nothing", "--cfg nothing: ", "job"),
    row("--config-dir nowhere", "--config-dir=nowhere: no such folder"),
    row("--config-dir good.csv", "--config-dir=good.csv: no such folder"),
    row("--config-dir", "--config-dir: ", "expected one argument"),
    row(
        "--config-name other",
        "--config-name=other: exp has one configuration; put choices of your own beside it by --config-dir",
    ),
    row("--resolve", "--resolve: says how --cfg shows; add --cfg job"),
    row("--cfg job -m method=numpy,tensor", "-m: --cfg shows the configuration of one run"),
    row("-p optimizer", "--package=optimizer: says what --cfg shows; add --cfg job"),
    row("--cfg job -p optimzer", "--package=optimzer: no such part; nearest: optimizer"),
    row("optimizer.lr=${sed}", "optimizer.lr=${sed}: there is no sed; nearest: seed"),
    row("seed=${seed}", "seed=${seed}: takes its value from itself"),
    row("optimizer.lr=1e39", "optimizer.lr=1e39: is infinite in precision=fp32; use precision=fp64, or a smaller one"),
    row("task=ui ui.port=80", "ui.port=80: no such key; task=ui has task.port"),
    row("-m hydra/launcher=ray_aws seed=0,1", "hydra/launcher=ray_aws: ", "choose ray, "),
    # values; their types and ranges are below
    row("optimizer.lr=", "optimizer.lr=: allowed: a number"),
    row("name=", "name=: allowed: a name"),
    row("runs=", "runs=: allowed: a folder"),
    row("training.steps=1e3", "training.steps=1e3: allowed: a whole number or null; write 1000"),
    row("training.epochs=3", "training.epochs=3: training.steps=500: both are set", "training.steps=null"),
    row("training.steps=null", "training.steps=null: training.epochs is null too", "training.steps=500"),
    row("training.batch_size=65", "training.batch_size=65: allowed: 1 to 64"),
    row("problem=diabetes loss=mean_squared_error training.batch_size=355", "training.batch_size=355: allowed: 1 to 354"),
    row("problem=table", "problem.path: is missing; give problem.path="),
    row("problem=table problem.path=x.csv", "problem.target: is missing; give problem.target="),
    # classes
    row("method._target_=os.system", "method._target_=os.system: allowed: ", "exp.methods.base.Method"),
    row("problem._target_=exp.losses.SquaredError", "problem._target_=exp.losses.SquaredError: allowed: ", "Problem"),
    row("problem._target_=5", "problem._target_", "Problem"),
    row("--config-dir broken method=mine", "broken/method/mine.yaml: is not valid YAML at line 2"),
    row(mine("method=nowhere"), "method=nowhere: no such choice; choose "),
    row(mine("method=key"), "method.foo=1: no such key"),
    row(mine("method=absent"), "method._target_=nowhere_at_all.Mine: cannot be imported", "--config-dir"),
    row(mine("method=class"), "method._target_=theirs.Nothing: ", "no attribute 'Nothing'"),
    row(mine("method=plain"), "method._target_=theirs.Plain: allowed: ", "exp.methods.base.Method"),
    row(mine("method=abstract"), "method._target_=exp.methods.base.ArrayMethod: ", "transition"),
    row(mine("method=no_target"), "method._target_: is missing"),
    row(mine("method=raises"), "method._target_=raising.Mine: ", "ZeroDivisionError", "raising.py"),
    row(mine("method=syntax"), "method._target_=unfinished.Mine: ", "SyntaxError", "unfinished.py"),
    row(mine("method=interpolation"), "method", "nowhere"),
    row(mine("method=parent"), "method=nothing: no such choice"),
    row(mine("optimizer=mandatory"), "optimizer.lr: is missing; give optimizer.lr="),
    # data
    row(table("nowhere.csv"), "problem.path=nowhere.csv: no such file"),
    row(table("empty.csv"), "problem.path=empty.csv: the file is empty"),
    row(table("header.csv"), "problem.path=header.csv: the table has no rows"),
    row(table("ragged.csv"), "problem.path=ragged.csv: cannot be read as csv: ", "Expected 3 columns, got 2"),
    row(table("no.parquet"), "problem.path=no.parquet: cannot be read as parquet: "),
    row(table("no.npz"), "problem.path=no.npz: cannot be read as npz: "),
    row(table("object.npz"), "problem.path=object.npz: cannot be read as npz: "),
    row(table("uneven.npz"), "problem.path=uneven.npz: ", "differ in length: a 3, y 4"),
    row(table("cube.npz"), "problem.path=cube.npz: ", "array a has 3 axes"),
    row(table("data.txt"), "problem.path=data.txt: allowed: ", ".csv, .parquet or .npz"),
    row(table("unreadable.csv"), "problem.path=unreadable.csv: cannot be read as csv: Permission denied", marks=as_root),
    row(table("folder.csv"), "problem.path=folder.csv: cannot be read as csv: "),
    row(table("missing.csv"), "problem.path=missing.csv: column b has 1 missing value", "row 1"),
    row(table("infinite.csv"), "problem.path=infinite.csv: column a holds inf in row 1"),
    row(table("text.csv"), "problem.path=text.csv: column city holds text, 'Oslo' in row 1", "problem.features="),
    row(table("text.csv", target="city"), "problem.target=city: column city holds text", "problem.classes=true"),
    row(table("repeated.csv"), "problem.path=repeated.csv: ", "several columns named a"),
    row(table("only_target.csv"), "problem.path=only_target.csv: ", "a column beside the target y"),
    row(table("good.csv", target="yy"), "problem.target=yy: no such column", "choose y,"),
    row(table("good.csv", "problem.features=[a,q]"), "problem.features=", "no such column", "choose a,"),
    row(table("good.csv", "problem.features=[a,y]"), "problem.features=", "y is the target"),
    row(table("good.csv", "problem.features=[]"), "problem.features=[]: allowed: column names"),
    row(table("good.csv", "problem.valid_fraction=0.01"), "problem.valid_fraction=0.01: of 5 rows nothing is left"),
    row(table("good.csv", "problem.valid_fraction=0.99"), "problem.valid_fraction=0.99: of 5 rows nothing is left"),
    # labels and losses
    row("loss=cross_entropy", "loss=cross_entropy: needs class labels, and problem=random has numbers", "loss=mean_squared"),
    row(table("good.csv", "loss=cross_entropy"), "loss=cross_entropy: needs class labels", "use problem.classes=true"),
    row(table("good.csv", "problem.classes=true"), "problem.target=y: 4.5 in row 2 is no class label", "problem.classes=false"),
    row(table("one_class.csv", "problem.classes=true"), "problem.target=y: every row is of class cat"),
    # devices
    row("device=cuda", "device=cuda: ", "device=cpu", marks=no_cuda),
    row("device=mps", "device=mps: ", "device=cpu", marks=no_mps),
    row("method=numpy device=cuda", "method=numpy device=cuda", "NumPy computes on the CPU; use device=cpu", "method=tensor"),
    row("device=mps precision=fp64", "method=autograd device=mps precision=fp64: mps has no float64; use precision=fp32"),
    row(
        "method=numpy precision=bf16",
        "method=numpy device=auto precision=bf16: NumPy has no bfloat16; use precision=fp32, or method=tensor",
    ),
    row(
        "method=numpy precision=tf32",
        "method=numpy device=auto precision=tf32: NumPy has no TF32; use precision=fp32, or method=tensor and device=cuda",
    ),
    row(
        "precision=tf32 device=cpu",
        "method=autograd device=cpu precision=tf32: TF32 is a mode of NVIDIA GPUs; use device=cuda, or precision=fp32",
    ),
    row(
        "precision=tf32 device=mps",
        "method=autograd device=mps precision=tf32: TF32 is a mode of NVIDIA GPUs; use device=cuda, or precision=fp32",
    ),
    row(
        "precision=tf32",
        "method=autograd device=auto precision=tf32: TF32 is a mode of NVIDIA GPUs; use device=cuda",
        marks=no_cuda,
    ),
    row("precision=tf32 device=cuda", "device=cuda: ", "device=cpu", marks=no_cuda),
    row("precision=bf16 device=mps", "device=mps: ", "device=cpu", marks=no_mps),
    row("precision=bf17", "precision=bf17: no such choice; choose bf16,"),
    # places
    row("runs=/proc/x", "runs=/proc/x: cannot be written", "runs="),
    row("runs=good.csv", "runs=good.csv: ", "is not a folder"),
    row("runs=good.csv/x", "runs=good.csv/x: ", "is not a folder"),
    row("tracker.uri=postgresql://me:hunter2@host/db", "tracker.uri=postgresql://***@host/db: ", "PGPASSWORD"),
    row("tracker.uri=http://me:hunter2@host", "tracker.uri=http://***@host: ", "MLFLOW_TRACKING_PASSWORD"),
    row("tracker.uri='postgresql://host/db?password=hunter2'", "tracker.uri=postgresql://host/db: ", "PGPASSWORD"),
    row("tracker.uri=ftp://host", "tracker.uri=ftp://host: ", "sqlite:///mlflow.db is the default"),
    row("tracker.uri=./mlruns", "tracker.uri=./mlruns: ", "sqlite:///mlflow.db"),
    row("tracker.uri=sqlite:///no/such/folder.db", "tracker.uri=sqlite:///no/such/folder.db: ", "no/such: no such folder"),
    row("tracker.uri=sqlite:///my", "tracker.uri=sqlite:///my: ", "is a folder"),
    row("tracker.uri=sqlite://", "tracker.uri=sqlite://: allowed: sqlite:/// and a file"),
    row("tracker.uri=http://", "tracker.uri=http://: allowed: an address with a host"),
    row(["tracker.experiment=' '"], "tracker.experiment=' ': allowed: a name"),
    row("task=ui tracker=none", "tracker=none: ", "use tracker=mlflow"),
    row("task=ui task.port=65536", "task.port=65536: allowed: 1 to 65535"),
    # comparisons and repetitions
    row("task=compare", "compare.sweep=latest: there is no sweep in runs/ yet; python -m exp -m … makes one"),
    row("task=compare compare.sweep=x", "compare.sweep=x: there is no sweep in runs/ yet"),
    row("task=compare compare.runs=[one,other]", "compare.runs=[one,other]: one: there is no run in runs/ yet"),
    row("task=compare compare.allow=[hardwear]", "compare.allow=[hardwear]: hardwear is no kind", "choose hardware,"),
    row("task=compare compare.swep=x", "compare.swep=x: no such key", "nearest: compare.sweep"),
    row("compare.sweep=x", "compare.sweep=x: is a key of task=compare; add task=compare"),
    row("task=comparee", "task=comparee: no such choice; choose compare,"),
    row("-m task=compare compare.baseline=a,b", "task=compare: cannot be swept; leave -m out"),
    row("task=repeat", "repeat.run=latest: there is no run in runs/ yet; python -m exp makes one"),
    row("task=repeat repeat.run=runs/x", "repeat.run=runs/x: there is no run in runs/ yet"),
    row("-m task=repeat seed=0,1", "repeat.run=latest: there is no run in runs/ yet"),
    # sweeps
    row("sweep=method", "sweep=method: no such choice; choose methods"),
    row("sweep.repeat=2", "sweep.repeat=2: no such key; nearest: sweep.repeats", "use sweep.repeats=2"),
    row("sweep.rerun=fail", "sweep.rerun=fail: choose failed,"),
    row("sweep.grid.seed=[0,1]", "sweep.grid.seed=[0,1]: is about a sweep; put -m"),
    row("-m sweep.zip.seed=1,2", "sweep.zip.seed: takes its values in brackets"),
    row("-m name=a,b", "name: cannot be swept"),
    row("-m sweep.zip=[a]", "sweep.zip=[a]: is of another kind"),
    row("optimizer.lr", "optimizer.lr: has no value; type optimizer.lr=…"),
    row("METHOD=numpy", "METHOD=numpy: no such key; nearest: method", "use method=numpy"),
    row("+sweep.grid.seed=[]", "sweep.grid.seed=[]: has no values"),
    row("+sweep.grid.task=[train]", "sweep.grid.task: cannot be swept"),
    row("sweep.union=[{seed:[0,1]}]", "sweep.union.0.seed: no such key of a part"),
    row(["sweep.exclude=['seed = 1']"], "sweep.exclude=['seed = 1']: cannot be read at character", "compare with =="),
    row("hydra/launcher=nope", "hydra/launcher=nope: "),
    row("-m hydra/launcher=nope seed=0,1", "hydra/launcher=nope: "),
    row("-m optimizer.lr=1e-6,-1", "optimizer.lr=-1: allowed: a number > 0"),
    row("-m method=numpy,autogard", "method=autogard: no such choice; choose autograd"),
    row("-m training.batch_size=10,100", "training.batch_size=100: allowed: 1 to 64"),
    row("-m lr=1e-5,1e-6", "lr=1e-5,1e-6: no such key", "use optimizer.lr=1e-5,1e-6"),
    row("-m task=ui", "task=ui: cannot be swept; leave -m out"),
    row("-m task=train,ui", "task: cannot be swept"),
    row("-m task=verify verify.kit=ful,full", "verify.kit=ful: choose full or quick"),
    row("task=verify verify.kit=ful", "verify.kit=ful: choose full or quick"),
    row("task=verify verify.kits=full", "verify.kits=full: no such key"),
    row("verify.kit=full", "verify.kit=full: is a key of task=verify", "add task=verify"),
    row("-m optimizer.lr=", "optimizer.lr=: allowed: a number"),
    row("-m optimizer.lr=1e-6,1e-6", "optimizer.lr=1e-6: is there twice", "once"),
    row("-m method=numpy,numpy", "method=numpy: is there twice"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory, with `FILES` in it and some that are no text."""
    folder = tmp_path_factory.mktemp("typed")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "unreadable.csv").chmod(0)
    np.savez(folder / "object.npz", a=np.array([{}], dtype=object))
    np.savez(folder / "uneven.npz", a=np.ones(3), y=np.ones(4))
    np.savez(folder / "cube.npz", a=np.ones((3, 2, 2)), y=np.ones(3))
    return folder


@contextlib.contextmanager
def left_alone(folder: Path) -> Iterator[None]:
    """Nothing is created, changed or removed inside (Python's own caches aside)."""

    def content() -> dict[str, int]:
        files = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
        return {str(path): path.stat().st_size if path.is_file() else -1 for path in files}

    before = content()
    yield
    assert content() == before


@pytest.fixture
def typed(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[typing.Any]:
    """Run `main` here, without the process that uploads: its exit code, stdout and stderr."""

    def run(words: list[str]) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["exp", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("exp.__main__.shared_uploader", lambda: None)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    for name in ("MLFLOW_TRACKING_URI", "EXP_NOT_SET"):
        monkeypatch.delenv(name, raising=False)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, on_sigterm)


@pytest.mark.parametrize(("words", "fragments"), TYPED)
def test_a_mistake_is_one_line(words: list[str], fragments: tuple[str, ...], folder: Path, typed: typing.Any) -> None:
    with left_alone(folder):
        code, out, err = typed(words)
    assert_one_line(code, out, err, fragments)


def assert_one_line(code: object, out: str, err: str, fragments: tuple[str, ...]) -> None:
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {fragments[0]}") and err.endswith("\n") and err.count("\n") == 1, err
    assert [fragment for fragment in fragments if fragment not in err] == [], err
    assert "hunter2" not in err


AS_COMMANDS = [
    "foo",
    "--foo",
    "optimizer.lr=-1",
    "--config-dir my method=raises",
    "training.batch_size=65",
    "problem=table problem.path=empty.csv problem.target=y",
    "-m optimizer.lr=1e-6,1e-6",
]
"""One that each part says: the grammar, the words of Hydra, a range, one's own module, the training, the data, the sweep."""


@pytest.mark.parametrize("line", AS_COMMANDS)
def test_a_mistake_is_one_line_of_the_command_too(line: str, folder: Path) -> None:
    with left_alone(folder):
        done = command(*line.split(), cwd=folder)
    assert_one_line(done.returncode, done.stdout, done.stderr, ("",))


@pytest.mark.parametrize("line", ["loss.foo=1", "method.foo=1", "+device.foo=1"])
def test_a_key_of_a_group_without_keys_is_not_answered_by_the_group(line: str, typed: typing.Any) -> None:
    """`use method=1` would be wrong twice."""
    code, _, err = typed([line])
    assert code == 1 and "no such key" in err
    assert f"use {line.lstrip('+').partition('.')[0]}=1" not in err


@pytest.mark.parametrize("line", ["hydra.run.dir=elsewhere", "-m hydra.sweep.dir=elsewhere seed=0,1", "-m hydra/sweeper=basic"])
def test_hydras_own_folders_are_not_made(line: str, tmp_path: Path) -> None:
    """Such a setting has no effect here, whether or not it is refused."""
    done = command(*line.split(), "debug=fast", "method=numpy", cwd=tmp_path)
    assert done.returncode in (0, 1)
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}


@no_cuda
def test_a_sweep_of_which_nothing_can_run_says_every_reason(folder: Path, typed: typing.Any) -> None:
    with left_alone(folder):
        code, out, err = typed(["-m", "method=numpy,autograd", "device=cuda"])
    assert code == 1 and err.count("\n") == 1 and err.startswith("error: ") and "none of them can run here" in err
    assert [line.partition(":")[0] for line in out.splitlines()] == ["skipped numpy", "skipped autograd"]


def test_a_sweep_over_precisions_says_why_numpy_has_none(folder: Path, typed: typing.Any) -> None:
    with left_alone(folder):
        code, out, err = typed(["-m", "method=numpy", "precision=bf16,tf32"])
    assert code == 1 and err.count("\n") == 1 and "none of them can run here" in err
    assert out.splitlines() == [
        "skipped bf16: NumPy has no bfloat16; use precision=fp32, or method=tensor for the same step in bf16",
        "skipped tf32: NumPy has no TF32; use precision=fp32, or method=tensor and device=cuda for the same step in tf32",
    ]


def test_a_password_in_the_environment_is_not_shown(monkeypatch: pytest.MonkeyPatch, folder: Path, typed: typing.Any) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mysql://me:hunter2@host/db")
    code, out, err = typed([])
    assert_one_line(code, out, err, ("MLFLOW_TRACKING_URI=mysql://***@host/db: holds a password",))


def test_from_python_a_mistake_is_a_value_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for call, words, config_dir, start in [
        (exp.run, ["optimizer.lrr=1"], None, "optimizer.lrr=1: no such key"),
        (exp.run, ["method=numpy,tensor"], None, "method=numpy,tensor: "),
        (exp.data, ["problem=table", "problem.path=empty.csv", "problem.target=y"], None, "problem.path=empty.csv: "),
        (exp.data, ["problem=digitts"], None, "problem=digitts: no such choice; choose digits"),
        (exp.run, ["method=mine"], "broken", "broken/method/mine.yaml: is not valid YAML"),
        (exp.run, [], "nowhere", "config_dir=nowhere: no such folder"),
    ]:
        with left_alone(folder), pytest.raises(ValueError) as raised:
            call(*words, config_dir=config_dir)
        assert str(raised.value).startswith(start) and "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="is no run folder"):
        exp.load(folder / "my")


# Types and ranges of every key, from the constructors' annotations.

CHOICES = [(group, choice) for group in GROUPS for choice in registry.choices(group)]
BASE = {("problem", "table"): ["problem.path=x.csv", "problem.target=y"]}


def annotations(group: str, choice: str) -> dict[str, typing.Any]:
    """The annotation of every key of a choice."""
    schema = TopLevel if not group else get_class(composed(group, choice)[0][group]._target_)
    hints = typing.get_type_hints(schema)
    keys = registry.top_level_keys() if not group else registry.choices(group)[choice]
    return {key: hints[key] for key in keys if key in hints}


def kind(hint: typing.Any) -> tuple[typing.Any, bool]:
    """The annotation without None, and whether None was in it."""
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None)), True
    return hint, False


@cache
def composed(group: str, choice: str) -> typing.Any:
    return compose([f"{group}={choice}", *BASE.get((group, choice), [])] if group else [])


def refused(group: str, choice: str, word: str) -> str:
    """The message for one more word, composed without reading all the files again."""
    whole, choices, overrides = composed(group, choice)
    config = copy.deepcopy(whole)
    key, _, _ = word.partition("=")
    OmegaConf.update(config, key, OverridesParser.create().parse_override(word).value(), merge=False)
    with pytest.raises(InputError) as raised:
        instantiate(config, choices, [*overrides, word])
    return str(raised.value)


WRONG_TYPES: dict[typing.Any, list[str]] = {
    int: ["two", "1.5", "true", "[1]", "{a:1}"],
    float: ["fast", "true", "[0.1]", "{a:1}", "''"],
    bool: ["maybe", "1.5", "[true]", "''"],
    str: ["[a]", "{a:1}", "true"],
    typing.Any: ["[a]", "{a:1}", "true"],  # sweep.fuse
    list[int]: ["5", "[a]", "[1.5]", "{a:1}", "[[1]]"],
    list[float]: ["0.9", "[a,b]", "{a:1}"],
    list[str]: ["age", "[[a]]", "{a:1}"],
    list[typing.Any]: ["5", "a", "true", "{a:1}"],
    dict[str, typing.Any]: ["5", "a", "true", "[a]"],
    Method: ["[a]", "{a:1}", "true"],
}
KEYS = [(group, choice, key) for group, choice in [("", ""), *CHOICES] for key in annotations(group, choice)]


@pytest.mark.parametrize(("group", "choice", "key"), KEYS)
def test_every_key_refuses_the_wrong_type(group: str, choice: str, key: str) -> None:
    hint, optional = kind(annotations(group, choice)[key])
    name = f"{registry.prefix(group, choice)}.{key}".lstrip(".")
    for value in [*WRONG_TYPES[hint], *([] if optional else ["null"])]:
        said = refused(group, choice, f"{name}={value}")
        assert said.startswith(f"{name}={value}: allowed: "), said


NOT_FINITE = ["nan", "inf", "-inf"]
OUT_OF_RANGE = {
    "lr": ["0", "-1", *NOT_FINITE],
    "weight_decay": ["-1", *NOT_FINITE],
    "eps": ["0", "-1e-8", *NOT_FINITE],
    "momentum": ["1", "0", "-0.1", "1.5", *NOT_FINITE],
    "betas": ["[1,0.9]", "[0.9,1]", "[-0.1,0.9]", "[0.9]", "[0.9,0.99,0.999]", "[nan,0.9]", "[]"],
    "hidden": ["[0]", "[5,-1]"],
    "valid_fraction": ["1", "-0.1", "2", *NOT_FINITE],
    "port": ["0", "-1", "65536"],
    "seed": ["-1"],
    "index": ["-1"],
} | {
    key: ["0", "-1"]
    for key in (
        "threads",
        "samples",
        "inputs",
        "outputs",
        "steps",
        "epochs",
        "batch_size",
        "evaluate_every",
        "log_every",
        "repeats",
        "seconds",
        "processes",
    )
}
NUMERIC = [found for found in KEYS if kind(annotations(*found[:2])[found[2]])[0] in (int, float, list[int], list[float])]


@pytest.mark.parametrize(("group", "choice", "key"), NUMERIC)
def test_every_number_refuses_what_is_out_of_range(group: str, choice: str, key: str) -> None:
    """A new key of any choice needs its line in the table above."""
    name = f"{registry.prefix(group, choice)}.{key}".lstrip(".")
    for value in OUT_OF_RANGE[key]:
        said = refused(group, choice, f"{name}={value}")
        assert said.startswith(f"{name}={value}: allowed: "), said


def test_in_a_sweep_every_network_must_fit_into_memory(typed) -> None:
    """Runs of one problem share its data; the widths are each run's own."""
    code, out, err = typed(["-m", "method=numpy", "tracker=none", "network.hidden=[5],[100000000000]"])
    assert (code, out) == (1, "") and err.startswith("error: network.hidden=[100000000000]: ") and "smaller widths" in err
