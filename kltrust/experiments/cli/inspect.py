"""The commands ``kltrust envs`` and ``kltrust doctor``."""

from __future__ import annotations

from typing import Any

from kltrust.experiments.cli.launch import WIDE


def envs(arguments: list[str]) -> int:
    """``kltrust envs``."""
    meaning = (
        "Lists all environments, the parameters of one, or those of another library (brax, say)."
    )
    if _is_answered(arguments, 1, "kltrust envs [ENV]", meaning):
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kltrust import environments
    from kltrust.environments._adapters import ENDING

    installed = environments.adapters()
    if arguments and (prefix := arguments[0].removesuffix("/")) in installed:
        print("\n".join(environments.available(prefix)))
        return 0
    if arguments:
        info = environments.describe(arguments[0])
        print(f"{info.name} ({info.source}) {info.note}".rstrip())
        print(f"observations {_space(info.observation_space)}")
        print(f"actions      {_space(info.action_space)}")
        if parameters := {**info.arguments, **info.fields}:
            print("parameters   --env-params NAME=VALUE ...")
        for name, value in parameters.items():
            print(f"  {name} = {value}")
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
        # Another command lists their names: importing them all takes half a minute.
        missing = version is None
        note = f"pip install 'kltrust[{prefix}]'" if missing else f"`kltrust envs {prefix}`"
        note = "; ".join([note, *([ENDING[prefix]] if prefix in ENDING else [])])
        source = prefix if missing else f"{prefix} {version}"
        table.add_row(f"{prefix}/...", source, "", "", "", Text(note))
    Console(width=WIDE).print(table)
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
    meaning = "Checks versions, devices and that they compute rightly."
    if _is_answered(arguments, 0, "kltrust doctor", meaning):
        return 0
    from rich.console import Console

    from kltrust.experiments.cli import doctor

    checks = doctor.report()
    Console().print(doctor.table(checks))
    return doctor.exit_code(checks)


def _is_answered(arguments: list[str], most: int, usage: str, meaning: str) -> bool:
    """Whether the arguments ask for help; refuses too many arguments."""
    if set(arguments) & {"-h", "--help", "--help-all"}:
        print(f"usage: {usage}\n\n{meaning}")
        return True
    if len(arguments) > most:
        raise ValueError(f"too many arguments ({' '.join(arguments[most:])}): it is `{usage}`")
    return False
