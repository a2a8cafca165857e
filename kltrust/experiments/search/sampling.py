"""What all searches declare, and where their settings come from.

Without a sampler, the trials are the settings of the specification, in a random order. With one,
Optuna's sampler proposes each later trial from the scores of the earlier ones. A proposal depends
on nothing but these scores and the seed.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from kltrust.experiments.search.board import Board
from kltrust.lazy import import_extra
from kltrust.settings import setting, settings

GIVEN = "given"


@settings
class Search:
    """What all searches have in common."""

    name: ClassVar[str] = ""
    lanes: int = setting(
        0,
        "Settings that train at once, each with all seeds; 0 takes a quarter of them (a population "
        "takes all).",
        at_least=0,
    )
    seed: int = setting(0, "Of the order, of exchanges and of the sampler.", at_least=0)

    def enough(self, seeds: int, whole: int) -> bool:
        """Whether it can decide with ``seeds`` seeds and ``whole`` evaluations -> True or False."""
        return True


@settings
class Sampling(Search):
    """What the searches have in common that begin new trials."""

    sampler: str = setting(
        GIVEN,
        "Where settings come from: the specification, or Optuna's sampler TPE or GP, which "
        "replaces all settings after the first ones.",
        choices=(GIVEN, "tpe", "gp"),
    )
    startup: int = setting(
        8, "Settings of the specification before the sampler's first.", at_least=1, usual="5 to 20"
    )


def rounded(x: float, low: float, high: float) -> float:
    """Six digits, within the range, so that a label shows the exact value."""
    return min(max(float(f"{x:.6g}"), low), high)


def proposed(search: Any, board: Board, trial: int) -> tuple[dict[str, float], str]:
    """The settings of a trial about to begin, and the reason; none if they are the plan's.

    Raises:
        RuntimeError: if a package is missing; names what installs it.
    """
    kind = getattr(search, "sampler", GIVEN)
    if kind == GIVEN or trial < search.startup or not any(board.ages):
        return {}, ""
    values = _asked(search, board, trial, kind)
    if values in board.values:
        return {}, f"{kind.upper()} proposed a setting that was tried: the plan's instead"
    return values, f"proposed by {kind.upper()} from {sum(a > 0 for a in board.ages)} scores"


def check_sampler(search: Any) -> None:
    """Refuses a sampler whose packages are not installed.

    Raises:
        RuntimeError: names what installs them.
    """
    kind = getattr(search, "sampler", GIVEN)
    if kind != GIVEN:
        import_extra("optuna", "search", f'sampler = "{kind}"')
    if kind == "gp" and importlib.util.find_spec("torch") is None:
        raise RuntimeError(
            'sampler = "gp" needs torch, for which a CPU is enough: pip install torch'
        )


def _asked(search: Any, board: Board, trial: int, kind: str) -> dict[str, float]:
    """Asks a sampler that has been told the last score of every trial."""
    optuna = import_extra("optuna", "search", f'sampler = "{kind}"')
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = zlib.crc32(repr((search.seed, trial)).encode())
    if kind == "gp":
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=0)
    else:
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, multivariate=True)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    ranges = {
        name: optuna.distributions.FloatDistribution(low, high, log=kind == "log_uniform")
        for name, (kind, low, high) in board.ranges.items()
    }
    told = [t for t in range(board.begun) if board.ages[t] > 0]
    for t, score in zip(told, _finite([board.mean(t) for t in told]), strict=True):
        study.add_trial(
            optuna.trial.create_trial(
                params={n: rounded(board.values[t][n], *board.ranges[n][1:]) for n in ranges},
                distributions=ranges,
                value=score,
            )
        )
    asked = study.ask(ranges).params
    return {name: rounded(asked[name], *board.ranges[name][1:]) for name in board.ranges}


def _finite(scores: Sequence[float]) -> list[float]:
    """The scores, with the worst in place of those that are no number."""
    finite = [s for s in scores if np.isfinite(s)]
    return [s if np.isfinite(s) else min(finite, default=0.0) for s in scores]
