"""The path of the KL within one update, recorded by the loop that walks it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from kltrust.types import Array, PyTree

recording_path = jax.make_user_context(False)
"""``with recording_path(True):`` around an update makes `algorithms`' shared minibatch loop add
its `KLPath` to what the algorithm reports, under `KL_PATH`, whichever algorithm it is. JAX traces
anew where the context differs: a compiled update never serves the other case."""

KL_PATH = "kl_path"
"""Where in an algorithm's report the path is, until `take_path` takes it out."""


class KLPath(NamedTuple):
    """Mean KL(old || .) along the E epochs of M minibatches of one update, nats.

    Exact for every state; NaN in epochs that were not run. An epoch that was undone is in it, as
    it was before it was undone.

    Attributes:
        minibatch: [E * M] just before each step, over the states of that step's minibatch only:
            around the whole batch's mean by how minibatches differ.
        epoch: [E] after each epoch, over all states of the batch.
    """

    minibatch: Array
    epoch: Array


def apart(x: PyTree) -> PyTree:
    """The same numbers, for measurements: the compiler changes no bit of what else uses x.

    Without it, a measurement may be fused with the computation it looks at, and rounding with it.
    """
    return jax.lax.optimization_barrier(x)


def take_path(extra: dict[str, Any]) -> tuple[dict[str, Any], KLPath | None]:
    """An algorithm's report without the path, and the path.

    Args:
        extra: what the algorithm's update returned.

    Returns:
        (the rest of the report, the `KLPath` that the loop put into it or None).
    """
    return {k: v for k, v in extra.items() if k != KL_PATH}, extra.get(KL_PATH)
