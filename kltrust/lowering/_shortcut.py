"""Conditions that skip work on platforms where a branch is cheap."""

from __future__ import annotations

import jax.numpy as jnp

from kltrust import loops
from kltrust.types import Array


def cpu_shortcut(condition: Array) -> Array:
    """``condition`` on a CPU, elsewhere False: [*E] bool, like it.

    Use it in a `loops.cond` that skips work if the condition holds. A GPU or TPU would have to tell
    its host and wait for it, so there the work is always done. The result of the work must
    therefore be right even if the condition holds.
    """
    return loops.platform_dependent(condition, cpu=lambda x: x, default=jnp.zeros_like)
