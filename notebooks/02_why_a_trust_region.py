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
# # Why a trust region
#
# ## From the return to what a batch can estimate
#
# With the discounted visitation $d$ (normalised) and the old policy's advantage $A$,
#
# $$J(\text{new})-J(\text{old})=\frac{1}{1-\gamma}\,
# \mathbb{E}_{s\sim d_{\text{new}},\,a\sim\text{new}}[A(s,a)].$$
#
# This *performance difference* is exact, and useless as an objective: it **is** the return, since
# $d_{\text{new}}$ is known only after the new policy has acted. The surrogate takes the old
# states,
#
# $$L(\text{new})=J(\text{old})+\frac{1}{1-\gamma}\,
# \mathbb{E}_{s\sim d_{\text{old}},\,a\sim\text{old}}\Big[
# \frac{\text{new}(a|s)}{\text{old}(a|s)}A\Big],$$
#
# equal to $J$ in value and gradient at old, and nowhere else. `kltrust.tabular` computes both, on
# finite MDPs: here along the gradient, beside what batches of 100 samples make of $L$.

# %%
import functools

import distrax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import kltrust
from kltrust import tabular
from kltrust.experiments.reading.plots import BLUE, GREY, VERMILION

plt.style.use("house.mplstyle")
jax.config.update("jax_enable_x64", True)

STATES, ACTIONS = 10, 3
mdp = tabular.garnet(jax.random.key(0), STATES, ACTIONS, branching=2, gamma=0.9)
policy, theta = tabular.aggregated_policy(jnp.arange(STATES) % 3, 3, ACTIONS)
gradient = tabular.policy_gradient(mdp, policy, theta)
old = tabular.probabilities(policy, theta, STATES)
steps = jnp.linspace(-5, 40, 91)


@jax.jit
@jax.vmap
def along_the_gradient(step):
    new = tabular.probabilities(policy, theta + step * gradient, STATES)
    return (
        tabular.expected_return(mdp, new),
        tabular.surrogate_return(mdp, old, new),
        tabular.performance_difference(mdp, old, new),
    )


def batch_estimates(key):
    batch = tabular.sampled_batch(mdp, policy, theta, key, 100)

    def gain(step):
        log_ratio = policy(theta + step * gradient, batch.obs).log_prob(batch.action)
        log_ratio -= batch.old.log_prob(batch.action)
        return -jnp.mean(kltrust.surrogate_loss(log_ratio, batch.advantage))

    return (jax.vmap(gain)(steps) - gain(0.0)) / (1 - mdp.gamma)


estimates = jax.jit(jax.vmap(batch_estimates))(jax.random.split(jax.random.key(1), 12))
returns, surrogate, difference = along_the_gradient(steps)
at_old = jnp.argmin(jnp.abs(steps))
assert jnp.allclose(returns[at_old] + difference, returns)  # the identity
slopes = [(y[at_old + 1] - y[at_old - 1]) / (steps[1] - steps[0]) / 2 for y in (returns, surrogate)]
assert jnp.isclose(*slopes, rtol=0.02)

figure, axes = plt.subplots(1, 2, gridspec_kw={"width_ratios": [1.5, 1]})
axes[0].plot(steps, estimates.T, color=GREY, ls="-", lw=0.6, alpha=0.8)
axes[0].plot([], [], color=GREY, ls="-", lw=0.6, label="as 12 batches see it")
axes[0].plot(
    steps, returns - returns[at_old], color=BLUE, ls="-", lw=2.5, label="J - J(old), the return"
)
axes[0].plot(
    steps,
    surrogate - returns[at_old],
    color=VERMILION,
    ls="--",
    lw=2.5,
    label="L - J(old), the surrogate",
)
axes[0].axvline(0, color="black", lw=0.8)
axes[0].set(xlabel="step along the gradient", title="equal to first order, at old")
axes[0].legend()
walk = tabular.chain(STATES, gamma=0.9)
onwards = jnp.tile(jnp.array([0.9, 0.1]), (STATES, 1))
states = np.arange(STATES)
discounted = tabular.solve(walk, onwards).visitation
batch_states = tabular.undiscounted_visitation(walk, onwards, 500)
axes[1].bar(states - 0.2, discounted, 0.4, color=BLUE, label="d, discounted")
axes[1].bar(
    states + 0.2,
    batch_states,
    0.4,
    color="white",
    edgecolor=VERMILION,
    hatch="///",
    label="a batch",
)
axes[1].set(xlabel="state of a chain, start at 0", title="share of states")
axes[1].legend()
plt.show()

# %% [markdown]
# What an implementation maximises is one step further away: a batch has no factor $1/(1-\gamma)$,
# its states are undiscounted (right), its advantages are estimated and standardised. So nobody
# follows $J$; everybody follows a local model, and the question is how far to follow it.
#
# ## Where an unconstrained step collapses, and where it can't
#
# On an **exact tabular softmax** an exact gradient step of *any* size never lowers $J$: every
# state has its own logits, and the sign of $A$ is in the exponent. Who shows the need for a trust
# region there shows something else. What does collapse: states that **share parameters**,
# **sampled** advantages, a **Gaussian** policy, whose curvature bounds the step.

# %%
sizes = jnp.logspace(-2, 3, 41)


def change(key, size, groups, num_groups):
    """What one exact gradient step does to J, on a random MDP from a random policy."""
    mdp_key, theta_key = jax.random.split(key)
    mdp = tabular.garnet(mdp_key, STATES, ACTIONS, branching=2, gamma=0.9)
    policy, zeros = tabular.aggregated_policy(groups, num_groups, ACTIONS)
    theta = jax.random.normal(theta_key, zeros.shape)
    new = theta + size * tabular.policy_gradient(mdp, policy, theta)
    before, after = (tabular.probabilities(policy, p, STATES) for p in (theta, new))
    return tabular.performance_difference(mdp, before, after)


def pull(key, size):
    """One step on 16 noisy pulls of a 3-armed bandit, from the uniform policy."""
    bandit = tabular.MDP(jnp.ones((1, 3, 1)), jnp.array([[1.0, 0.5, 0.0]]), 0.0, jnp.ones(1))
    policy, theta = tabular.softmax_policy(1, 3)
    batch = tabular.sampled_batch(bandit, policy, theta, key, 16, noise=1.0)
    step = kltrust.vanilla_pg(learning_rate=size)
    new = step.update(policy, theta, step.init(theta), batch, key)[0]
    before, after = (tabular.probabilities(policy, p, 1) for p in (theta, new))
    return tabular.performance_difference(bandit, before, after)


own = functools.partial(change, groups=jnp.arange(STATES), num_groups=STATES)
shared = functools.partial(change, groups=jnp.arange(STATES) % 2, num_groups=2)
keys = jax.random.split(jax.random.key(0), 400)
hurt = {
    name: jnp.mean(jax.jit(jax.vmap(jax.vmap(f, (None, 0)), (0, None)))(keys, sizes) < -1e-9, 0)
    for name, f in {
        "own parameters, exact": own,
        "shared parameters, exact": shared,
        "16 pulls of a bandit": pull,
    }.items()
}
assert not hurt["own parameters, exact"].any()
assert hurt["shared parameters, exact"].max() > 0.02
assert 0.03 < jnp.interp(1.0, sizes, hurt["16 pulls of a bandit"]) < 0.12


def gaussian(mean, obs):
    return distrax.Independent(distrax.Normal(mean + 0 * obs, 1.0 + 0 * obs), 1)


def descend(update, iterations=16):
    """Updates on the Gaussian bandit with the reward -(a - 2)^2: the mean after each."""

    def step(mean, key):
        obs = jnp.zeros((4096, 1))
        old = gaussian(mean, obs)
        action = old.sample(seed=key)
        reward = -jnp.square(action[:, 0] - 2)
        batch = kltrust.PolicyBatch(obs, action, reward - reward.mean(), old)
        new = update.update(gaussian, mean, update.init(mean), batch, key)[0]
        return new, mean[0]

    return jax.lax.scan(step, jnp.zeros(1), jax.random.split(jax.random.key(2), iterations))[1]


paths = {
    f"gradient, step {size}": descend(kltrust.vanilla_pg(learning_rate=size)) for size in (0.9, 1.1)
}
paths["TRPO, max_kl 0.05"] = descend(kltrust.trpo(max_kl=0.05))
assert abs(paths["gradient, step 0.9"][-1] - 2) < 0.5 < 2 < abs(paths["gradient, step 1.1"][-1] - 2)
assert abs(paths["TRPO, max_kl 0.05"][-1] - 2) < 0.5

figure, axes = plt.subplots(1, 2)
for name, share in hurt.items():
    axes[0].plot(sizes, 100 * share, label=name)
axes[0].set(xscale="log", xlabel="step size", title="% of gradient steps that lower the return")
axes[0].legend()
for (name, path), marker in zip(paths.items(), "os^", strict=True):
    axes[1].plot(path, marker=marker, ms=4, label=name)
axes[1].axhline(2, color="black", lw=0.8)
axes[1].set(
    xlabel="update", ylabel="mean of the policy", ylim=(-13, 13), title="Gaussian bandit, optimum 2"
)
axes[1].legend(loc="lower left")
plt.show()

# %% [markdown]
# The same on CartPole, with networks: the plain policy gradient, with a step that is too large,
# against TRPO, on the same seeds. `kltrust` measures the exact KL(old || new) of every update,
# whoever made it: the falls come with the large ones.

# %%
with jax.enable_x64(False):
    env = kltrust.make("CartPole-v1")
    agent = kltrust.actor_critic(env)
    critic = kltrust.value_regression(num_epochs=2, num_minibatches=8)

    def train(update, key, iterations=30):
        learner = kltrust.make_learner(
            env, agent, update, num_envs=16, num_steps=128, critic=critic
        )

        def iterate(state, key):
            state, metrics = learner.step(state)
            fresh = kltrust.evaluate(env, agent, state, key, 8, deterministic=False, max_steps=200)
            return state, (fresh.mean(), metrics.kl)

        init_key, eval_key = jax.random.split(key)
        keys = jax.random.split(eval_key, iterations)
        return jax.lax.scan(iterate, learner.init(init_key), keys)[1]

    seeds = jax.random.split(jax.random.key(0), 3)
    runs = {
        name: jax.jit(jax.vmap(functools.partial(train, update)))(seeds)
        for name, update in {
            "vanilla_pg, learning_rate 8": kltrust.vanilla_pg(learning_rate=8.0),
            "trpo, max_kl 0.01": kltrust.trpo(max_kl=0.01),
        }.items()
    }

figure, axes = plt.subplots(2, 2, figsize=(9.5, 4.6), sharex=True, sharey="row")
for column, (name, (score, kl)), color in zip(axes.T, runs.items(), (VERMILION, BLUE), strict=True):
    for seed, style in enumerate(("-", "--", ":")):
        column[0].plot(score[seed], color=color, ls=style, lw=1.2)
        column[1].plot(kl[seed], color=color, ls=style, lw=1.2)
    column[1].axhline(0.01, color="black", ls=":", lw=1)
    column[0].set_title(name)
    column[1].set(yscale="log", xlabel="update")
axes[0, 0].set_ylabel("return, at most 200")
axes[1, 0].set_ylabel("KL(old || new), nats")
plt.show()
peak = np.maximum.accumulate(runs["vanilla_pg, learning_rate 8"][0], axis=1)
falls = (runs["vanilla_pg, learning_rate 8"][0] < peak / 2).any(1)
assert falls.sum() >= 2
assert runs["trpo, max_kl 0.01"][1].max() <= 0.01 * (1 + 1e-5)

# %% [markdown]
# ## A ball in behaviour
#
# Every point of the triangle is a policy over three actions. Left: the policies within
# $\delta=0.1$ nats of three old ones, in both directions, and within the Fisher-Rao distance
# $2\arccos\sum_a\sqrt{p(a)\,q(a)}\le\sqrt{2\delta}$, which both approach as $\delta\to0$. Near the
# edge they part: KL(old || new) keeps away from it, since it is infinite there; the others reach
# it. Middle: the same logit step in all directions is a large or a small change of behaviour,
# depending on where one stands. Right: the step that improves $\mathbb E_\text{new}[A]$ most,
# $A=(1, 0, -1)$, within KL(old || new) $\le0.05$ (`tabular.forward_kl_step`), against one gradient
# step in the logits.

# %%
CORNERS = jnp.array([[0.5, 0.75**0.5], [0.0, 0.0], [1.0, 0.0]])  # where actions 0, 1, 2 are certain
delta, max_kl, advantage = 0.1, 0.05, jnp.array([1.0, 0.0, -1.0])
triples = jnp.array([[1 / 3, 1 / 3, 1 / 3], [0.06, 0.84, 0.1], [0.03, 0.27, 0.7]])
u, v = jnp.meshgrid(jnp.linspace(1e-4, 1 - 2e-4, 400), jnp.linspace(1e-4, 1 - 2e-4, 400))
inside = jnp.stack([u, (1 - u) * v, (1 - u) * (1 - v)], -1)  # a grid of policies
xy = inside @ CORNERS
balls = {
    "KL(old || new)": lambda p, q: kltrust.categorical_kl(p, q) / delta,
    "KL(new || old)": lambda p, q: kltrust.categorical_kl(q, p) / delta,
    "Fisher-Rao": lambda p, q: (
        (2 * jnp.arccos(jnp.clip(jnp.sum(jnp.sqrt(p * q), -1), -1, 1))) ** 2 / (2 * delta)
    ),
}
figure, axes = plt.subplots(1, 3, figsize=(11, 3.9))
for ax in axes:
    ax.fill(*CORNERS.T, facecolor="none", edgecolor=GREY, lw=1)
    ax.set_aspect("equal")
    ax.axis("off")
    ax.set(xlim=(-0.08, 1.08), ylim=(-0.1, 0.97))
    for corner, name, shift in zip(CORNERS, "012", ((0, 8), (-8, -8), (8, -8)), strict=True):
        ax.annotate(
            f"action {name}", corner, shift, textcoords="offset points", ha="center", va="center"
        )
for (name, ball), color, style in zip(
    balls.items(), (BLUE, VERMILION, "black"), ("-", "--", ":"), strict=True
):
    for old in triples:
        level = ball(jnp.broadcast_to(old, inside.shape), inside)
        axes[0].contour(*jnp.moveaxis(xy, -1, 0), level, levels=[1], colors=color, linestyles=style)
    axes[0].plot([], [], color=color, ls=style, label=name)
angle = jnp.linspace(0, 2 * jnp.pi, 200)
plane = jnp.array([[1, -1, 0], [1, 1, -2]]) / jnp.sqrt(jnp.array([[2.0], [6.0]]))  # logits sum to 0
circle = 0.6 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1) @ plane
for old in triples:
    axes[1].plot(*(jax.nn.softmax(jnp.log(old) + circle) @ CORNERS).T, color=VERMILION, ls="-")
starts = jnp.array([[i, j, 6 - i - j] for i in range(1, 5) for j in range(1, 6 - i)]) / 6
trusted = tabular.forward_kl_step(starts, jnp.broadcast_to(advantage, starts.shape), max_kl)[0]
assert jnp.allclose(kltrust.categorical_kl(starts, trusted), max_kl, rtol=1e-6)
logit_gradient = jax.vmap(jax.grad(lambda x: jax.nn.softmax(x) @ advantage))(jnp.log(starts))
plain = jax.nn.softmax(jnp.log(starts) + 2.0 * logit_gradient)
for new, color, width in ((trusted, BLUE, 0.014), (plain, VERMILION, 0.006)):
    axes[2].quiver(
        *(starts @ CORNERS).T, *((new - starts) @ CORNERS).T, color=color, width=width, angles="xy",
        scale_units="xy", scale=1, headwidth=3.2, headlength=3.5, headaxislength=3,
    )  # fmt: skip
for old in triples:
    for ax in axes[:2]:
        ax.plot(*(old @ CORNERS), "o", color="black", ms=3)
edge = jnp.array([0.0, 0.27, 0.7]) / 0.97  # the third policy without its rarest action
assert [float(ball(triples[2], edge)) < 1 for ball in balls.values()] == [False, True, True]
axes[0].set_title(f"within {delta} nats")
axes[0].legend(loc="upper right", bbox_to_anchor=(1.1, 1.0))
axes[1].set_title("within 0.6 in the logits")
axes[2].set_title("wide: KL(old || new) = 0.05; narrow: gradient")
plt.show()
plain_kl = kltrust.categorical_kl(starts, plain)
assert plain_kl.max() > 10 * plain_kl.min()
print(f"KL of the gradient steps: {plain_kl.min():.4f} to {plain_kl.max():.4f} nats")

# %% [markdown]
# Near an edge the gradient vanishes with the probabilities and the plain step hardly moves,
# elsewhere it goes far: more than ten times as far in KL. A bound on the KL asks for the same
# change of behaviour everywhere.
#
# ## What the guarantee is worth
#
# TRPO's theorem (eq. 9 of Schulman et al., 2015):
# $J(\text{new})\ge L(\text{new})-C\max_s\mathrm{KL}$ with $C=4\epsilon\gamma/(1-\gamma)^2$,
# $\epsilon=\max|A|$; by Pinsker's inequality $C/2$ will do. CPO's (Achiam et al., 2017) has the
# mean total variation in its place. The practical constraint, *mean* KL $\le\delta$,
# guarantees only
# $J(\text{new})-J(\text{old})\ge-\sqrt{2\delta}\,\gamma\,\epsilon_\text{new}/(1-\gamma)^2$. TRPO
# steps of many sizes, on the exact batch of the MDP above, against all of these:

# %%
batch = tabular.exact_batch(mdp, policy, theta)
old = tabular.probabilities(policy, theta, STATES)


@jax.jit
@jax.vmap
def certified(max_kl):
    update = kltrust.trpo(max_kl=max_kl, damping=0.0, cg_iters=20)
    new = update.update(policy, theta, update.init(theta), batch, jax.random.key(0))[0]
    return tabular.certificate(mdp, old, tabular.probabilities(policy, new, STATES))


bounds = certified(jnp.logspace(-7, -0.5, 60))
figure, axes = plt.subplots(1, 2)
for name, values in {
    "TRPO's theorem": bounds.trpo_kl,
    "with Pinsker": bounds.trpo_pinsker,
    "CPO's theorem": bounds.cpo,
    "the truth, |J - L|": abs(bounds.gap),
}.items():
    axes[0].loglog(bounds.kl_mean, values, label=name)
    assert (values >= abs(bounds.gap)).all()
axes[0].set(xlabel="mean KL of the step, nats", title="how far J may be from L")
axes[0].legend()
for name, values in {
    "J(new) - J(old)": bounds.improvement,
    "L(new) - J(old)": bounds.surrogate_gain,
    "the best certificate": bounds.certified,
    "practical guarantee": bounds.practical,
}.items():
    axes[1].semilogx(bounds.kl_mean, values, label=name)
    assert (values <= bounds.improvement + 1e-9).all() or name.startswith("L")
axes[1].set(
    xlabel="mean KL of the step, nats", ylim=(-1, 1), title="improvement, and what is proven"
)
axes[1].legend()
plt.show()
certifiable = float(bounds.kl_mean[bounds.certified > 0].max())
assert certifiable < 0.01 / 20
theory = tabular.penalised_step(mdp, old, groups=jnp.arange(STATES) % 3)
pd.Series(
    {
        "largest KL with a certified improvement": float(
            bounds.kl_mean[bounds.certified > 0].max()
        ),
        "max KL of the algorithm with a proof": float(theory.kl_max),
        "practical guarantee at 0.01 nats and gamma 0.99": float(
            tabular.practical_guarantee(0.01, 0.99, 1.0)
        ),
    }
).to_frame("")

# %% [markdown]
# The theorems hold, and are orders of magnitude from the truth: the steps that they certify are
# far below the 0.01 nats that TRPO takes in practice, even at $\gamma=0.9$, and what the practical
# constraint guarantees there at $\gamma=0.99$ is a loss of no more than 1,400
# $\epsilon_\text{new}$. A trust region bounds the change of behaviour; it proves no progress.
#
# Next: [TRPO, part by part](03_trpo_part_by_part.ipynb).
