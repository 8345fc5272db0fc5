"""`python -m exp …`: compose the configuration, check it, instantiate the chosen trainer, do the task."""

import contextlib
import gc
import io
import os
import sys
import traceback
from typing import NoReturn

from exp import __version__
from exp.tracking.uploader import close_shared_uploader, shared_uploader


def main() -> None:
    """The entry point of `python -m exp` and of the console script. Exit codes stand in README."""
    gc.disable()  # until there is work: importing makes many objects and little garbage
    words = sys.argv[1:]
    if words == ["--version"]:
        print(f"exp {__version__}")
        sys.exit(0)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no × still gets the line
    asks = ("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--info", "-i", "-sc", "--shell-completion")
    if not any(word.startswith((*asks, "task=", "tracker=", "debug=fast")) for word in words):
        shared_uploader()  # imports MLflow in a process of its own while this one imports Hydra, NumPy and torch
    sys.exit(_guarded(words))


def _guarded(words: list[str]) -> int:
    """Run, and turn what is raised into an exit code; a mistake of the user's into one line."""
    from exp.errors import InputError
    from exp.interruption import exit_code, interrupted, raise_on_sigterm

    raise_on_sigterm()
    keep_uploading = False
    try:
        code = _run(words)
        keep_uploading = True
        return code
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BaseException as error:
        keep_uploading = interrupted(error) or isinstance(error, SystemExit)  # a sweep ends by SystemExit
        if not interrupted(error):
            raise
        return exit_code(error)
    finally:
        close_shared_uploader(kill=not keep_uploading)


def _run(words: list[str]) -> int:
    """Compose the configuration and do its task; returns the exit code."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig

    from exp.composition import prepared, require_single, spare_hydra_work
    from exp.config_errors import as_typed, explained
    from exp.configuration import instantiate
    from exp.registry import conf_folder

    outcome: list[int | BaseException] = []

    @hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")
    def composed(config: DictConfig) -> None:
        try:
            choices = dict(HydraConfig.get().runtime.choices)
            trainer, task = instantiate(config, choices, overrides)
            gc.enable()
            require_single(overrides, config, choices)
            with as_typed(overrides):
                outcome.append(task(trainer))
        except BaseException as error:  # Hydra would print it: it is ours to say
            outcome.append(error)

    sys.argv[1:], overrides = prepared(words)
    if not spare_hydra_work(words):
        gc.enable()  # there may be much work, out of sight of what is composed below
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, rather than print and exit
    with explained(overrides):
        composed()
    match outcome:
        case [int(code)]:
            return code
        case [BaseException() as error]:
            raise error
    return 0  # --help, --cfg and their like have printed what was asked


def command() -> NoReturn:
    """`main`, and then leave at once: to take torch apart in an orderly way costs half a second."""
    code: int | str | None = 1
    try:
        main()
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):
            stream.flush()
    code = code if isinstance(code, int) else 0 if code is None else 1
    if "joblib.externals.loky.reusable_executor" in sys.modules:
        sys.exit(code)  # joblib has to remove what it made
    os._exit(code)


if __name__ == "__main__":
    command()
