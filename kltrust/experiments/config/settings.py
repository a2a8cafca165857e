"""The settings of an experiment as plain data: what the command line, presets and run folders hold.

Imports nothing heavy, so that ``kltrust --help`` answers at once. One rule says what compiles
again: **a float is traced, anything else is static** (DESIGN: one compilation serves every value
of the floats). Defaults are those of the factories; a test compares them.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

INF = float("inf")


@dataclass(frozen=True)
class VanillaPG:
    """The unconstrained policy gradient step."""

    learning_rate: float = 0.01
    """Step size, in parameters."""
    entropy_coef: float = 0.0
    """Weight of the mean entropy (nats)."""
    max_grad_norm: float = INF
    """Bound on the gradient's global norm."""


@dataclass(frozen=True)
class NPG:
    """The natural gradient step of a given KL, with no line search."""

    target_kl: float = 0.01
    """Set point of the quadratic model of the mean KL(old || new), nats."""
    damping: float = 0.1
    """Added to the Fisher matrix's diagonal."""
    cg_iters: int = 10
    """Conjugate-gradient iterations at most."""
    cg_rtol: float = 1e-5
    """Relative residual at which they end early."""
    entropy_coef: float = 0.0
    """Weight of the mean entropy (nats)."""
    fisher_stride: int = 1
    """Fisher matrix over every so-many-th state."""
    fisher_chunks: int = 0
    """Fisher products in so many parts, to bound memory; 0 leaves the number to the library."""


@dataclass(frozen=True)
class TRPO:
    """Trust region policy optimisation."""

    max_kl: float = 0.01
    """Hard bound on the mean KL(old || new) of an update, nats."""
    damping: float = 0.1
    """Added to the Fisher matrix's diagonal."""
    cg_iters: int = 10
    """Conjugate-gradient iterations at most."""
    cg_rtol: float = 1e-5
    """Relative residual at which they end early."""
    shrink: float = 0.8
    """Line search: factor from one candidate step to the next."""
    max_backtracks: int = 10
    """Line search: how often a step is shortened before it is given up."""
    entropy_coef: float = 0.0
    """Weight of the mean entropy (nats)."""
    fisher_stride: int = 1
    """Fisher matrix over every so-many-th state."""
    fisher_chunks: int = 0
    """Fisher products in so many parts, to bound memory; 0 leaves the number to the library."""


@dataclass(frozen=True)
class PPOClip:
    """PPO with the clipped surrogate."""

    learning_rate: float = 3e-4
    """Adam's learning rate."""
    clip_eps: float = 0.2
    """Half-width of the interval outside of which a ratio has no incentive."""
    num_epochs: int = 10
    """Passes over the batch."""
    num_minibatches: int = 32
    """Parts of each pass; they must divide num_envs * num_steps, with a cell num_envs."""
    max_kl: float = INF
    """An epoch that ends at a larger mean KL is undone and is the last."""
    entropy_coef: float = 0.0
    """Weight of the mean entropy (nats)."""
    max_grad_norm: float = 0.5
    """Bound on the gradient's global norm."""


@dataclass(frozen=True)
class PPOPenalty:
    """PPO with a KL penalty, fixed or adaptive."""

    learning_rate: float = 3e-4
    """Adam's learning rate."""
    target_kl: float = 0.01
    """Set point of the mean KL(old || new) of an iteration, nats (if adaptive)."""
    init_beta: float = 1.0
    """The penalty's weight at the start; throughout, if not adaptive."""
    adaptive: bool = True
    """Whether beta follows the realised KL."""
    num_epochs: int = 10
    """Passes over the batch."""
    num_minibatches: int = 32
    """Parts of each pass; they must divide num_envs * num_steps, with a cell num_envs."""
    max_kl: float = INF
    """An epoch that ends at a larger mean KL is undone and is the last."""
    beta_tolerance: float = 1.5
    """Factor around target_kl within which beta stays."""
    beta_increase: float = 2.0
    """Beta's factor when the KL was too large."""
    beta_decrease: float = 0.5
    """Beta's factor when the KL was too small."""
    min_beta: float = 1e-4
    """Beta never falls below it."""
    max_beta: float = 1e4
    """Beta never rises above it."""
    entropy_coef: float = 0.0
    """Weight of the mean entropy (nats)."""
    max_grad_norm: float = 0.5
    """Bound on the gradient's global norm."""


@dataclass(frozen=True)
class PPOReverseKL(PPOPenalty):
    """PPO with a penalty on KL(new || old), fixed or adaptive; beta's rule and all settings are
    those of ppo_penalty.
    """


@dataclass(frozen=True)
class PPOAdaptiveLR:
    """PPO with the clipped surrogate and a learning rate that follows the KL."""

    init_learning_rate: float = 1e-3
    """Adam's learning rate at the start."""
    target_kl: float = 0.01
    """Set point of the mean KL(old || new) of an iteration, nats."""
    clip_eps: float = 0.2
    """Half-width of the interval outside of which a ratio has no incentive."""
    num_epochs: int = 5
    """Passes over the batch."""
    num_minibatches: int = 4
    """Parts of each pass; they must divide num_envs * num_steps, with a cell num_envs."""
    max_kl: float = INF
    """An epoch that ends at a larger mean KL is undone and is the last."""
    kl_tolerance: float = 2.0
    """Factor around target_kl within which the learning rate stays."""
    learning_rate_factor: float = 1.5
    """One step of the learning rate, up or down."""
    min_learning_rate: float = 1e-5
    """The learning rate never falls below it."""
    max_learning_rate: float = 1e-2
    """The learning rate never rises above it."""
    entropy_coef: float = 0.0
    """Weight of the mean entropy (nats)."""
    max_grad_norm: float = 1.0
    """Bound on the gradient's global norm."""


@dataclass(frozen=True)
class MDPO:
    """Mirror descent policy optimisation: a penalty KL(new || old) / step_size."""

    step_size: float = 1.0
    """Of mirror descent, in 1 / advantage; what anneal shrinks, the learning rate stays."""
    learning_rate: float = 3e-4
    """Adam's learning rate, of the steps within an iteration."""
    num_epochs: int = 10
    """Passes over the batch."""
    num_minibatches: int = 1
    """Parts of each pass; they must divide num_envs * num_steps, with a cell num_envs."""
    max_kl: float = INF
    """An epoch that ends at a larger mean KL is undone and is the last."""
    entropy_coef: float = 0.0
    """Weight of the mean entropy (nats)."""
    max_grad_norm: float = 0.5
    """Bound on the gradient's global norm."""


@dataclass(frozen=True)
class LearnerSettings:
    """Rollout, advantages and critic: the same for every algorithm."""

    num_envs: int = 8
    """Parallel environments."""
    num_steps: int = 256
    """Steps of each environment in an iteration."""
    gamma: float = 0.99
    """Discount."""
    gae_lambda: float = 0.95
    """Lambda of the advantage estimator."""
    value_learning_rate: float = 1e-3
    """Adam's learning rate for the critic."""
    value_epochs: int = 10
    """Passes of the critic over the batch."""
    value_minibatches: int = 32
    """Parts of each pass; they must divide as num_minibatches do."""
    value_clip_eps: float = INF
    """The critic's loss has no gradient further than this from the old value."""
    value_max_grad_norm: float = 0.5
    """Bound on the global norm of the critic's gradient."""
    normalize_advantages: bool = True
    """Standardise advantages over the whole batch."""
    normalize_observations: bool = False
    """Standardise observations by running moments, frozen within an iteration."""
    normalize_rewards: bool = False
    """Divide rewards by the deviation of the running discounted return."""
    minibatch_blocks: int = 1
    """Environments in so many blocks, of each of which every minibatch takes as many rows."""
    stagger_steps: int = 0
    """Each environment first plays a random number of steps below this: the time limit, say."""
    audit: str = "default"
    """How much is measured of every update: default, extended (fresh states, path, reference) or
    full (curvature too)."""


@dataclass(frozen=True)
class NetworkSettings:
    """Policy and value network."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the dense layers."""
    activation: str = "tanh"
    """tanh, relu, elu, gelu or silu."""
    channels: tuple[int, ...] = (16,)
    """Channels of the 3 x 3 convolutions (no padding) before them, for image observations."""
    init_log_std: float = 0.0
    """Log standard deviation of a Gaussian policy at the start."""
    state_dependent_std: bool = False
    """The Gaussian's standard deviation from the state, too."""
    cell: str = "none"
    """Memory behind the dense layers, as wide as the last one: none, gru or mingru."""


@dataclass(frozen=True)
class BudgetSettings:
    """How long, and what is measured between."""

    total_steps: int = 100_000
    """Environment steps of each run; at most this many are taken."""
    anneal: float = 0.0
    """Steps shrink linearly to (1 - anneal) of themselves, 0 constant, 1 to zero: mdpo's step_size,
    learning rates; for trpo, npg and ppo_adaptive_lr, which have none of these, the square root of
    max_kl or target_kl."""
    num_evals: int = 10
    """How often the policy is evaluated during training, about: always after so many iterations."""
    eval_episodes: int = 20
    """Episodes of each of them."""


ALGORITHMS: dict[str, type] = {
    "vanilla_pg": VanillaPG,
    "npg": NPG,
    "trpo": TRPO,
    "ppo_clip": PPOClip,
    "ppo_penalty": PPOPenalty,
    "ppo_reverse_kl": PPOReverseKL,
    "ppo_adaptive_lr": PPOAdaptiveLR,
    "mdpo": MDPO,
}


@dataclass(frozen=True)
class Experiment:
    """One algorithm on one environment: all that decides a run but its seed."""

    algorithm: str
    env: str
    update: Any
    learner: LearnerSettings = field(default_factory=LearnerSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    env_params: dict[str, float | int | str | bool] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        """Environment steps of an iteration."""
        return self.learner.num_envs * self.learner.num_steps

    @property
    def num_iterations(self) -> int:
        """Whole iterations that the budget pays for."""
        return self.budget.total_steps // max(self.batch_size, 1)

    @property
    def chunk_length(self) -> int:
        """Iterations between two evaluations."""
        return max(1, self.num_iterations // max(self.budget.num_evals, 1))

    def to_dict(self) -> dict[str, Any]:
        """As nested plain data that JSON can hold (infinities as the string "inf")."""
        return _to_plain(dataclasses.asdict(self))

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Experiment:
        """The inverse of `to_dict`.

        Raises:
            ValueError: on an unknown algorithm, section or setting, or a value of another kind.
        """
        settings = settings_of(data["algorithm"])
        sections = {
            "update": settings,
            "learner": LearnerSettings,
            "network": NetworkSettings,
            "budget": BudgetSettings,
        }
        made = {k: from_plain(cls, data.get(k, {}), where=k) for k, cls in sections.items()}
        return Experiment(
            algorithm=data["algorithm"],
            env=data["env"],
            env_params=dict(data.get("env_params", {})),
            **made,
        )

    def digest(self) -> str:
        """A canonical text of the settings, equal for equal experiments."""
        return json.dumps(self.to_dict(), sort_keys=True)


def annealed(names: Iterable[str]) -> dict[str, int]:
    """Which of an algorithm's settings `BudgetSettings.anneal` shrinks, by which power of the step.

    Its own step size before the learning rate of an optimiser within it; where there is neither,
    the KL: the length of a natural step is its square root.
    """
    known = set(names)
    for step in ("step_size", "learning_rate"):
        if step in known:
            return {step: 1}
    return {name: 2 for name in ("max_kl", "target_kl") if name in known}


def register_settings(name: str, settings: type) -> None:
    """Makes an algorithm of one's own known by name; see `registry.register_algorithm`."""
    ALGORITHMS[name] = settings


def settings_of(algorithm: str) -> type:
    """The settings class of an algorithm.

    Raises:
        ValueError: names the nearest match.
    """
    if algorithm not in ALGORITHMS:
        hint = unknown("algorithm", algorithm, list(ALGORITHMS))
        raise ValueError(f"{hint} (--import MODULE brings your own)")
    return ALGORITHMS[algorithm]


def unknown(what: str, name: str, known: list[str]) -> str:
    """The message for a name that is not known, with the nearest that is."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown {what} {name!r}: {hint}known are {', '.join(sorted(known))}"


def from_plain(cls: type, data: dict[str, Any], *, where: str) -> Any:
    """A settings object from plain data, each value checked against its field's kind.

    Raises:
        ValueError: on an unknown name or a value of another kind.
    """
    kinds = {f.name: type(f.default) for f in dataclasses.fields(cls)}
    values = {}
    for name, value in data.items():
        if name not in kinds:
            raise ValueError(unknown(f"setting in [{where}]", name, list(kinds)))
        values[name] = _as_kind(kinds[name], value, f"{where}.{name}")
    return cls(**values)


def _as_kind(kind: type, value: Any, name: str) -> Any:
    if kind is float and isinstance(value, str) and value in ("inf", "-inf", "nan"):
        return float(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(value)
    if type(value) is kind:
        return value
    raise ValueError(f"{name} must be a {kind.__name__}, got {value!r}")


def _to_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(v) for v in value]
    if isinstance(value, float) and value in (INF, -INF):
        return str(value)
    return value
