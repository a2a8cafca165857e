"""All sequences of at most two tokens out of three, for sums in place of samples."""

import jax
import jax.numpy as jnp
import numpy as np

V = 3
END = 0
"""The token that ends a sequence, where sequences can end."""
PADDING = 2


def policy(seed):
    """Logits of the first token [V] and of the second after each first [V, V]."""
    rng = np.random.default_rng(seed)
    return {"first": rng.normal(size=V), "second": rng.normal(size=(V, V))}


def listed(ends):
    """All sequences: tokens [K, 2] and what counts of them."""
    rows = []
    for first in range(V):
        if ends and first == END:
            rows.append((first, PADDING, True, False))
        else:
            rows += [(first, second, True, True) for second in range(V)]
    table = np.array(rows)
    return table[:, :2], table[:, 2:].astype(bool)


def logits_of(theta, tokens):
    first = jnp.broadcast_to(theta["first"], (len(tokens), V))
    return jnp.stack([first, theta["second"][tokens[:, 0]]], axis=1)


def probabilities(theta, ends):
    """Of all sequences, by the chain rule: [K]."""
    first, second = (jax.nn.softmax(theta[k]) for k in ("first", "second"))
    found = []
    for (a, b), (_, more) in zip(*listed(ends), strict=True):
        found.append(first[a] * second[a, b] if more else first[a])
    return jnp.stack(found)


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def gradient(function, theta):
    value, slope = jax.jit(jax.value_and_grad(function))(theta)
    return float(value), flat(slope)
