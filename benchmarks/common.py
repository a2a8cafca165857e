"""Shared code of the benchmarks: recording parts by name, and running kltrust's sweeps.

A part has the name of the file in results/ that it writes. `kltrust.experiments` is imported here;
other modules import it only for its internals or its statistics.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import provenance

HERE = Path(__file__).parent
RESULTS, SPECS = HERE / "results", HERE / "specs"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
"""Okabe and Ito's colours: distinguishable with any colour vision."""
Result = dict[str, Any]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts to run."""

    parts: tuple[str, ...] = ()  # All, if none is named
    out: Path = RESULTS


def record_parts(parts: Mapping[str, tuple[Callable[..., Result], int]], options: Any) -> None:
    """Times the parts that are asked for, and writes each as soon as it is done.

    Args:
        parts: functions of the options and a number of rounds, and that number's default.
        options: an object with parts, rounds and out.
    """
    for name in chosen("parts", options.parts, parts):
        part, rounds = parts[name]
        rounds = options.rounds or rounds
        result = {"part": name, "rounds": rounds, **part(options, rounds), "versions": versions()}
        write(options.out / f"{name}.json", result)


def chosen(option: str, names: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """These names, or all known ones if there are none; an unknown name ends the program."""
    known = tuple(known)
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"--{option}: no {', '.join(unknown)}; take some of {', '.join(known)}")
    return tuple(names) or known


def options(kind: type[T], description: str | None) -> T:
    """The command line's options. Results in the repository need a commit that holds the code."""
    import tyro

    given = tyro.cli(kind, description=description)
    if not getattr(given, "stale", False):  # that records nothing
        provenance.refuse_uncommitted(getattr(given, "out", RESULTS))
    return given


def write(path: Path, result: Result) -> None:
    """Writes a result with its origin, unless the result, or each of its rows, has one."""
    if not all(provenance.origins(result)):
        result = {**result, "origin": provenance.origin()}
    _write(path, result)


def _write(path: Path, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(f"wrote {path}", flush=True)


def write_row(path: Path, row: Result) -> None:
    """Writes a row in place of the one with the same environment and algorithm."""
    rows = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    row = {"origin": provenance.origin(), **row}
    _write(path, {"rows": list({(r["env"], r["algorithm"]): r for r in [*rows, row]}.values())})


def plain(value: Any, digits: int = 5) -> Any:
    """A number rounded to a few digits, to keep files small; None for NaN and infinity."""
    value = float(value)
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.{digits}g}")


def plains(values: Iterable[Any], digits: int = 5) -> list[Any]:
    return [plain(value, digits) for value in values]


def rounded(values: Iterable[Any], places: int = 4) -> list[float]:
    return [round(float(value), places) for value in values]


def panels(columns: int, rows: int = 1, size: tuple[float, float] = (5, 3.6), **share: Any) -> Any:
    """A figure and its axes [rows, columns], each axes of this size in inches."""
    from matplotlib.figure import Figure

    shape = (size[0] * columns, size[1] * rows)
    figure = Figure(figsize=shape, layout="constrained", dpi=130)
    grid = figure.subplots(rows, columns, squeeze=False, **share)
    for axes in grid.flat:
        axes.grid(alpha=0.3)
    return figure, grid


# --- kltrust.experiments --------------------------------------------------------------------------


def versions() -> Result:
    from kltrust.experiments.store.versions import snapshot

    return snapshot()


def experiment(
    algorithm: str,
    env: str,
    update: Result | None = None,
    critic: Result | None = None,
    network: Result | None = None,
    env_params: Result | None = None,
    **learner: Any,
) -> Result:
    """A training's settings, in the form that `Experiment` and workers/ours.py take."""
    sections = {"update": update, "critic": critic, "network": network, "learner": learner}
    sections["env_params"] = env_params
    return {"algorithm": algorithm, "env": env, **{k: v or {} for k, v in sections.items()}}


def made(experiment: Result) -> Any:
    from kltrust.experiments.config.experiment import Experiment

    return Experiment.from_dict(experiment)


def built(experiment: Result) -> Any:
    """The environment, the agent and the learner of an experiment's settings."""
    from kltrust.experiments.engine.program import build

    return build(made(experiment))


def preset(algorithm: str, env: str, total_steps: float | None = None) -> Any:
    """The library's preset, with another number of steps if one is given."""
    from kltrust.experiments.config import presets

    found = presets.preset(algorithm, env)
    if total_steps is None:
        return found
    budget = dataclasses.replace(found.budget, total_steps=int(total_steps))
    return dataclasses.replace(found, budget=budget)


@contextlib.contextmanager
def trained(experiment: Any, seeds: Sequence[int]) -> Iterator[Any]:
    """The record of a training, in a folder that is removed at the end of the context."""
    from kltrust.experiments.engine.devices import use_all_cores
    from kltrust.experiments.jobs import run

    use_all_cores(len(seeds))
    with tempfile.TemporaryDirectory() as folder:
        yield run.train(experiment, seeds, Path(folder) / "run")


def only_part(record: Any) -> Any:
    """The only part of a training's folder: it holds the tables and the seconds."""
    from kltrust.experiments.jobs.run import parts_of

    ((_, part),) = parts_of(record)[1]
    return part


def played(record: Any, episodes: int, seed: int) -> Any:
    """Returns [seeds, episodes] of the trained policies, acting by the mode."""
    from kltrust.experiments.reading.trained import evaluate_runs, find_runs

    return evaluate_runs(find_runs(record), num_episodes=episodes, seed=seed)


def played_in_gymnasium(record: Any, env: str, seeds: Sequence[int], episodes: int) -> Any:
    """The same in gymnasium's environment, with the policies as functions of NumPy arrays."""
    from kltrust.experiments.reading import deploy

    def returns(seed: int) -> Any:
        act = deploy.numpy_policy(record, seed=seed)
        # Start states differ between seeds, as in gymnax.
        return deploy.gymnasium_returns(act, env, episodes, seed=seed * episodes, num_envs=100)

    return np.stack([returns(seed) for seed in seeds])


def load_spec(path: Path) -> Any:
    from kltrust.experiments.config import spec

    return spec.load(path)


def in_order_of_envs(settings: Any) -> list[Any]:
    envs = list(dict.fromkeys(s.experiment.env for s in settings))
    return sorted(settings, key=lambda s: envs.index(s.experiment.env))


def start(lanes: int) -> None:
    """Uses all cores, and the cache of compiled programs."""
    import jax

    from kltrust.experiments.engine import devices

    devices.use_all_cores(lanes)
    if folder := devices.compilation_cache():
        jax.config.update("jax_compilation_cache_dir", str(folder))


def swept(specification: Any) -> Any:
    """The tables of a sweep; its folder is not kept."""
    from kltrust.experiments.reading import results

    with tempfile.TemporaryDirectory() as folder:
        run_sweep(specification, Path(folder) / "sweep")
        return results.load(Path(folder) / "sweep")


def run_sweep(specification: Any, folder: Path) -> None:
    """Starts or resumes a sweep."""
    from kltrust.experiments.cli.progress import ConsoleProgress
    from kltrust.experiments.engine import devices
    from kltrust.experiments.jobs import plan, run
    from kltrust.experiments.store.record import RUN, Record

    devices.use_all_cores(len(specification.settings) * len(specification.seeds))
    if not (folder / RUN).exists():
        run.start(plan.make_plan(specification), folder, progress=ConsoleProgress())
        return
    there = run.plan_of(Record(folder))
    if (there.settings, there.seeds) != (specification.settings, specification.seeds):
        raise ValueError(f"{folder} holds a sweep of another specification: take another folder")
    run.resume(folder, progress=ConsoleProgress())
