"""Wrappers by name: "CartPole-v1 | sticky_actions(0.25) | stack_frames(4)"."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from kltrust.checks import unknown
from kltrust.environments import _episodes, _wrappers
from kltrust.environments._parameters import keywords
from kltrust.types import Env

WRAPPERS: dict[str, Callable[..., Env]] = {
    f.__name__: f
    for f in (
        _episodes.time_limit,
        _episodes.stack_frames,
        _episodes.sticky_actions,
        _wrappers.scale_rewards,
        _wrappers.clip_rewards,
        _wrappers.hide_observations,
    )
}
"""The wrappers that a name can ask for."""


def parts_of(name: str) -> tuple[str, list[str]]:
    """Splits "name | call | call" into the environment's own name and the wrappers' calls."""
    base, *calls = (part.strip() for part in name.split("|"))
    return base, calls


def wrapped(env: Env, calls: list[str]) -> Env:
    """The environment ``env`` in the wrappers that ``calls`` name, the first one innermost.

    Raises:
        ValueError: for a wrapper that does not exist, or arguments that it does not take.
    """
    for call in calls:
        function, arguments, named = _parsed(call)
        try:
            outer = WRAPPERS[function](env, *arguments, **named)
        except TypeError as error:
            takes = ", ".join(list(keywords(WRAPPERS[function])[0])[1:])
            raise ValueError(f"{call!r}: {function} takes {takes} ({error})") from error
        env = outer._replace(name=f"{env.name} | {call}")
    return env


def _parsed(call: str) -> tuple[str, list[Any], dict[str, Any]]:
    try:
        found = ast.parse(call, mode="eval").body
        if isinstance(found, ast.Name):
            found = ast.Call(found, [], [])
        if not isinstance(found, ast.Call) or not isinstance(found.func, ast.Name):
            raise ValueError("no call of a wrapper")
        arguments = [ast.literal_eval(x) for x in found.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in found.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"a wrapper after '|' reads like 'stack_frames(4)', got {call!r} ({error})"
        ) from error
    if found.func.id not in WRAPPERS:
        raise ValueError(unknown("wrapper", found.func.id, WRAPPERS))
    return found.func.id, arguments, named
