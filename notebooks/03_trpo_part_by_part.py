# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # TRPO, part by part
#
# maximise $\;L(\theta)=\mathbb E\big[r_\theta A\big]\;$ subject to
# $\;\mathbb E_s\,\mathrm{KL}(\text{old}\,\|\,\theta)\le\delta\;$ (Schulman et al., 2015, eq. 14),
# to first order in $L$ and second order in the KL:
#
# $$x=(F+\lambda I)^{-1}g,\qquad
# \theta'=\theta+\sqrt{\frac{2\delta}{x^\top(F+\lambda I)\,x}}\;x,\qquad
# \text{then shorten until the true KL and } L \text{ agree.}$$
#
# Five parts, each a function of its own: the Fisher-vector product, conjugate gradient, the scale,
# the line search, the batch. First the batch: one rollout of CartPole with a small network (58
# parameters, so that $F$ can also be written down), advantages, and old as a *distribution*.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import pandas as pd
from jax.flatten_util import ravel_pytree

import kltrust
from kltrust import tree
from kltrust.audit import log_ratio
from kltrust.learner import make_batch
from kltrust.rollout import reset_batch, rollout

plt.style.use("house.mplstyle")
jax.config.update("jax_enable_x64", True)

env = kltrust.make("CartPole-v1")
agent = kltrust.actor_critic(env, hidden=(8,))


@jax.jit
def collect(key, num_envs=16, num_steps=128):
    init_key, noise_key, reset_key, rollout_key = jax.random.split(key, 4)
    params, value_params = agent.init(init_key)
    flat, restore = ravel_pytree(params)  # a fresh network is next to uniform: less so
    params = restore(flat + 0.5 * jax.random.normal(noise_key, flat.shape))
    _, t = rollout(
        env,
        lambda obs, key: agent.policy(params, obs).sample(seed=key),
        *reset_batch(env, reset_key, num_envs),
        rollout_key,
        num_steps,
    )
    values = (agent.value(value_params, obs) for obs in (t.obs, t.next_obs))
    advantage = kltrust.gae(t.reward, *values, t.terminated, t.truncated, gamma=0.99, lam=0.95)
    advantage = kltrust.standardize(advantage)
    return params, make_batch(agent.policy, params, t.obs, t.action, advantage)


# Doubles from here on, so that identities can be checked to the digit.
params, batch = jax.tree.map(
    lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, collect(jax.random.key(1))
)
theta, restore = ravel_pytree(params)
batch = batch._replace(old=agent.policy(params, batch.obs))


def policy(theta, obs):
    return agent.policy(restore(theta), obs)


def mean_kl(theta):
    return jnp.mean(kltrust.kl_divergence(batch.old, policy(theta, batch.obs)))


def surrogate(theta):
    ratio = log_ratio(policy(theta, batch.obs), batch)
    return -jnp.mean(kltrust.surrogate_loss(ratio, batch.advantage))


gradient = jax.jit(jax.grad(surrogate))(theta)
assert theta.shape == (58,)
assert mean_kl(theta) == 0
print(f"{batch.advantage.size} rows, {theta.size} parameters, |g| = {tree.norm(gradient):.3f}")

# %% [markdown]
# ## The Fisher matrix is the Hessian of the KL
#
# At old, KL(old || $\theta$) has its minimum 0, and its Hessian there, averaged over states, is
# the Fisher matrix $F=\mathbb E_s[J^\top MJ]$: $J$ the Jacobian of the network's outputs, $M$ the
# Fisher matrix of the output distribution, in closed form. $F$ is positive semidefinite
# everywhere. The Hessian of the KL is that only *at* old: away from it, it has negative
# eigenvalues, and a solver that is handed it can walk uphill.

# %%
fisher = kltrust.fisher_operator(policy, theta, batch.obs)
dense = jax.jit(jax.vmap(fisher.product))(jnp.eye(theta.size))  # 58 products write F down
hessian = jax.jit(jax.hessian(mean_kl))
assert jnp.allclose(dense, hessian(theta), atol=1e-10)
away = theta + 1.5 * jax.random.normal(jax.random.key(2), theta.shape)
spectra = {
    "F at old": jnp.linalg.eigvalsh(dense),
    f"F, {mean_kl(away):.2f} nats from old": jnp.linalg.eigvalsh(
        jax.jit(jax.vmap(kltrust.fisher_vector_product(policy, away, batch.obs)))(
            jnp.eye(theta.size)
        )
    ),
    "Hessian of KL(old || .), there": jnp.linalg.eigvalsh(hessian(away)),
}
assert min(spectra["F at old"][0], spectra[f"F, {mean_kl(away):.2f} nats from old"][0]) > -1e-12
assert spectra["Hessian of KL(old || .), there"][0] < -1e-3

figure, axes = plt.subplots(1, 2, gridspec_kw={"width_ratios": [1, 1.6]})
size = jnp.abs(dense).max()
image = axes[0].imshow(
    jnp.sign(dense) * jnp.sqrt(jnp.abs(dense) / size), cmap="PuOr", vmin=-1, vmax=1
)
axes[0].set(title="F: weights and biases, layer by layer")
axes[0].grid(False)
figure.colorbar(image, ax=axes[0], label="signed root, largest = 1")
for (name, values), marker in zip(spectra.items(), "os^", strict=True):
    axes[1].plot(values[::-1], marker=marker, ms=4, lw=0.8, label=name)
axes[1].axhline(0, color="black", lw=0.8)
axes[1].set_yscale("symlog", linthresh=1e-4)
axes[1].set(xlabel="number", title="eigenvalues, nats per squared parameter")
axes[1].legend()
plt.show()

# %% [markdown]
# ## Products instead of a matrix
#
# The spectrum falls over many orders of magnitude: a few directions change the behaviour, most
# hardly do, which is why the damping $\lambda$ is there. With $n$ parameters, $F$ has $n^2$
# entries; nobody needs them. $Fv=\mathbb E[J^\top M(Jv)]$ is one push forward and one pull back
# through the network, linearised once per update, and $v^\top Fv=\mathbb E|M^{1/2}Jv|^2$ is a sum
# of squares, never negative, in float32 neither.
#
# **Conjugate gradient** turns products into the solution of $(F+\lambda I)x=g$. After $k$
# products, $x_k$ is the best in the space of the first $k$ powers of the matrix on $g$, and
# $x_k^\top(F+\lambda I)x_k=g^\top x_k$.

# %%
iterations, dampings = (1, 2, 3, 5, 7, 10, 14, 20), jnp.array([1e-1, 1e-3, 1e-5])


def solve(damping, num_iters):
    def damped(v):
        return dense @ v + damping * v

    x, _ = kltrust.conjugate_gradient(damped, gradient, num_iters, rtol=1e-14)
    exact = jnp.linalg.solve(dense + damping * jnp.eye(theta.size), gradient)
    cosine = x @ exact / (tree.norm(x) * tree.norm(exact))
    residual = tree.norm(gradient - damped(x)) / tree.norm(gradient)
    return residual, cosine, x @ damped(x) / (gradient @ x)


solve_all = jax.jit(jax.vmap(solve, (0, None)), static_argnums=1)
residual, cosine, identity = (
    jnp.stack(column) for column in zip(*(solve_all(dampings, k) for k in iterations), strict=True)
)
assert jnp.allclose(identity[:4], 1, rtol=1e-6)  # later, rounding tells where F is small
assert residual[5, 0] < 1e-6 < 1e-4 < residual[5, 2]

figure, axes = plt.subplots(1, 2)
for i, damping in enumerate(dampings):
    axes[0].semilogy(
        iterations, residual[:, i], marker="os^"[i], ms=4, label=f"damping {damping:g}"
    )
    axes[1].plot(iterations, cosine[:, i], marker="os^"[i], ms=4)
for ax in axes:
    ax.axvline(10, color="black", lw=0.8, ls=":")
    ax.set(xlabel="products (dotted: the paper's 10)", xticks=range(0, 21, 5))
axes[0].set_title("|g - (F + damping I) x| / |g|")
axes[0].legend()
axes[1].set_title("cosine of x with the exact solution")
plt.show()

# %% [markdown]
# ## To the boundary, and back
#
# `trust_region_scale` puts the quadratic model of the KL on the bound. The line search then asks
# the true KL and the true surrogate, and shortens the step until both agree; if no length does,
# the old parameters come back bit for bit. At the paper's $\delta=0.01$ the models are close; at
# 0.3 nats they are not: along both directions the true KL leaves the bound well before its model
# does, and the surrogate stays below its line along the natural step and rises above it along the
# plain gradient.
#
# At 0.01 the natural step buys more than the gradient scaled to the same bound: to first order no
# direction buys more for its KL. At 0.3 the first order says little, and here it is the other way
# round.

# %%
DAMPING = 1e-3


def damped_product(v):
    return fisher.product(v) + DAMPING * v


natural, _ = kltrust.conjugate_gradient(damped_product, gradient, 10, rtol=1e-5)
curve = jax.jit(jax.vmap(lambda p: (mean_kl(p), surrogate(p))))
fractions = jnp.linspace(0, 1.4, 57)
figure, axes = plt.subplots(2, 4, figsize=(12.5, 5), sharex=True)
accepted = []
for column, direction, max_kl, name in (
    (axes[:, 0], natural, 0.01, "natural step"),
    (axes[:, 1], gradient, 0.01, "gradient step"),
    (axes[:, 2], natural, 0.3, "natural step"),
    (axes[:, 3], gradient, 0.3, "gradient step"),
):
    curvature = fisher.quadratic_form(direction) + DAMPING * tree.dot(direction, direction)
    scale, _ = kltrust.trust_region_scale(curvature, max_kl)
    step = scale * direction
    kl, gain = curve(theta + fractions[:, None] * step)
    gain -= surrogate(theta)

    def acceptable(p, max_kl=max_kl):
        return (mean_kl(p) <= max_kl) & (surrogate(p) > surrogate(theta)), (
            mean_kl(p),
            surrogate(p),
        )

    found = kltrust.backtracking_line_search(acceptable, theta, step)
    taken = 0.8**found.num_backtracks
    assert found.accepted
    assert found.aux[0] <= max_kl
    accepted.append(found)
    column[0].plot(fractions, kl, label="KL(old || new)")
    column[0].plot(
        fractions, fractions**2 * fisher.quadratic_form(step) / 2, label="quadratic model"
    )
    column[0].axhline(max_kl, color="black", lw=0.8, ls=":")
    column[1].plot(fractions, gain, label="surrogate")
    column[1].plot(fractions, fractions * tree.dot(gradient, step), label="linear model")
    for ax, value in zip(column, (found.aux[0], found.aux[1] - surrogate(theta)), strict=True):
        ax.plot(taken, value, "o", color="black", ms=7, mfc="none", mew=2, label="taken")
    column[0].set_title(f"{name}, max_kl {max_kl:g}")
    column[1].set_xlabel("fraction of the way to the boundary")
axes[0, 0].set_ylabel("nats")
axes[1, 0].set_ylabel("gain, mean (r - 1) A")
axes[0, 0].legend()
axes[1, 0].legend()
plt.show()
assert accepted[0].num_backtracks == 0 < accepted[3].num_backtracks
assert accepted[0].aux[1] > accepted[1].aux[1]
assert accepted[2].aux[1] < accepted[3].aux[1]

# %% [markdown]
# ## Assembled
#
# That is all of TRPO: twelve lines, and equal to `kltrust.trpo` to the last digits. The library's
# version adds an entropy term, weights, a flag for a zero gradient, and its report.


# %%
def my_trpo(theta, max_kl, damping, cg_iters=10):
    g = jax.grad(surrogate)(theta)
    fisher = kltrust.fisher_operator(policy, theta, batch.obs)
    x, _ = kltrust.conjugate_gradient(
        lambda v: fisher.product(v) + damping * v, g, cg_iters, rtol=1e-5
    )
    scale, _ = kltrust.trust_region_scale(fisher.quadratic_form(x) + damping * x @ x, max_kl)

    def acceptable(candidate):
        return (mean_kl(candidate) <= max_kl) & (surrogate(candidate) > surrogate(theta)), ()

    return kltrust.backtracking_line_search(acceptable, theta, scale * x).params


def library(theta, max_kl, damping):
    algorithm = kltrust.trpo(max_kl=max_kl, damping=damping)
    return algorithm.update(policy, theta, algorithm.init(theta), batch, jax.random.key(0))[0]


rows = {}
for max_kl, damping in ((0.01, 0.1), (0.01, 1e-3), (0.3, 1e-3)):
    mine, theirs = (jax.jit(f)(theta, max_kl, damping) for f in (my_trpo, library))
    assert jnp.allclose(mine, theirs, atol=1e-10)
    assert not jnp.array_equal(mine, theta)
    found = jax.jit(kltrust.audit_curvature, static_argnums=0)(
        policy, theta, theirs, batch, damping=damping, key=jax.random.key(1)
    )
    assert found.kl <= max_kl
    assert found.step_norm <= (2 * max_kl / damping) ** 0.5
    rows[max_kl, damping] = {
        "KL": found.kl,
        "its quadratic model": found.kl_quadratic,
        "gain": found.surrogate_gain,
        "its linear model": found.surrogate_gain_linear,
        "|step|": found.step_norm,
        "CG residual": found.cg_residual,
        "largest eigenvalue of F": found.largest_eigenvalue.value,
    }
pd.DataFrame(rows).rename_axis(columns=["max_kl", "damping"]).astype(float).round(4)

# %% [markdown]
# The bound holds for the true KL, whatever the models say. The damped model, not the KL, is put on
# the bound, so that damping shortens the step: $|\text{step}|\le\sqrt{2\delta/\lambda}$. A damping
# says nothing until it is set beside $F$'s largest eigenvalue: `kltrust.audit_curvature` measures
# both, for any update.
#
# Next: [PPO's two surrogates](04_ppo_two_surrogates.ipynb).
