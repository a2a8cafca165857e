"""Checks by shapes alone whether the parts of a learner fit together; errors name the remedy."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from kltrust.checks import check_kinds, kind_of, spaces_and_functions
from kltrust.rollout.acting import sample_actions
from kltrust.types import ActorCritic, Array, Discrete, Env, PyTree, UpdateReport

_ROWS = 2


def check_agent(env: Env, agent: ActorCritic) -> None:
    """Raises unless the agent's policy and value function fit the environment.

    It traces a reset, the agent's ``init``, ``policy`` and ``value``; it computes and compiles
    nothing. For an agent with a memory it checks the types alone. `make_learner` calls it.

    Raises:
        TypeError: if ``env`` is no `Env`, ``agent`` no `ActorCritic`, or the policy returns no
            distribution; names what to pass.
        ValueError: if they do not fit; names the shapes.
    """
    env = check_kinds(env, agent)
    made = getattr(agent.policy, "fits", ())
    is_made_for_it = made and all(
        a is b for a, b in zip(made, spaces_and_functions(env, agent), strict=True)
    )
    if agent.memory is not None or is_made_for_it:
        return

    def trial(key: Array) -> tuple[PyTree, Array]:
        obs = jax.vmap(env.reset)(jax.random.split(key, _ROWS))[1]
        try:
            policy_params, value_params = agent.init(key)
            dist = agent.policy(policy_params, obs)
            value = agent.value(value_params, obs)
        except Exception as error:
            shapes = jax.tree.map(lambda x: x.shape, obs)
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"the agent does not fit {env.name or 'the environment'}, whose observations have "
                f"the shapes {shapes} here: {type(error).__name__}: {reason}"
            ) from error
        if not (hasattr(dist, "log_prob") and hasattr(dist, "sample")):
            raise TypeError(
                f"policy must return a distribution, got {kind_of(dist)}: of logits "
                "distrax.Categorical(logits=logits), of means and standard deviations "
                "distrax.MultivariateNormalDiag(mean, std)"
            )
        categories = getattr(dist, "num_categories", None)
        space = env.action_space
        if isinstance(space, Discrete) and categories not in (None, space.n):
            raise ValueError(
                f"policy has {categories} actions, {env.name or 'the environment'} has {space.n}: "
                "make the agent of this environment, actor_critic(env)"
            )
        return sample_actions(dist, key), value

    action, value = jax.eval_shape(trial, jax.random.key(0))
    if value.shape != (_ROWS,):
        last = ": take the last axis off, as by [..., 0]" if value.shape == (_ROWS, 1) else ""
        raise ValueError(
            f"value must return one number per observation, [{_ROWS}] of {_ROWS}, got "
            f"{list(value.shape)}{last}"
        )
    shape = getattr(env.action_space, "shape", None)
    if shape is not None and not isinstance(env.action_space, Discrete):
        found = [list(leaf.shape) for leaf in jax.tree.leaves(action)]
        # A user's actions may be trees: the environment knows how to use them.
        if len(found) == 1 and found != [[_ROWS, *shape]]:
            raise ValueError(
                f"policy's actions have the shape {found[0]} for {_ROWS} observations, "
                f"{env.name or 'the environment'} takes {list(shape)} each: make the agent of this "
                "environment, actor_critic(env)"
            )


def checked_update(
    algorithm: Any, params: PyTree, result: Any
) -> tuple[PyTree, PyTree, UpdateReport]:
    """The checked ``result`` of an algorithm's ``update`` of ``params``, with an `UpdateReport`.

    Raises:
        TypeError: if it is not (params, state, report); names the wrong part and its fault.
    """
    what = f"update of {getattr(algorithm, 'name', type(algorithm).__name__)}"
    if not isinstance(result, tuple) or len(result) != 3:
        got = f"{len(result)} results" if isinstance(result, tuple) else kind_of(result)
        raise TypeError(f"{what} must return (params, state, report), got {got}")
    new, state, report = result
    given, found = (_shapes(tree) for tree in (params, new))
    if given != found:
        changed = next(
            (
                f"{path} {was} became {now}"
                for (path, was), (_, now) in zip(given, found, strict=False)
                if was != now
            ),
            f"{len(given)} leaves became {len(found)}",
        )
        raise TypeError(f"{what} must return parameters like those it got: {changed}")
    report = report if isinstance(report, UpdateReport) else UpdateReport(report or {})
    extra = report.extra
    if not isinstance(extra, dict) or not all(isinstance(name, str) for name in extra):
        raise TypeError(f"{what}: a report is a dict of arrays by name, got {kind_of(extra)}")
    return new, state, report


def _shapes(tree: PyTree) -> list[tuple[str, str]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        (jax.tree_util.keystr(path), f"{jax.numpy.result_type(x)}{list(np.shape(x))}")
        for path, x in leaves
    ]
