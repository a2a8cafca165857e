"""The mean return of uniformly random actions, recorded for environments at their defaults."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("random_returns.json")
"""`benchmarks/random_policy.py` writes it."""


def random_return(env: str, env_params: Mapping[str, Any]) -> float | None:
    """The mean return of 1,000 episodes with uniformly random actions; None if not recorded.

    Only environments with their default parameters, an empty ``env_params``, are recorded.
    """
    return None if env_params else _recorded().get(env)


@functools.cache
def _recorded() -> dict[str, float]:
    return json.loads(FILE.read_text("utf-8"))
