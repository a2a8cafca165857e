"""The commands ``kltrust envs`` and ``kltrust doctor``."""

from __future__ import annotations

from typing import Any

from kltrust.experiments.cli.launch import WIDE


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

    from kltrust import environments

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
        source = prefix if missing else f"{prefix} {version}"
        table.add_row(f"{prefix}/...", source, "", "", "", note)
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
