"""`python -m exp …`: compose the configuration, check it, instantiate the chosen trainer, do the task."""

import os
import sys

from exp.tracking.uploader import close_shared_uploader, shared_uploader


def main() -> None:
    """The entry point of `python -m exp` and of the console script. Exit codes stand in README."""
    words = sys.argv[1:]
    asks = ("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--info", "-i", "-sc", "--shell-completion")
    if not any(word.startswith((*asks, "task=", "tracker=", "debug=fast")) for word in words):
        shared_uploader()  # imports MLflow in a process of its own while this one imports Hydra, NumPy and torch
    sys.exit(_guarded(words))


def _guarded(words: list[str]) -> int:
    """Run, and turn what is raised into an exit code; a mistake of the user's into one line."""
    from exp.errors import InputError
    from exp.interruption import exit_code, interrupted, raise_on_sigterm

    raise_on_sigterm()
    kill = True
    try:
        code = _run(words)
        kill = False
        return code
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BaseException as error:
        if not interrupted(error):
            raise
        kill = False
        return exit_code(error)
    finally:
        close_shared_uploader(kill=kill)


def _run(words: list[str]) -> int:
    import hydra
    from hydra._internal.utils import get_args_parser
    from omegaconf import DictConfig

    from exp.config_errors import explain
    from exp.configuration import add_import_paths, instantiate, names_quoted
    from exp.errors import MISSING, InputError
    from exp.registry import conf_folder

    parser = get_args_parser()

    def refuse(message: str) -> None:
        raise InputError(" ".join(words), MISSING, f"{message}; flags such as -m come before the overrides (see --help)")

    parser.error = refuse  # type: ignore[method-assign]
    arguments = parser.parse_args(words)
    sys.argv[1:] = names_quoted(words)
    if arguments.config_dir:
        add_import_paths(arguments.config_dir)
    codes: list[int] = []

    @hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")
    def train(config: DictConfig) -> None:
        chosen = hydra.core.hydra_config.HydraConfig.get()
        try:
            experiment, task = instantiate(config, dict(chosen.runtime.choices), list(chosen.overrides.task))
            codes.append(task(experiment))
        except BaseException as error:  # Hydra would print it: it is ours to say
            failure.append(error)

    failure: list[BaseException] = []
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, rather than print and exit
    try:
        train()
    except (InputError, SystemExit):
        raise
    except Exception as error:
        raise explain(error, arguments.overrides) from error
    if failure:
        raise failure[0]
    return codes[-1] if codes else 0


if __name__ == "__main__":
    main()
