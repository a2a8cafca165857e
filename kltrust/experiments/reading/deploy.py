"""A trained policy outside its training: NumPy in, NumPy out, also in gymnasium's environments.

gymnax re-implements environments. The originals, gymnasium's, share no code with them: they show
whether a policy has learned the real task.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from kltrust.environments import make
from kltrust.experiments.engine.program import build
from kltrust.experiments.reading.trained import Trained, best_run
from kltrust.experiments.store.record import Record
from kltrust.learner import policy_step_of
from kltrust.types import Discrete, PyTree

Act = Callable[..., np.ndarray]


def numpy_policy(
    record: Record | str | Path,
    *,
    seed: int | None = None,
    env: str | None = None,
    label: str | None = None,
    which: Literal["latest", "best"] = "latest",
    deterministic: bool = True,
) -> NumpyPolicy:
    """The policy of one trained run as a plain function of NumPy arrays.

    It includes the normaliser and the adapter's conversion of raw actions: it returns actions of
    the original environment, within their bounds.

    Args:
        record: a run folder of ``train`` or ``sweep``, or its path.
        seed: one of the folder's; None takes the setting's best seed at the last evaluation.
        env: the environment, needed if a sweep has several.
        label: a sweep's setting, as its report and `kltrust.results` name it. None takes the one
            that the report calls the best: the highest mean over seeds at the last evaluation, or
            among equal ones the highest mean over all evaluations.
        which: the last checkpoint or the best one; a sweep keeps only the last.
        deterministic: act by the mode, else sample.

    Returns:
        ``act(obs [*E, *O], key=None) -> action [*E, ...]``. If actions are sampled, every call
        draws fresh noise, and a policy made again draws the same sequence; an integer ``key`` sets
        the noise of one call instead. ``obs`` is an observation as the environment gives it, for
        example `Masked` or a dict of arrays. Every new leading shape compiles once, for some tenths
        of a second. A recurrent policy remembers from call to call, until ``act.reset()``.

    Raises:
        ValueError: if the folder has no such run; when called, on observations of another shape,
            or on floats if it was trained on integers.
        StorageError: if there is no checkpoint, or it is damaged.
    """
    run = best_run(record, seed=seed, env=env, label=label)
    return NumpyPolicy(run, which=which, deterministic=deterministic)


class NumpyPolicy:
    """The result of `numpy_policy`: a function, with its memory of the episodes under way."""

    def __init__(
        self,
        run: Trained,
        *,
        which: Literal["latest", "best"] = "latest",
        deterministic: bool = True,
        native: bool = True,
    ):
        """Starts at the beginning of an episode; see `numpy_policy`.

        With ``native``, actions are the original environment's, else the policy's own, which
        ``Env.step`` takes.
        """
        parts = build(run.experiment)
        state = jax.tree.map(lambda x: x[run.lane], run.states(which))
        memory = parts.agent.memory

        @jax.jit
        def step(carry: Any, obs: Any, key: int) -> Any:
            carry, dist = policy_step_of(parts.agent, state)(carry, obs)
            raw = dist.mode() if deterministic else dist.sample(seed=jax.random.key(key))
            return carry, parts.env.native_action(raw) if native else raw

        self._step, self._initial = step, () if memory is None else memory.policy_carry
        self._example = jax.eval_shape(lambda: parts.env.reset(jax.random.key(0))[1])
        self._name, self._seed, self._calls = parts.env.name, run.seed, 0
        self.reset()

    def reset(self) -> None:
        """Begins new episodes: forgets all observations; the noise sequence goes on."""
        self._lead: tuple[int, ...] | None = None
        self._carry: Any = None

    def __call__(self, obs: Any, key: int | None = None) -> np.ndarray:
        """The action for each observation [*E, *O]: [*E, ...]; see `numpy_policy`.

        Raises:
            ValueError: on observations of another shape, or of other episodes than before.
        """
        obs, lead = _observation(self._name, self._example, obs)
        if self._lead != lead:
            if self._lead is not None and jax.tree.leaves(self._initial):
                raise ValueError(
                    f"the policy remembers episodes of leading shape {self._lead}, and got {lead}: "
                    "call reset() before other episodes begin"
                )
            self._lead = lead
            self._carry = jax.tree.map(
                lambda x: np.broadcast_to(x, (*lead, *np.shape(x))), self._initial
            )
        if key is None:
            key = key_of(self._seed, self._calls)
            self._calls += 1
        self._carry, action = self._step(self._carry, obs, key)
        return np.asarray(action)


def gymnasium_returns(
    act: Act, env_name: str, num_episodes: int, *, seed: int = 0, num_envs: int = 50
) -> np.ndarray:
    """Undiscounted returns [num_episodes] of whole episodes in gymnasium's own environment.

    Args:
        act: a policy from `numpy_policy`.
        env_name: a name in gymnasium's registry.
        num_episodes: episode i starts from gymnasium's seed ``seed + i``.
        seed: the seed of the first episode.
        num_envs: the number of environments played side by side.

    Raises:
        ValueError: if gymnasium has no such environment.
    """
    make_one = gymnasium_maker(env_name)
    envs = [make_one() for _ in range(min(num_envs, num_episodes))]
    returns = np.zeros(num_episodes)
    for first in range(0, num_episodes, len(envs)):
        running = list(range(min(len(envs), num_episodes - first)))
        starts = [env.reset(seed=seed + first + i)[0] for i, env in enumerate(envs)]
        obs, step = np.stack(starts), 0
        begin(act)
        while running:
            # Acts in all of them, ended ones too: another shape would compile again.
            actions = act(obs, key_of(seed + first, step))
            step += 1
            for i in list(running):
                obs[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
                returns[first + i] += float(reward)
                if terminated or truncated:
                    running.remove(i)
    for env in envs:
        env.close()
    return returns


def _observation(env_name: str, example: PyTree, obs: PyTree) -> tuple[PyTree, tuple[int, ...]]:
    """The observation as arrays, and its leading axes; refuses one that does not fit."""
    structure: Any = jax.tree.structure(example)
    likes = jax.tree.leaves(example)
    try:
        arrays = [np.asarray(x) for x in structure.flatten_up_to(obs)]
        pairs = list(zip(arrays, likes, strict=True))
        (lead,) = {x.shape[: x.ndim - like.ndim] for x, like in pairs}
        if any(x.shape != (*lead, *like.shape) for x, like in pairs):
            raise ValueError("of another shape")
    except (TypeError, ValueError) as error:
        expected = jax.tree.map(lambda x: x.shape, example)
        raise ValueError(
            f"{env_name} was trained on observations of shape {expected}, possibly with leading "
            f"axes; got {jax.tree.map(np.shape, obs)}"
        ) from error
    for x, like in pairs:
        # A network reads integers differently from floats. Whole numbers in a list are integers,
        # and other libraries' masks often are, too.
        if np.issubdtype(like.dtype, np.integer) and np.issubdtype(x.dtype, np.floating):
            raise ValueError(
                f"{env_name} was trained on observations of {like.dtype}, got {x.dtype}"
            )
    return structure.unflatten(x.astype(like.dtype) for x, like in pairs), lead


def begin(act: Act) -> None:
    """Begins new episodes: resets ``act`` if it is a `NumpyPolicy`."""
    if isinstance(act, NumpyPolicy):
        act.reset()


def key_of(seed: int, step: int) -> int:
    """A key for every step: below 2**31, so that JAX takes it as an integer."""
    return (seed * 100_003 + step) % 2**31


def in_gymnasium(env_name: str) -> bool:
    """Whether gymnasium has an environment of that name."""
    import gymnasium

    return env_name in gymnasium.registry


def gymnasium_maker(env_name: str) -> Callable[..., Any]:
    """Makes gymnasium's environment for one of our names, after a check that both are the same."""
    import gymnasium

    if not in_gymnasium(env_name):
        known = [name for name in gymnasium.registry if not name.startswith("phys2d")]
        raise ValueError(
            f"gymnasium has no {env_name}: it has {', '.join(sorted(known)[:8])} and others; "
            "`kltrust evaluate` plays where the policy was trained"
        )
    ours = make(env_name)
    env = gymnasium.make(env_name)
    observation, action = env.observation_space, env.action_space
    env.close()
    same = observation.shape == getattr(ours.observation_space, "shape", ())
    if isinstance(ours.action_space, Discrete):
        same &= getattr(action, "n", None) == ours.action_space.n
    else:
        same &= action.shape == getattr(ours.action_space, "shape", None)
    if not same:
        raise ValueError(f"gymnasium's {env_name} has other observations or actions than ours")
    return lambda **options: gymnasium.make(env_name, **options)
