"""Other libraries' names for the scalars that they log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kltrust.findings._declare import unknown_name

_Column = str | tuple[str, Callable[[np.ndarray], np.ndarray]]


def _negated(x: np.ndarray) -> np.ndarray:
    """Negated."""
    return -x


def _halved(x: np.ndarray) -> np.ndarray:
    """Halved."""
    return x / 2


def _gaussian(std: np.ndarray) -> np.ndarray:
    """As the entropy of a Gaussian with this deviation, one dimension."""
    return np.log(np.maximum(std, 1e-30)) + 0.5 * np.log(2 * np.pi * np.e)


NAMES: dict[str, dict[str, _Column]] = {
    "stable-baselines3": {
        "train/approx_kl": "kl",
        "train/kl_divergence_loss": "kl",  # TRPO of sb3-contrib: KL(new || old)
        "train/clip_fraction": "clip_fraction",
        "train/explained_variance": "explained_variance",
        "train/value_loss": ("value_loss", _halved),
        "train/entropy_loss": ("entropy", _negated),
        "train/is_line_search_success": "extra.accepted",
        "train/learning_rate": "optimizer.rate",
        "rollout/ep_rew_mean": "return_mean",
        "rollout/ep_len_mean": "length_mean",
        "time/total_timesteps": "env_steps",
    },
    "cleanrl": {
        "losses/approx_kl": "kl",
        "losses/clipfrac": "clip_fraction",
        "losses/explained_variance": "explained_variance",
        "losses/value_loss": "value_loss",
        "losses/entropy": "entropy",
        "charts/learning_rate": "optimizer.rate",
        "charts/episodic_return": "return_mean",
        "charts/episodic_length": "length_mean",
    },
    "rsl_rl": {
        "Loss/value_function": ("value_loss", _halved),
        "Loss/value": ("value_loss", _halved),
        "Loss/entropy": "entropy",
        "Loss/learning_rate": "extra.learning_rate",
        "Loss/kl": "kl",
        "Policy/mean_noise_std": ("entropy", _gaussian),
        "Policy/mean_std": ("entropy", _gaussian),
        "Train/mean_reward": "return_mean",
        "Train/mean_episode_length": "length_mean",
    },
    "trl": {
        "policy/approxkl_avg": "kl",
        "policy/clipfrac_avg": "clip_fraction",
        "policy/entropy_avg": "entropy",
        "loss/value_avg": "value_loss",
        "clip_ratio/region_mean": "clip_fraction",
        "clip_ratio": "clip_fraction",
        "entropy": "entropy",
        "grad_norm": "extra.grad_norm",
        "lr": "optimizer.rate",
        "reward": "return_mean",
        "objective/scores": "return_mean",
    },
}
"""By library: a logged name, its column here, and a function if units differ.

Entropies and losses are converted to ours (nats, half the squared error). The KL is the library's
own estimate over its minibatches, not the exact one of the batch. In the logs of TRL, ``kl`` and
``objective/kl`` measure the distance to the reference, not an update, and are left out.
"""


KEYS = "run", "seed", "iteration", "env_steps"
"""Columns that say where a row is from."""
READ = {
    *("kl", "kl_max", "kl_reverse", "max_ratio", "clip_fraction", "surrogate_gain"),
    *("entropy", "explained_variance", "value_loss", "fully_masked"),
    *("nonfinite_update", "nonfinite_rewards", "nonfinite_observations"),
    *("return_mean", "return_sum", "length_sum", "num_episodes"),
    *("extra.accepted", "extra.backtracks", "extra.beta", "extra.cg_residual"),
    *("extra.epochs_applied", "extra.fixed", "extra.grad_norm", "extra.kl_stopped"),
    *("extra.learning_rate", "extra.max_kl", "extra.moved", "extra.projected_kl"),
    *("extra.projection_gap", "extra.temperature", "extra.zero_gradient"),
    *("audit.curvature.kl", "audit.curvature.kl_quadratic", "audit.curvature.kl_quadratic_damped"),
    *("audit.fresh.kl.mean", "audit.normalizer.mean", "audit.path.epoch", "audit.path.minibatch"),
    "audit.update.effective_sample_size",
}
"""The columns that conditions read."""


def _target(column: Any) -> Any:
    return column[0] if isinstance(column, tuple) and column else column


_TARGETS = {*READ, *KEYS, *(_target(to) for names in NAMES.values() for to in names.values())}


def columns_of(columns: Mapping[str, Any], names: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """The columns under the names that they have here.

    Args:
        columns: as they were logged.
        names: a library of `NAMES`, your own dict, or None if the names are ours.

    Raises:
        ValueError: if the library is unknown, no column of your own dict was logged, or a name
            here is none that a condition reads.
    """
    if names is None:
        return dict(columns)
    if isinstance(names, str):
        if names not in NAMES:
            raise ValueError(unknown_name("library in names", names, NAMES) + ", or a dict")
        mapping: Mapping[str, Any] = NAMES[names]
    elif not isinstance(names, Mapping):
        raise ValueError(f"names must be a library or a dict of columns, got {names!r}")
    else:
        mapping = names
        for name, column in names.items():
            to = _target(column)
            if not isinstance(to, str) or to not in _TARGETS:
                raise ValueError(unknown_name(f"column that {name} is mapped to,", to, READ))
        if not set(names) & set(columns):
            logged, mapped = ", ".join(map(str, columns)), ", ".join(map(str, names))
            raise ValueError(
                f"names maps {mapped}, and none of them is a column: there are {logged}"
            )
    found = {kept: columns[kept] for kept in KEYS if kept in columns}
    for name, column in mapping.items():
        if name not in columns:
            continue
        to, change = column if isinstance(column, tuple) else (column, None)
        values = np.asarray(columns[name], np.float64)
        found.setdefault(to, values if change is None else change(values))
    return found
