"""The trained runs of a folder, one by one, and fresh episodes with their policies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.engine import own
from kltrust.experiments.engine.program import build
from kltrust.experiments.jobs.folder import parts_of
from kltrust.experiments.jobs.lanes import restore_states
from kltrust.experiments.reading import choice
from kltrust.experiments.reading.results import of_folders
from kltrust.experiments.store.files import StorageError
from kltrust.experiments.store.layout import DECISIONS, EVALUATION
from kltrust.experiments.store.record import Record
from kltrust.learner import evaluate
from kltrust.types import PyTree


class Trained(NamedTuple):
    """One run of a folder of ``train`` or ``sweep``.

    Its checkpoints are in ``part``, the folder of its group; ``lane`` is its index among the
    group's runs. The score is the mean return of its last evaluation, NaN without one. ``through``
    is the mean over all its evaluations, see `choice`.
    """

    part: Record
    lane: int
    experiment: Experiment
    label: str
    seed: int
    score: float
    through: float = np.nan
    stopped: float = np.nan
    """The iterations after which a search stopped it; NaN if none did."""

    def states(self, which: Literal["latest", "best"] = "latest") -> PyTree:
        """The learner states of all runs in its part, [S, ...]; a sweep keeps only the last.

        Raises:
            StorageError: if there is no such checkpoint, or it is damaged.
        """
        return restore_states(self.part, self.experiment, which)


def find_runs(
    record: Record | str | Path,
    *,
    seed: int | None = None,
    env: str | None = None,
    label: str | None = None,
) -> list[Trained]:
    """The runs of a folder that have a checkpoint, in its order; None for an argument takes all.

    A label names a setting, as in the sweep's report and in `kltrust.results`.

    Raises:
        ValueError: if there are none, or one of your modules, which they need, is not found.
        StorageError: if the folder holds no run, or nothing has been saved yet.
    """
    record = record if isinstance(record, Record) else Record(record)
    own.import_recorded(record.code, record.path)
    plan, parts = parts_of(record, needed=(EVALUATION, DECISIONS))
    begun = [(g, part) for g, part in parts if part is not None and part.last_chunk >= 0]
    if not begun:
        raise StorageError(f"{record.path} has no checkpoint yet")
    loaded = of_folders([(record, plan, parts)])
    evaluations = loaded.evaluations
    scores = choice.score_runs(evaluations).to_dict("index") if len(evaluations) else {}
    by_run = loaded.runs.set_index("run")
    stopped = by_run.stopped.dropna().to_dict() if "stopped" in by_run else {}
    found: list[Trained] = []
    for group, part in begun:
        for lane, run in enumerate(group.runs):
            setting, score = plan.setting(run), scores.get(run, {})
            names = (setting.experiment, setting.label, plan.seed(run))
            found.append(
                Trained(
                    part,
                    lane,
                    *names,
                    score=score.get("score", np.nan),
                    through=score.get("through", np.nan),
                    stopped=stopped.get(run, np.nan),
                )
            )
    asked: list[tuple[str, Any, Any]] = [
        ("environment", env, lambda run: run.experiment.env),
        ("setting", label, lambda run: run.label),
        ("seed", seed, lambda run: run.seed),
    ]
    for what, value, of in asked:
        if value is None:
            continue
        there = ", ".join(map(str, dict.fromkeys(map(of, found))))
        found = [run for run in found if of(run) == value]
        if not found:
            raise ValueError(f"{record.path} has no {what} {value}: it has {there}")
    return found


def best_run(record: Record | str | Path, **asked: Any) -> Trained:
    """The best of the runs that `find_runs` finds: the best setting's best seed, see `choice`.

    Takes the arguments of `find_runs`.

    Raises:
        ValueError: like `find_runs`, or if the runs are in several environments, whose returns
            can't be compared.
        StorageError: like `find_runs`.
    """
    return choose(record, **asked)[0]


def choose(record: Record | str | Path, **asked: Any) -> tuple[Trained, str]:
    """The `best_run`, and the end of a sentence that says why.

    Raises:
        ValueError, StorageError: like `best_run`.
    """
    import pandas as pd

    record = record if isinstance(record, Record) else Record(record)
    given = asked.pop("seed", None)
    found = find_runs(record, **asked)
    if given is not None:  # from the setting that is the best over all seeds
        there = {run.label for run in find_runs(record, seed=given, **asked)}
        found = [run for run in found if run.label in there]
    envs = dict.fromkeys(run.experiment.env for run in found)
    if len(envs) > 1:
        raise ValueError(
            f"{record.path} has runs in {', '.join(envs)}: choose one (env; --env in a shell)"
        )
    rows = [(x.experiment.env, x.label, x.seed, x.score, x.through, x.stopped) for x in found]
    runs = pd.DataFrame(rows, columns=["env", "label", "seed", *choice.BY, "stopped"])
    settings = choice.rank_settings(runs)
    mine = runs[runs.label == settings.label[0]]
    seed, why = choice.ranked(mine).seed[0] if given is None else given, choice.reason(settings)
    if given is None and len(mine) > 1:
        why += f"; seed {seed} is its best"
    return next(x for x in found if (x.label, x.seed) == (settings.label[0], seed)), why


def evaluate_runs(
    runs: Sequence[Trained],
    *,
    num_episodes: int = 100,
    seed: int = 0,
    deterministic: bool = True,
    which: Literal["latest", "best"] = "latest",
) -> np.ndarray:
    """Raw undiscounted returns [runs, num_episodes] of runs of one setting, from `find_runs`.

    The start states differ between runs. A policy acts by the mode if it is ``deterministic``.

    Raises:
        StorageError: if there is no checkpoint, or it is damaged.
    """
    parts = build(runs[0].experiment)
    lanes = np.asarray([run.lane for run in runs])
    states = jax.tree.map(lambda x: x[lanes], runs[0].states(which))
    keys = jax.random.split(jax.random.key(seed), len(runs))

    def one(lane: tuple) -> jax.Array:
        state, key = lane
        return evaluate(parts.env, parts.agent, state, key, num_episodes, deterministic)

    return np.asarray(jax.jit(lambda lanes: jax.lax.map(one, lanes))((states, keys)))
