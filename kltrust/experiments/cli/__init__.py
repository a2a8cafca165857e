"""The command line: finds each command's module, and prints errors.

Nothing here imports jax before a command needs it, so that help answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from kltrust.experiments.cli import interrupts, surroundings
from kltrust.experiments.engine import own
from kltrust.experiments.engine.devices import hush_cpu_loader
from kltrust.lazy import require_sweeps

# Each command is a function with the command's name, from its arguments to an exit status.
COMMANDS = {
    "train": "train",
    "evaluate": "play",
    "play": "play",
    "envs": "inspect",
    "doctor": "inspect",
    "sweep": "sweep",
    "status": "sweep",
    "judge": "judge",
    "compare": "compare",
    "merge": "sweep",
    "export": "report",
    "report": "report",
    "watch": "watch",
}

HELP = """\
kltrust: trust-region policy optimisation in JAX

  kltrust train ALGORITHM ENV    train, one run per seed, all seeds in one program
  kltrust train --resume DIR     go on with an interrupted training
  kltrust evaluate DIR           play fresh episodes with a trained policy
  kltrust play DIR               play it in gymnasium's own environment; --out films an episode
  kltrust sweep SPEC             run a grid of experiments; --resume DIR goes on with one
  kltrust status DIR             how far a sweep or a training is, or all those in a folder
  kltrust merge SHARD ...        put the shards of a sweep together
  kltrust watch DIR ...          a page in the browser that follows runs while they go on
  kltrust judge DIR ...          what is wrong with the runs, by name
  kltrust compare A B            are the runs of B worse? an exit status for scripts
  kltrust report DIR ...         one page of what came out, with figures, tables and presets
  kltrust export DIR ...         the metrics for TensorBoard or Weights & Biases
  kltrust envs [ENV]             list environments, or the parameters of one
  kltrust doctor                 check this installation

A first try, half a minute: kltrust train trpo CartPole-v1 --seeds 4

Each command takes --help, and --help-all for rare options; `kltrust train ALGORITHM ENV
--help` lists the settings with the preset's values. With any of them:

  --import MODULE                import a module of yours first, one that registers environments
                                 (kltrust.register) or algorithms (register_algorithm); the run
                                 folder names it, and later commands import it by themselves

KLTRUST_DEBUG=1 in the environment shows the traceback of an error.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status: 0, 1 on an error, 130 when interrupted.

    Two commands can also return 2: `kltrust judge` on a finding, `kltrust compare` on a loss.
    """
    hush_cpu_loader()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with surroundings.prepared():
            return _run(arguments)
    except KeyboardInterrupt as stop:
        print(f"kltrust: interrupted{stop}", file=sys.stderr)
        _leave_other_hosts(130)
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        # The library's own errors name their remedy; a traceback would only hide it.
        if os.environ.get("KLTRUST_DEBUG"):
            raise
        print(f"kltrust: error: {surroundings.explain(error, arguments)}", file=sys.stderr)
        return 1


def _leave_other_hosts(status: int) -> None:
    """Ends this process at once if it is one of several hosts.

    At a normal end JAX waits for the other hosts. It aborts with a stack trace if they are gone.
    """
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(arguments: list[str]) -> int:
    arguments = _take_imports(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "--help-all", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        import kltrust

        print(f"kltrust {kltrust.__version__}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        from kltrust.checks import unknown

        raise ValueError(unknown("command", command, list(COMMANDS)))
    require_sweeps("the command line")
    module = importlib.import_module(f"kltrust.experiments.cli.{COMMANDS[command]}")
    with interrupts.handled():
        return getattr(module, command)(rest)


def _take_imports(arguments: list[str]) -> list[str]:
    """Imports the modules named by --import, wherever it stands; returns the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--import", dest="names", action="append", nargs="?", const="", default=[])
    given, rest = parser.parse_known_args(arguments)
    own.import_modules(given.names)
    return rest
