"""Hydra's flags on the command line: those that would have no effect, or that it meets with a traceback, are refused."""

from argparse import Namespace

from exp import registry
from exp.errors import MISSING, InputError, listed, nearest


def require_sensible(arguments: Namespace) -> None:
    """Raise `InputError` for flags that do not go together."""
    for flag, value in (("--config-name", arguments.config_name), ("--config-path", arguments.config_path)):
        if value:
            raise InputError(flag, value, "exp has one configuration; put choices of your own beside it by --config-dir")
    shown = "--cfg" if arguments.cfg else "--info" if arguments.info else None
    if shown and arguments.multirun:
        raise InputError("-m", MISSING, f"{shown} shows the configuration of one run; leave one of them out")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        raise InputError("--resolve", MISSING, "says how --cfg shows; add --cfg job")
    if package := arguments.package:
        if not arguments.cfg:
            raise InputError("--package", package, "says what --cfg shows; add --cfg job")
        known = dict.fromkeys(key.partition(".")[0] for key in registry.all_keys())
        if package.partition(".")[0] not in (*known, "_global_", "hydra"):
            raise InputError("--package", package, f"no such part; nearest: {listed(nearest(package, known)[:3])}")
