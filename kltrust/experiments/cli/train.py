"""The command ``kltrust train``."""

import argparse
import dataclasses
import json
import re
import textwrap
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from kltrust.algorithms import algorithm_names, find_algorithm
from kltrust.environments import SCHEDULE_EXAMPLE, LinearSchedule
from kltrust.experiments.cli import launch, typed
from kltrust.experiments.cli.launch import HostFlags, Switch
from kltrust.experiments.config import presets
from kltrust.experiments.config.experiment import (
    SECTIONS,
    Experiment,
    env_params_from_plain,
    qualified,
    section_kinds,
    written,
)
from kltrust.experiments.config.spec import MOST_RUNS
from kltrust.settings import declared
from kltrust.values import owners_of, to_plain

HELP = """\
usage: kltrust train ALGORITHM ENV [settings]
       kltrust train --resume DIR

ALGORITHM is one of
{algorithms};
ENV is any name that `kltrust envs` lists. Settings start from the tuned preset of the pair,
if there is one, else from the papers' defaults. An interrupted training goes on with --resume.

  kltrust train ALGORITHM ENV --help      lists the usual settings and their values
  kltrust train ALGORITHM ENV --help-all  lists all settings
  kltrust train trpo CartPole-v1 --seeds 20 --max-kl 0.02 --out runs/wide

Tuned presets:
{presets}
For GPUs and TPUs, with --preset accelerator:
{accelerators}
"""


TUNED = "tuned"
"""The name of the presets that are taken by default, as in specifications."""
UNCOMMON = ("", "floor", "ceiling", "value clip", "gradient bound")
"""The roles of settings that ``--help`` leaves out, unless they are declared as common."""


def _arg(metavar: str, **more: Any) -> Any:
    return tyro.conf.arg(metavar=metavar, **more)


@dataclasses.dataclass(frozen=True)
class _Resume(HostFlags):
    """Go on with an interrupted training; it ends with the bits of one that never stopped.

    The run folder holds its settings and seeds.

    Example: kltrust train --resume runs/trpo-CartPole-v1-seed0
    """

    resume: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path()
    """The run folder."""
    dry_run: Switch = False
    """Show what was planned, and do nothing."""
    quiet: Switch = False
    """Print nothing but the result."""


def train(arguments: list[str]) -> int:
    """``kltrust train``."""
    if any(a == "--resume" or a.startswith("--resume=") for a in arguments):
        return _resume(arguments)
    names = [a for a in arguments[:2] if not a.startswith("-")]
    wants_help = bool(set(arguments) & {"-h", "--help", "--help-all"})
    if len(names) < 2 and arguments and not wants_help:
        _explain_missing(arguments)
    if len(names) < 2:
        known = {
            name: _by_algorithm(presets.available(source))
            for name, source in (("presets", None), ("accelerators", presets.ACCELERATOR))
        }
        listed = textwrap.indent(textwrap.fill(", ".join(algorithm_names()), 76), "  ")
        print(HELP.format(algorithms=listed, **known), end="")
        return 0 if wants_help else 2
    algorithm, env = names
    find_algorithm(algorithm)
    options = typed.joined(arguments[2:], "--env-params")
    given = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    given.add_argument("--preset")
    chosen = given.parse_known_args(options)[0].preset
    if chosen is not None:
        typed.check_file("preset", Path(chosen), (TUNED, presets.ACCELERATOR, "none"))
        chosen = None if chosen == TUNED else chosen
    start = presets.preset(algorithm, env, chosen)
    tuned = (algorithm, env) in presets.available()
    origin = chosen or ("the tuned preset" if tuned else "none")
    named = {"none": "the papers' defaults", presets.ACCELERATOR: "the accelerator preset"}
    origin = named.get(origin, origin)
    kind = _train_options(start, origin)
    _check_owner(options, kind, algorithm)
    parsed: Any = typed.cli(
        kind,
        prog=f"kltrust train {algorithm} {env}",
        description=(
            f"{_summary(type(start.update))}\n\nValues in brackets come from {origin}.\n\n"
            f"Example: kltrust train {algorithm} {env} --seeds 4 --total-steps 200000"
        ),
        args=typed.switches(options, _switches(start)),
        # Flags for settings are short: --max-kl, not --update.max-kl.
        config=(tyro.conf.OmitArgPrefixes,),
    )
    experiment = dataclasses.replace(
        start,
        **{name: _section(start, parsed, name) for name in SECTIONS},
        env_params={**start.env_params, **_env_params(parsed.env_params)},
    )
    for name, least, most in (("seeds", 1, MOST_RUNS), ("seed", 0, 2**31 - 1), ("width", 0, 2**20)):
        launch.check_flag(name, getattr(parsed, name), least, most)
    seeds = [parsed.seed + i for i in range(parsed.seeds)]
    parts = experiment.learner.num_envs if parsed.spread_envs else len(seeds)
    with launch.devices(parsed, parts):
        from kltrust.experiments.jobs.plan import plan_training

        plan = plan_training(
            experiment, seeds, width=parsed.width or None, spread=parsed.spread_envs
        )
        if parsed.dry_run:
            launch.announce(plan, measure=parsed.measure)
            return 0
        out = parsed.out or launch.free(_default_out(start, parsed.seed))
        return launch.start("train", plan, out, parsed.quiet)


def _check_owner(options: Sequence[str], kind: type, algorithm: str) -> None:
    """Refuses a setting that only other algorithms have; the parser would not know them."""
    own = [cls for section, cls in section_kinds(algorithm).items() if section != "critic"]
    known = {field.name for cls in (kind, *own) for field in dataclasses.fields(cls)}
    for flag in (text.partition("=")[0] for text in options if text.startswith("--")):
        name = flag[2:].removeprefix("no-").replace("-", "_").removeprefix("update.")
        if name not in known and owners_of(name):
            qualified(name, algorithm)  # raises


def _by_algorithm(pairs: Iterable[tuple[str, str]]) -> str:
    """A line for each set of environments with presets of the same algorithms."""
    algorithms: dict[str, list[str]] = {}
    for algorithm, env in pairs:
        algorithms.setdefault(env, []).append(algorithm)
    envs: dict[str, list[str]] = {}
    for env, names in algorithms.items():
        envs.setdefault(", ".join(sorted(names)), []).append(env)
    said = (f"{names}: {', '.join(of)}" for names, of in envs.items())
    return "\n".join(
        textwrap.fill(x, 78, initial_indent="  ", subsequent_indent="    ") for x in said
    )


def _explain_missing(arguments: list[str]) -> None:
    if not arguments[0].startswith("-"):
        find_algorithm(arguments[0])
        raise ValueError(
            f"name an environment, as in `kltrust train {arguments[0]} CartPole-v1`; "
            "`kltrust envs` lists them"
        )
    raise ValueError(
        "the algorithm and the environment come first, settings after them, as in "
        "`kltrust train trpo CartPole-v1 --seeds 4`"
    )


def _default_out(experiment: Experiment, seed: int) -> Path:
    env = re.sub(r"[^\w.]+", "-", experiment.env).strip("-")
    return Path("runs") / f"{experiment.algorithm}-{env}-seed{seed}"


def _train_options(start: Experiment, origin: str) -> type:
    """The settings of one algorithm as a class whose defaults are the preset's."""

    @dataclasses.dataclass(frozen=True)
    class Train(HostFlags):
        seeds: int = 1
        """How many runs, trained together."""
        seed: int = 0
        """The first seed; the others follow it."""
        out: Annotated[
            Path | None, _arg("DIR", help_behavior_hint=f"(default: {_default_out(start, 0)})")
        ] = None
        """The run folder: a new or an empty one."""
        env_params: Annotated[
            tuple[str, ...],
            _arg(
                "[NAME=VALUE ...]",
                help=f"Environment parameters; `kltrust envs {start.env}` lists them. A curriculum "
                f"is 'NAME={SCHEDULE_EXAMPLE}', quoted.",
                help_behavior_hint=_shown(start.env_params),
            ),
        ] = ()
        preset: Annotated[str | None, _arg("FILE", help_behavior_hint=f"(default: {origin})")] = (
            None
        )
        """A TOML file, 'tuned', 'accelerator' for settings for GPUs and TPUs, or 'none'."""
        width: Annotated[int, typed.Rare] = 0
        """Runs per block on a device, 0 to choose; at another width, a seed's last bits differ."""
        spread_envs: Annotated[Switch, typed.Rare] = False
        """One large run: its environments, not its seeds, over all devices."""
        dry_run: Switch = False
        """Show what would be done, and do nothing."""
        measure: Annotated[Switch, typed.Rare] = False
        """With --dry-run: compile and try two iterations, to tell time and memory."""
        quiet: Switch = False
        """Print nothing but the result."""

    sections = [(name, *_flags(start, name)) for name in SECTIONS]
    return dataclasses.make_dataclass("Train", sections, bases=(Train,), frozen=True)


def _flags(start: Experiment, section: str) -> tuple[type, Any]:
    """The settings of a section as a class of flags, and the preset's values."""
    cls = section_kinds(start.algorithm)[section]
    made: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(cls):
        flag = written(section, field.name, start.algorithm).replace("_", "-")
        value = getattr(getattr(start, section), field.name)
        kind: Any = type(field.default)
        if kind is tuple:
            kind = tuple[int, ...]
        elif kind not in (int, float, bool):
            kind, value = str, value if isinstance(value, str) else repr(value)
        arg = tyro.conf.arg(name=flag, help=declared(field).meaning)
        said = declared(field)
        shown = (
            said.common or said.role not in UNCOMMON or not cls.__module__.startswith("kltrust.")
        )
        rare = () if shown else (typed.Rare,)
        made.append((field.name, Annotated[(kind, arg, *rare)], value))
    flags = dataclasses.make_dataclass(cls.__name__, made, frozen=True)
    flags.__doc__ = _summary(cls)
    return flags, flags()


def _switches(start: Experiment) -> set[str]:
    """The flags that are on or off."""
    kinds = section_kinds(start.algorithm)
    return {
        written(section, field.name, start.algorithm).replace("_", "-")
        for section, cls in kinds.items()
        for field in dataclasses.fields(cls)
        if type(field.default) is bool
    }


def _section(start: Experiment, parsed: Any, section: str) -> Any:
    """The preset's section with what the flags changed."""
    flags = getattr(parsed, section)
    before = vars(type(flags)())
    changed = {name: value for name, value in vars(flags).items() if value != before[name]}
    return dataclasses.replace(getattr(start, section), **changed)


def _shown(env_params: dict[str, Any]) -> str:
    pairs = " ".join(f"{name}={to_plain(value)}" for name, value in env_params.items())
    return f"(default: {pairs})" if pairs else "(default: the environment's own)"


def _resume(arguments: list[str]) -> int:
    parsed, others = typed.cli(
        _Resume, prog="kltrust train", args=arguments, return_unknown_args=True
    )
    if others:
        raise ValueError(
            f"--resume goes on with the settings of the run folder: leave out {' '.join(others)}"
        )
    return launch.resume("train", parsed, parsed.resume, parsed.quiet, parsed.dry_run)


def _summary(cls: type) -> str:
    """The first paragraph of a class's docstring: help lists its settings anyway."""
    return (cls.__doc__ or "").split("\n\n")[0]


def _env_params(pairs: Sequence[str]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--env-params takes NAME=VALUE, got {pair!r}")
        head, _, part = name.rpartition(".")
        if head and part in LinearSchedule.KEYS:
            raise ValueError(
                f"--env-params {pair} is a part of a schedule: give it whole, as in "
                f"--env-params '{head}={SCHEDULE_EXAMPLE}'"
            )
        try:
            params[name] = json.loads(text)
        except json.JSONDecodeError:
            params[name] = _table(name, text) if text.startswith("{") else text
        if text.startswith(tuple(f"{key}=" for key in LinearSchedule.KEYS)):
            raise ValueError(
                f"--env-params {pair} is half of a schedule, which a shell has cut at its braces: "
                f"quote it, as in --env-params '{name}={SCHEDULE_EXAMPLE}'"
            )
    return env_params_from_plain(params)


def _table(name: str, text: str) -> Any:
    """A table as a specification has it."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ValueError(
            f"--env-params {name}={text} is no table of TOML ({error}): write a schedule as in "
            f"--env-params '{name}={SCHEDULE_EXAMPLE}'"
        ) from error
