"""The commands ``kltrust evaluate``, ``envs`` and ``doctor``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from kltrust.experiments.cli.common import WIDE, Switch
from kltrust.experiments.engine import devices


@dataclasses.dataclass(frozen=True)
class _Evaluate:
    """Play fresh episodes with the policies of all seeds of a run folder.

    Of a sweep, those of one setting: the one that is named, or the best run's.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The run folder."""
    episodes: int = 100
    """Episodes of each seed."""
    seed: int = 0
    """Of the episodes: start states and, if sampled, actions."""
    sampled: Switch = False
    """Sample actions instead of taking the distribution's mode."""
    best: Switch = False
    """The best checkpoint instead of the last."""
    env: str | None = None
    """Of a sweep with several environments, the one."""
    label: str | None = None
    """Of a sweep, the setting, as its report names it."""


def evaluate(arguments: list[str]) -> int:
    """``kltrust evaluate``."""
    parsed = tyro.cli(_Evaluate, prog="kltrust evaluate", args=arguments)
    if parsed.episodes < 1:
        raise ValueError(f"--episodes must be at least 1, got {parsed.episodes}")
    from kltrust.experiments.store.record import Record

    record = Record(parsed.run)
    devices.use_all_cores(1)
    from kltrust.experiments.reading import evaluation, statistics
    from kltrust.experiments.reading.trained import best_run, find_runs

    chosen = best_run(record, env=parsed.env, label=parsed.label)
    runs = find_runs(record, env=chosen.experiment.env, label=chosen.label)
    if len(record.config.get("settings", ())) > 1:
        print(f"{chosen.label} in {chosen.experiment.env}")
    returns = evaluation.evaluate_runs(
        runs,
        num_episodes=parsed.episodes,
        seed=parsed.seed,
        deterministic=not parsed.sampled,
        which="best" if parsed.best else "latest",
    )
    seeds = [run.seed for run in runs]
    for seed, row in zip(seeds, returns, strict=True):
        print(f"seed {seed}: mean {row.mean():.2f}, std {row.std():.2f}, min {row.min():.2f}")
    if len(seeds) > 1:
        mean, iqm = statistics.mean_and_iqm(returns.mean(axis=1))
        print(f"over {len(seeds)} seeds: mean {mean}, IQM {iqm}")
    return 0


def envs(arguments: list[str]) -> int:
    """``kltrust envs``."""
    if set(arguments) & {"-h", "--help"}:
        print(
            "usage: kltrust envs [ENV | PREFIX]\n\nLists all environments, the parameters of one, "
            "or those of another library (brax, say)."
        )
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kltrust import environments
    from kltrust.environments._adapters import ENDING

    _at_most(arguments, 1, "kltrust envs [ENV]")
    console = Console(width=WIDE)
    installed = environments.adapters()
    if arguments and (prefix := arguments[0].removesuffix("/")) in installed:
        console.print("\n".join(environments.available(prefix)), markup=False, highlight=False)
        return 0
    if arguments:
        info = environments.describe(arguments[0])
        console.print(f"{info.name} ({info.source}) {info.note}".rstrip(), markup=False)
        console.print(f"observations {_space(info.observation_space)}", markup=False)
        console.print(f"actions      {_space(info.action_space)}", markup=False)
        if info.fields or info.arguments:
            console.print("parameters   --env-params NAME=VALUE ...", markup=False)
        for name, value in {**info.arguments, **info.fields}.items():
            console.print(f"  {name} = {value}", markup=False, highlight=False)
        return 0
    table = Table(box=None)
    for title in ("environment", "from", "observations", "actions", "time limit", ""):
        table.add_column(title, no_wrap=True)
    for name in environments.available():
        info = environments.describe(name)
        limit = "" if info.max_steps is None else str(info.max_steps)
        observation, action = _space(info.observation_space), _space(info.action_space)
        table.add_row(name, info.source, observation, action, limit, info.note)
    for prefix, version in installed.items():
        # Their names are another command's: importing them all takes half a minute.
        missing = version is None
        note = f"pip install 'kltrust[{prefix}]'" if missing else f"`kltrust envs {prefix}`"
        note = "; ".join([note, *([ENDING[prefix]] if prefix in ENDING else [])])
        source = prefix if missing else f"{prefix} {version}"
        table.add_row(f"{prefix}/...", source, "", "", "", Text(note))
    console.print(table)
    return 0


def _space(space: Any) -> str:
    if space is None:
        return "?"
    if type(space).__name__ == "Box":
        return f"Box{list(space.shape)}"
    if type(space).__name__ == "MaskedSpace":
        return f"Masked({_space(space.obs)})"
    if isinstance(space, dict):
        return ", ".join(f"{key}: {_space(part)}" for key, part in space.items())
    return f"{type(space).__name__}({', '.join(map(str, space))})"


def doctor(arguments: list[str]) -> int:
    """``kltrust doctor``."""
    if set(arguments) & {"-h", "--help"}:
        print("usage: kltrust doctor\n\nChecks versions, devices and that they compute rightly.")
        return 0
    _at_most(arguments, 0, "kltrust doctor")
    from rich.console import Console

    from kltrust.experiments.cli import doctor

    checks = doctor.report()
    Console().print(doctor.table(checks))
    return doctor.exit_code(checks)


def _at_most(arguments: list[str], number: int, usage: str) -> None:
    if len(arguments) > number:
        raise ValueError(f"too much is given ({' '.join(arguments[number:])}): it is `{usage}`")
