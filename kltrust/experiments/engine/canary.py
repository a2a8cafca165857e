"""Does this jaxlib compute what it is asked to? A release that is said to work once did not.

jaxlib 0.10.2 fuses a product, a row sum and a broadcast on CPUs into a kernel that returns wrong
numbers (jax issue 39103): every Fisher product and every centred logit of a policy is made of
these. The two expressions below are compiled, run and compared with NumPy in double precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

_TOLERANCE = 1e-3
"""Far above the rounding of any float32 (1e-6 here), far below the errors seen (0.5 to 3)."""

REMEDY = (
    'install versions that compute rightly: pip install "jax==0.10.1" "jaxlib==0.10.1"; or, with '
    "jaxlib 0.10.2, set XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= (with nothing after the "
    "equals sign)"
)


class Finding(NamedTuple):
    """How one expression fared.

    Attributes:
        expression: what was computed.
        wrong: the fraction of entries off by more than the tolerance (or not finite).
        worst: the largest error relative to the largest entry.
    """

    expression: str
    wrong: float
    worst: float


def findings(jit: Callable[..., Any] = jax.jit) -> list[Finding]:
    """Compiles and runs the expressions, on the default device, and compares them with NumPy.

    Args:
        jit: what compiles a function; a broken one shows that the comparison can fail.
    """
    random = np.random.default_rng(0)
    q = random.dirichlet(np.ones(6), 1024).astype(np.float32)
    u = random.standard_normal((32, 1024, 6)).astype(np.float32)
    centred = jit(_centre)(q, u[:8])
    fisher = jit(jax.vmap(_fisher, in_axes=(None, 0)))(np.log(q), u)
    return [
        _compare("u - sum(q u)", centred, _centre_oracle(q, u[:8])),
        _compare("a categorical Fisher matrix times 32 vectors", fisher, _fisher_oracle(q, u)),
    ]


def check(jit: Callable[..., Any] = jax.jit) -> None:
    """Refuses to go on where compiled code returns wrong numbers; it takes a fifth of a second.

    Raises:
        RuntimeError: naming the expressions and the remedy.
    """
    bad = [f for f in findings(jit) if f.wrong > 0]
    if bad:
        seen = "; ".join(f"{f.expression}: {f.wrong:.0%} of the entries are wrong" for f in bad)
        raise RuntimeError(
            f"jaxlib {jax.lib.__version__} computes wrong numbers on this machine's "
            f"{jax.default_backend()} ({seen}), and so would every training run: {REMEDY}"
        )


def _centre(q: jax.Array, u: jax.Array) -> jax.Array:
    return u - (q * u).sum(-1, keepdims=True)


def _fisher(logits: jax.Array, u: jax.Array) -> jax.Array:
    p = jax.nn.softmax(logits)
    return p * _centre(p, u)


def _centre_oracle(q: np.ndarray, u: np.ndarray) -> np.ndarray:
    return u - np.einsum("na,kna->kn", q.astype(np.float64), u)[..., None]


def _fisher_oracle(q: np.ndarray, u: np.ndarray) -> np.ndarray:
    p = q.astype(np.float64)
    matrices = np.einsum("na,ab->nab", p, np.eye(p.shape[1])) - p[:, :, None] * p[:, None, :]
    return np.einsum("nab,knb->kna", matrices, u)


def _compare(expression: str, computed: Any, exact: np.ndarray) -> Finding:
    error = np.abs(np.asarray(computed, np.float64) - exact) / np.abs(exact).max()
    error = np.where(np.isfinite(error), error, np.inf)
    return Finding(expression, float((error > _TOLERANCE).mean()), float(error.max()))
