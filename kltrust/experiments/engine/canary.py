"""Checks that this jaxlib computes right numbers: some releases did not.

A known miscompilation got each expression below wrong. Each is computed compiled and operator by
operator, on a device of each kind, and compared with NumPy in double precision:

- jax issue 39103: jaxlib 0.10.2 fuses a product, a row sum and a broadcast on CPUs into a kernel
  that returns wrong numbers. Every Fisher product and every centred logit is made of these.
- jax issue 40588: up to 0.10.2, a concatenation within another was read with the outer one's rows
  on GPUs.
- jax issue 40633: jaxlib 0.11.0 and 0.11.1 return the numbers of the operator before, or NaN, when
  operators run one by one on some GPUs with CUDA 13.
- jax issue 39336: a scale of a product with a bias left the bias out on GPUs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_TOLERANCE = 1e-3
"""Far above the rounding of any float32 (1e-6 here), far below the errors seen (0.5 to 3)."""

REMEDY = (
    "install versions that compute rightly: the newest that kltrust takes (Python 3.12 or later), "
    'or pip install "jax==0.10.1" "jaxlib==0.10.1"; or, with jaxlib 0.10.2 on a CPU, set '
    "XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= (with nothing after the equals sign)"
)


class Finding(NamedTuple):
    """How one expression fared.

    Attributes:
        expression: what was computed.
        how: "compiled" or "eagerly", and the kind of device.
        wrong: the fraction of entries off by more than the tolerance (or not finite).
        worst: the largest error relative to the largest entry.
    """

    expression: str
    how: str
    wrong: float
    worst: float


@functools.cache
def findings(jit: Callable[..., Any] = jax.jit) -> tuple[Finding, ...]:
    """Computes the expressions in both ways on a device of each kind; compares them with NumPy.

    Runs once per process, since jaxlib and the devices do not change.

    Args:
        jit: compiles a function; a broken one shows that the comparison can fail.
    """
    kinds = {device.device_kind: device for device in reversed(jax.local_devices())}
    found = []
    for kind, device in kinds.items():
        for expression, function, arguments, exact in _expressions():
            placed = jax.device_put(arguments, device)
            compiled = jit(function)(*placed)
            with jax.disable_jit(), jax.default_device(device):
                eager = function(*placed)
            for how, computed in (("compiled", compiled), ("eagerly", eager)):
                found.append(_compare(expression, f"{how} on {kind}", computed, exact))
    return tuple(found)


def check(jit: Callable[..., Any] = jax.jit) -> None:
    """Raises an error if wrong numbers are computed; takes a second, once per process.

    Raises:
        RuntimeError: naming the expressions and the remedy.
    """
    bad = [f for f in findings(jit) if f.wrong > 0]
    if bad:
        seen = "; ".join(
            f"{f.expression}, {f.how}: {f.wrong:.0%} of the entries are wrong" for f in bad
        )
        raise RuntimeError(
            f"jaxlib {jax.lib.__version__} computes wrong numbers on this machine's "
            f"{jax.default_backend()} ({seen}), and so would every training run: {REMEDY}"
        )


def _expressions() -> Iterator[tuple[str, Callable[..., Any], tuple[np.ndarray, ...], np.ndarray]]:
    """Name, function, arguments, and NumPy's result of each expression."""
    random = np.random.default_rng(0)
    q = random.dirichlet(np.ones(6), 1024).astype(np.float32)
    u = random.standard_normal((32, 1024, 6)).astype(np.float32)
    yield "u - sum(q u)", _centre, (q, u[:8]), _centre_exactly(q, u[:8])
    products = jax.vmap(_fisher, in_axes=(None, 0))
    exact = _fisher_exactly(q, u)
    yield "a categorical Fisher matrix times 32 vectors", products, (np.log(q), u), exact
    a, b, c = u[0, :16], u[1, :7], u[2, :40]
    exact = np.concatenate([a, b, c]).astype(np.float64) * 2 + 1
    yield "a concatenation within another", _concatenate, (a, b, c), exact
    scale, bias = np.array(0.1, np.float32), 100 * u[3, 0]
    weights = u[4, :6]
    exact = 0.1 * (u[5, :64].astype(np.float64) @ weights.astype(np.float64) + bias)
    yield "a scaled product with a bias", _affine, (scale, u[5, :64], weights, bias), exact
    x = np.array([5, 1, 2, 4], np.float32)
    exact = np.stack([np.sqrt(x), np.exp(-x), np.log(x), x + 1]).astype(np.float64)
    yield "elementwise operators", _elementwise, (x,), exact


def _centre(q: jax.Array, u: jax.Array) -> jax.Array:
    return u - (q * u).sum(-1, keepdims=True)


def _fisher(logits: jax.Array, u: jax.Array) -> jax.Array:
    p = jax.nn.softmax(logits)
    return p * _centre(p, u)


def _concatenate(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    return jnp.concatenate([jnp.concatenate([a, b]), c]) * 2 + 1


def _affine(scale: jax.Array, x: jax.Array, weights: jax.Array, bias: jax.Array) -> jax.Array:
    return jax.vmap(lambda row: scale * (jnp.dot(row, weights, precision="highest") + bias))(x)


def _elementwise(x: jax.Array) -> jax.Array:
    ones = jnp.ones_like(x)
    return jnp.stack([jnp.sqrt(x), jnp.exp(-x), jnp.log(x), x + ones])


def _centre_exactly(q: np.ndarray, u: np.ndarray) -> np.ndarray:
    return u - np.einsum("na,kna->kn", q.astype(np.float64), u)[..., None]


def _fisher_exactly(q: np.ndarray, u: np.ndarray) -> np.ndarray:
    p = q.astype(np.float64)
    matrices = np.einsum("na,ab->nab", p, np.eye(p.shape[1])) - p[:, :, None] * p[:, None, :]
    return np.einsum("nab,knb->kna", matrices, u)


def _compare(expression: str, how: str, computed: Any, exact: np.ndarray) -> Finding:
    error = np.abs(np.asarray(computed, np.float64) - exact) / np.abs(exact).max()
    error = np.where(np.isfinite(error), error, np.inf)
    return Finding(expression, how, float((error > _TOLERANCE).mean()), float(error.max()))
