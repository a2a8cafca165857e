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
# # PPO's two surrogates
#
# PPO (Schulman et al., 2017) gives up second order: epochs of Adam on a loss that is meant to keep
# the new policy near the old one by itself. With $r=\text{new}(a|s)/\text{old}(a|s)$,
#
# $$\text{clip (eq. 7):}\quad \min\big(rA,\;\mathrm{clip}(r,1-\epsilon,1+\epsilon)\,A\big)
# \qquad\quad
# \text{penalty (eq. 8):}\quad rA-\beta\,\mathrm{KL}(\text{old}\,\|\,\text{new})$$
#
# One sample of a policy with two actions, old(a) = 0.4, as its ratio moves:

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import kltrust
from kltrust import tabular
from kltrust.audit import clip_partition, log_ratio
from kltrust.experiments.reading.plots import BLUE, GREY, VERMILION

plt.style.use("house.mplstyle")

EPS = 0.2
r = jnp.linspace(0.02, 2.45, 300)
exact_kl = kltrust.categorical_kl(
    jnp.tile(jnp.array([0.4, 0.6]), (len(r), 1)), jnp.stack([0.4 * r, 1 - 0.4 * r], -1)
)
figure, axes = plt.subplots(1, 2)
for ax, sign in zip(axes, (1.0, -1.0), strict=True):
    A = jnp.full_like(r, sign)
    ax.axvspan(1 - EPS, 1 + EPS, color=GREY, alpha=0.15, lw=0)
    ax.plot(r, -kltrust.surrogate_loss(jnp.log(r), A), color=GREY, ls="-", lw=1, label="r A")
    clipped = -kltrust.clipped_surrogate_loss(jnp.log(r), A, EPS)
    ax.plot(r, clipped, color=BLUE, ls="-", lw=2.5, label="clip, eps 0.2")
    for beta, style in ((1.0, "--"), (6.0, ":")):
        penalised = -kltrust.penalty_surrogate_loss(jnp.log(r), A, exact_kl, beta)
        ax.plot(r, penalised, color=VERMILION, ls=style, label=f"penalty, beta {beta:g}")
    ax.set(xlabel="ratio r", title=f"A = {sign:+g}", ylim=(-3, 2.6))
axes[0].set_ylabel("objective of one sample")
axes[0].legend(loc="lower right", ncols=2)
plt.show()
assert jnp.isclose(clipped[-1], -r[-1])  # A < 0 and r > 1: a mistake is never clipped
assert jnp.isclose(clipped[0], -(1 - EPS))

# %% [markdown]
# The clip is flat where the sample has moved as far as $\epsilon$ in the direction that $A$ asks
# for: the incentive is gone. The penalty bends: beyond its top the objective *falls*.
#
# ## In gradient: no pull, and a pull back
#
# Every sample contributes a weight times $\nabla\log\text{new}(a|s)$. Clip's is $rA$ or nothing.
# The penalty's, with the KL estimated by k3, is $rA-\beta(r-1)$, which changes its sign at
# $r=\beta/(\beta-A)$: the form $\lambda/(\nu-A)$ of the exact solution under a KL constraint (see
# `tabular.forward_kl_step`).
#
# Clipping *is* a penalty in gradient: on the samples that it kills, with the detached coefficient
# $-rA$ on the sampled $-\log r$ (KLip-PPO, arXiv 2606.23932). The cell checks that on a batch: the
# gradients are equal, the values are not.

# %%
STATES, ACTIONS = 60, 4
mdp_key, feature_key, batch_key, walk_key = jax.random.split(jax.random.key(0), 4)
mdp = tabular.garnet(mdp_key, STATES, ACTIONS, branching=4, gamma=0.95)
policy, theta = tabular.linear_policy(jax.random.normal(feature_key, (STATES, ACTIONS, 64)) / 8)
value = tabular.solve(mdp, tabular.probabilities(policy, theta, STATES)).value
batch = tabular.rollout_batch(
    mdp, policy, theta, batch_key, num_envs=16, num_steps=32, lam=0.95, value=value
)
batch = batch._replace(advantage=kltrust.standardize(batch.advantage))
moved = theta + 0.7 * jax.random.normal(walk_key, theta.shape)


def clip_loss(theta):
    ratio = log_ratio(policy(theta, batch.obs), batch)
    return jnp.mean(kltrust.clipped_surrogate_loss(ratio, batch.advantage, EPS))


def as_a_penalty(theta):
    ratio = log_ratio(policy(theta, batch.obs), batch)
    _, removed, _ = clip_partition(jnp.exp(ratio), batch.advantage, EPS)
    coefficient = jax.lax.stop_gradient(-jnp.exp(ratio) * batch.advantage) * removed
    surrogate = kltrust.surrogate_loss(ratio, batch.advantage)
    return jnp.mean(surrogate + coefficient * kltrust.kl_k1(ratio))


def penalty_objective(log_ratio, advantage, beta):
    kl = kltrust.kl_k3(log_ratio)
    return -kltrust.penalty_surrogate_loss(log_ratio, advantage, kl, beta)


values, gradients = zip(
    *(jax.value_and_grad(loss)(moved) for loss in (clip_loss, as_a_penalty)), strict=True
)
assert jnp.allclose(*gradients, atol=1e-6)
assert abs(values[0] - values[1]) > 1e-2

figure, axes = plt.subplots(1, 2, sharey=True)
for ax, sign in zip(axes, (1.0, -1.0), strict=True):
    _, removed, _ = clip_partition(r, sign, EPS)
    ax.axhline(0, color="black", lw=0.8)
    ax.axvspan(1 - EPS, 1 + EPS, color=GREY, alpha=0.15, lw=0)
    ax.plot(r, jnp.where(removed, 0, r * sign), color=BLUE, ls="-", lw=2.5, label="clip, eps 0.2")
    for beta, style in ((1.0, "--"), (6.0, ":")):
        # The derivative of the objective in the ratio's logarithm, k3 for the KL.
        objective = functools.partial(penalty_objective, advantage=jnp.float32(sign), beta=beta)
        weight = jax.vmap(jax.grad(objective))(jnp.log(r))
        assert jnp.allclose(weight, r * sign - beta * (r - 1), atol=1e-4)
        ax.plot(r, weight, color=VERMILION, ls=style, label=f"penalty, beta {beta:g}")
    ax.set(xlabel="ratio r", title=f"A = {sign:+g}", ylim=(-4, 4))
axes[0].set_ylabel(r"weight of $\nabla\log$ new(a|s)")
axes[0].legend(loc="lower left")
plt.show()

# %% [markdown]
# ## What clipping bounds, and what it does not
#
# It bounds neither the ratio nor the KL. A sample whose gradient is removed is not held: the other
# samples, through the parameters that they share, go on moving it. (If all ratios of a
# state did stay within $\epsilon$, the total variation would be at most $\epsilon/2$.) Below,
# epoch after epoch on one batch, with `ppo_clip` and a fixed-beta `ppo_penalty`: every setting is
# a lane of one compilation.


# %%
def measure(update, key, num_epochs=60):
    """`num_epochs` epochs on the one batch, audited after each."""

    def epoch(carry, key):
        params, state = carry
        params, state, _ = update.update(policy, params, state, batch, key)
        audit = kltrust.audit_update(policy, theta, params, batch, clip_eps=EPS)
        row = audit.kl.mean, audit.ratio.max, audit.gradient_removed, audit.surrogate_gain
        return (params, state), row

    keys = jax.random.split(key, num_epochs)
    return jax.lax.scan(epoch, (theta, update.init(theta)), keys)[1]


common = {"learning_rate": 0.05, "num_epochs": 1, "num_minibatches": 4}
settings = {
    "clip, eps": (jnp.array([0.1, 0.2, 0.3]), lambda x: kltrust.ppo_clip(clip_eps=x, **common)),
    "penalty, beta": (
        jnp.array([0.3, 1.0, 3.0]),
        lambda x: kltrust.ppo_penalty(init_beta=x, adaptive=False, **common),
    ),
}
key = jax.random.key(3)
rows = {
    name: jax.jit(jax.vmap(lambda x, make=make: measure(make(x), key)))(values)
    for name, (values, make) in settings.items()
}
titles = ("mean KL(old || new), nats", "largest ratio", "samples that a clip of 0.2 kills", "gain")
figure, axes = plt.subplots(1, 4, figsize=(12.5, 3.6))
for (name, (values, _)), color in zip(settings.items(), (BLUE, VERMILION), strict=True):
    for i, style in enumerate(("-", "--", ":")):
        for ax, quantity in zip(axes, rows[name], strict=True):
            ax.plot(
                range(1, 61),
                quantity[i],
                color=color,
                ls=style,
                label=f"{name} {values[i]:.1f}",
            )
for ax, title in zip(axes, titles, strict=True):
    ax.set(title=title, xlabel="epochs on one batch")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
plt.show()
largest_ratio = rows["clip, eps"][1][:, -1]
assert (largest_ratio > 1.3 * (1 + settings["clip, eps"][0])).all()
assert (rows["clip, eps"][0][:, 59] > rows["clip, eps"][0][:, 5]).all()

# %% [markdown]
# The ratios leave $[1-\epsilon,1+\epsilon]$ by far, the KL goes on growing, and $\epsilon$ orders
# the KLs without naming them. The penalty has a fixed point whose KL beta decides; which KL that
# is depends on the problem and on the advantages' scale. Hence the third idea of the paper:
#
# ## The adaptive beta at work
#
# After each iteration, on the whole batch's exact KL $d$: $d>1.5\,d_\text{target}$ doubles beta,
# $d<d_\text{target}/1.5$ halves it, for the next iteration. From three starts, two of them wrong
# by a factor of thirty, on CartPole; beside it a fixed beta and clip.

# %%
env = kltrust.make("CartPole-v1")
agent = kltrust.actor_critic(env, hidden=(32, 32))
adam = {"learning_rate": 1e-3, "num_epochs": 5, "num_minibatches": 8}
TARGET = 0.01
critic = kltrust.value_regression(num_epochs=2, num_minibatches=8)


def train(update, key):
    learner = kltrust.make_learner(env, agent, update, num_envs=8, num_steps=128, critic=critic)
    return kltrust.train(learner, key, num_iterations=40)[1]


starts = jnp.array([1 / 30, 1.0, 30.0])
seeds = jax.random.split(jax.random.key(0), 3)
metrics = {
    "adaptive": jax.jit(
        jax.vmap(
            lambda beta, key: train(
                kltrust.ppo_penalty(target_kl=TARGET, init_beta=beta, **adam), key
            )
        )
    )(starts, seeds),
    "fixed beta 1": jax.jit(
        jax.vmap(lambda key: train(kltrust.ppo_penalty(adaptive=False, **adam), key))
    )(seeds),
    "clip 0.2": jax.jit(jax.vmap(lambda key: train(kltrust.ppo_clip(**adam), key)))(seeds),
}
adaptive = metrics["adaptive"]
beta, kl = adaptive.extra["beta"], adaptive.kl
factor = np.where(kl > 1.5 * TARGET, 2.0, np.where(kl < TARGET / 1.5, 0.5, 1.0))
assert np.allclose(beta[:, 1:], (beta * factor)[:, :-1])  # the rule, replayed
assert np.ptp(np.log(beta[:, -10:].mean(1))) < np.ptp(np.log(beta[:, 0])) / 2

figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
for i, start in enumerate(starts):
    axes[0].semilogy(beta[i], label=f"start {start:.2g}")
    axes[1].semilogy(kl[i])
axes[0].set(title="adaptive: beta", xlabel="iteration")
axes[0].legend()
axes[1].axhspan(TARGET / 1.5, TARGET * 1.5, color=GREY, alpha=0.25, lw=0)
axes[1].set(title="adaptive: realised KL, its target in grey", xlabel="iteration")
for (name, runs), color, style in zip(
    list(metrics.items())[1:], (VERMILION, BLUE), ("--", "-"), strict=True
):
    axes[2].semilogy(runs.kl.T, color=color, ls=style, lw=1.2)
    axes[2].semilogy([], [], color=color, ls=style, label=name)
axes[2].set(title="fixed beta and clip: realised KL", xlabel="iteration")
axes[2].legend()
for ax in axes[1:]:
    ax.set_ylim(3e-5, 1)
plt.show()

# %% [markdown]
# A wrong start is mended within some iterations, a factor of two each. It is a control loop, not a
# bound: single updates overshoot. The same quantities of all three, in numbers:

# %%
pd.DataFrame(
    {
        name: {
            "median KL": np.median(runs.kl),
            "95 % of KLs below": np.quantile(runs.kl, 0.95),
            "largest KL": runs.kl.max(),
            "largest ratio": runs.max_ratio.max(),
            "share of samples beyond 0.2": runs.clip_fraction.mean(),
            "return, last 10 iterations": runs.return_sum[:, -10:].sum()
            / runs.num_episodes[:, -10:].sum(),
        }
        for name, runs in metrics.items()
    }
).T.astype(float).round(4)

# %% [markdown]
# Every algorithm here was measured by the same exact KL, whatever it optimised: that is what
# `Metrics.kl` is for. Who wants a bound rather than a habit takes TRPO, or gives PPO a `max_kl`:
# an epoch that ends beyond it is undone.
#
# Next: [write your own algorithm](05_write_your_own.ipynb).
