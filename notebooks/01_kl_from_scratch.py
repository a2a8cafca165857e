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
# # KL from scratch
#
# $$\mathrm{KL}(P\,\|\,Q)=\mathbb{E}_{a\sim P}\big[\log P(a)-\log Q(a)\big]
# =\underbrace{\mathbb{E}_P[-\log Q]}_{\text{cross-entropy } H(P,Q)}-
# \underbrace{\mathbb{E}_P[-\log P]}_{\text{entropy } H(P)}\;\ge\;0$$
#
# $-\log Q(a)$ is the surprise at $a$ of someone who believes $Q$. The divergence is how much more
# surprised they are, on average, than someone who knows that the actions come from $P$. It is 0
# only for $P=Q$, and its unit is the *nat* (1 nat = 1.44 bits).
#
# For a policy update, $P$ is the old policy and $Q$ the new one: both trust-region papers bound or
# penalise $\mathrm{KL}(\text{old}\,\|\,\text{new})$, state by state, averaged over states.

# %%
import distrax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import kltrust
from kltrust.experiments.reading.plots import BLUE, GREY, VERMILION

plt.style.use("house.mplstyle")
jax.config.update("jax_enable_x64", True)

fair = jnp.full(6, 1 / 6)
loaded = jnp.array([0.1, 0.1, 0.1, 0.1, 0.1, 0.5])
no_six = jnp.array([0.2, 0.2, 0.2, 0.2, 0.2, 0.0])
pairs = {
    ("fair", "fair"): (fair, fair),
    ("fair", "loaded"): (fair, loaded),
    ("loaded", "fair"): (loaded, fair),
    ("no six", "fair"): (no_six, fair),  # 0 log 0 = 0
    ("fair", "no six"): (fair, no_six),  # a six is infinitely surprising
}
table = pd.DataFrame(
    {
        "H(P, Q)": [float(kltrust.cross_entropy(p, q)) for p, q in pairs.values()],
        "H(P)": [float(kltrust.entropy(p)) for p, _ in pairs.values()],
        "KL(P || Q)": [float(kltrust.categorical_kl(p, q)) for p, q in pairs.values()],
        "TV": [float(kltrust.total_variation(p, q)) for p, q in pairs.values()],
    },
    index=pd.MultiIndex.from_tuples(pairs, names=["P", "Q"]),
)
assert np.allclose(table["H(P, Q)"] - table["H(P)"], table["KL(P || Q)"])
assert (table["TV"] <= np.sqrt(table["KL(P || Q)"] / 2)).all()  # Pinsker's inequality
table.round(4)

# %% [markdown]
# Two things to see in the table. The divergence is **not symmetric**: fair to loaded is not loaded
# to fair. And it is **infinite where $Q$ rules out what $P$ does**, which is why a policy under a
# KL(old || new) constraint keeps every action that it had.
#
# For densities the sum is an integral. `quadrature_kl` does it numerically for any two of them,
# `kl_divergence` in closed form for the families that policies use. The picture is the integrand
# $p\,\log(p/q)$: where $p>q$ it is positive, elsewhere negative, and the divergence is what is
# left.

# %%
p, q = distrax.Normal(0.0, 1.0), distrax.Normal(1.0, 1.6)
x = jnp.linspace(-5, 6, 400)
figure, axes = plt.subplots(1, 3, gridspec_kw={"width_ratios": [1, 1, 1]})
axes[0].plot(x, p.prob(x), label="p")
axes[0].plot(x, q.prob(x), label="q")
axes[0].set(title="two densities", xlabel="a")
axes[0].legend()
for ax, first, second, name in ((axes[1], p, q, "KL(p || q)"), (axes[2], q, p, "KL(q || p)")):
    integrand = first.prob(x) * (first.log_prob(x) - second.log_prob(x))
    numeric = kltrust.quadrature_kl(first.log_prob, second.log_prob, -20.0, 20.0, 801)
    exact = kltrust.kl_divergence(first, second)
    assert jnp.isclose(numeric, exact, rtol=1e-9)
    ax.fill_between(
        x, integrand, where=integrand > 0, color=BLUE, alpha=0.5, lw=0, label="positive part"
    )
    ax.fill_between(
        x,
        integrand,
        where=integrand < 0,
        facecolor="none",
        edgecolor=VERMILION,
        hatch="///",
        label="negative part",
    )
    ax.axhline(0, color="black", lw=0.8)
    ax.set(title=f"integrand of {name}: {exact:.3f} nats", xlabel="a", ylim=(-0.2, 0.6))
    ax.legend()
plt.show()

# %% [markdown]
# ## Asymmetry: covering or seeking
#
# Fit one Gaussian $q$ to a mixture $p$ of two. Minimising $\mathrm{KL}(p\,\|\,q)$ asks $q$ to be
# nowhere surprised by $p$: it **covers the mass**, and its mean and variance are those of $p$.
# Minimising $\mathrm{KL}(q\,\|\,p)$ asks $q$ never to be where $p$ is not: it **seeks a mode** and
# ignores the rest. Both landscapes over mean and deviation of $q$, by quadrature, with their
# minima:

# %%
mixture = distrax.MixtureSameFamily(
    distrax.Categorical(probs=jnp.array([0.65, 0.35])),
    distrax.Normal(jnp.array([-2.0, 2.5]), jnp.array([0.7, 0.9])),
)
means, stds = jnp.linspace(-4, 4, 65), jnp.linspace(0.4, 4, 61)


@jax.jit
@jax.vmap
def both_directions(mean_std):
    q = distrax.Normal(*mean_std)
    quadrature = (-25.0, 25.0, 601)
    return (
        kltrust.quadrature_kl(mixture.log_prob, q.log_prob, *quadrature),
        kltrust.quadrature_kl(q.log_prob, mixture.log_prob, *quadrature),
    )


grid = jnp.stack(jnp.meshgrid(means, stds), -1).reshape(-1, 2)
figure, axes = plt.subplots(1, 3, gridspec_kw={"width_ratios": [1.3, 1, 1]})
x = jnp.linspace(-6, 7, 400)
axes[0].fill_between(x, mixture.prob(x), color=GREY, alpha=0.35, lw=0, label="mixture p")
names = ("min KL(p || q): covers the mass", "min KL(q || p): seeks a mode")
fits = {}
for name, ax, values, color, style in zip(
    names, axes[1:], both_directions(grid), (BLUE, VERMILION), ("-", "--"), strict=True
):
    fits[name] = mean, std = grid[jnp.argmin(values)]
    axes[0].plot(x, distrax.Normal(mean, std).prob(x), color=color, ls=style, label=name)
    shown = values.reshape(len(stds), len(means))
    contours = ax.contour(
        means, stds, shown, levels=[0.5, 0.6, 0.8, 1.1, 1.6, 3.2, 6.4], colors=GREY
    )
    ax.clabel(contours, fontsize=7)
    ax.plot(mean, std, "*", color=color, ms=13)
    ax.set(title=name[4:14] + ", nats", xlabel="mean of q", ylabel="deviation of q")
axes[0].set(xlabel="a", ylim=(0, 0.9))
axes[0].legend(loc="upper right")
plt.show()

moments = mixture.mean(), jnp.sqrt(mixture.variance())
assert np.allclose(fits[names[0]], moments, atol=0.1)  # up to the grid
assert np.allclose(fits[names[1]], (-2.0, 0.7), atol=0.1)

# %% [markdown]
# ## Distance in behaviour, distance in parameters
#
# A step size measures parameters; the divergence measures what they do. The same shift of a mean
# is nothing to a wide Gaussian and everything to a narrow one: KL = $\Delta^2/2\sigma^2$. The same
# step in logits moves an undecided policy and hardly touches a decided one. Near $\theta$, with
# $F$ the Fisher matrix,
#
# $$\mathrm{KL}(\theta\,\|\,\theta+\delta)=\tfrac12\,\delta^\top F\,\delta+O(|\delta|^3),$$
#
# so that $F$ is the ruler of behaviour (notebook 3 is about it).

# %%
narrow, wide = (
    [distrax.Normal(m, s) for m in (0.0, 0.5)] for s in (0.2, 1.5)
)  # in both pairs the parameters are 0.5 apart
figure, axes = plt.subplots(1, 3)
x = jnp.linspace(-3, 3.5, 400)
for (old, new), color in ((wide, BLUE), (narrow, VERMILION)):
    kl = kltrust.kl_divergence(old, new)
    assert jnp.isclose(kl, 0.5**2 / (2 * old.scale**2))
    axes[0].plot(x, old.prob(x), color=color, ls="-", label=f"KL {kl:.3f} nats")
    axes[0].plot(x, new.prob(x), color=color, ls=":")
axes[0].set(title="the same shift of the mean, 0.5", xlabel="a", ylim=(0, 2.6))
axes[0].legend()


def policy(logit, obs):
    return distrax.Bernoulli(logits=logit + 0 * obs)


logits, steps, obs = jnp.linspace(-6, 6, 121), jnp.linspace(-4, 4, 161), jnp.zeros(1)
one_up = kltrust.kl_divergence(policy(logits, 0), policy(logits + 1, 0))
axes[1].plot(logits, one_up, color=BLUE)
axes[1].set(title="the same step of a logit, 1", xlabel="logit before", ylabel="KL, nats")
exact = kltrust.kl_divergence(policy(1.0 + 0 * steps, 0), policy(1.0 + steps, 0))
form = jax.vmap(lambda v: kltrust.fisher_quadratic_form(policy, jnp.array(1.0), obs, v))(steps)
axes[2].plot(steps, exact, label="KL(old || new)")
axes[2].plot(steps, form / 2, label=r"$\frac{1}{2}\,\delta^\top F\,\delta$")
axes[2].set(title="the quadratic model, logit 1", xlabel=r"step $\delta$", ylabel="KL, nats")
axes[2].legend()
plt.show()
small = jnp.abs(steps) < 0.2
assert jnp.allclose(form[small] / 2, exact[small], rtol=0.1, atol=1e-12)
assert one_up.max() > 30 * one_up[-1]

# %% [markdown]
# ## Estimating it from samples
#
# With actions $a\sim$ old and $r=\text{new}(a)/\text{old}(a)$, three estimators are in use
# (Schulman, 2020):
#
# | | formula | value | |
# | --- | --- | --- | --- |
# | k1 | $-\log r$ | unbiased | negative for about half of the samples |
# | k2 | $\tfrac12(\log r)^2$ | biased | never negative |
# | k3 | $r-1-\log r$ | unbiased | never negative, precise near old |
#
# For old $=\mathcal N(0,1)$, new $=\mathcal N(\mu,1)$, KL $=\mu^2/2$ and all moments are known;
# the markers are 200,000 samples, the lines theory. Near old k3 is as precise as the biased k2 and
# many times as precise as k1; far from old its variance grows like $e^{\mu^2}$ and k1 overtakes
# it. kltrust takes the exact KL wherever the distribution has one: it is known at every state.

# %%
mu = jnp.array([0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 1.8])
action = jax.random.normal(jax.random.key(1), (200_000, 1))
log_ratio = distrax.Normal(mu, 1.0).log_prob(action) - distrax.Normal(0.0, 1.0).log_prob(action)
kl = mu**2 / 2
fine = jnp.linspace(0.08, 1.9, 200)
theory_std = {
    "k1": 2 / fine,
    "k2": jnp.sqrt(2 + fine**2),
    "k3": 2 * jnp.sqrt(jnp.exp(fine**2) - 1 - fine**2) / fine**2,
}
theory_bias = {"k1": 0 * fine, "k2": fine**2 / 4, "k3": 0 * fine}
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.2))
for name, marker in (("k1", "o"), ("k2", "s"), ("k3", "^")):
    sample = getattr(kltrust, f"kl_{name}")(log_ratio)
    bias, std = (sample.mean(0) - kl) / kl, sample.std(0) / kl
    for ax, seen, theory in ((axes[0], bias, theory_bias), (axes[1], std, theory_std)):
        (line,) = ax.plot(fine, theory[name], label=name)
        ax.plot(mu, seen, marker, color=line.get_color(), ms=5)
    expected = jnp.interp(mu, fine, theory_bias[name])
    assert jnp.all(jnp.abs(bias - expected) < 5 * std / jnp.sqrt(len(action)) + 1e-3)
axes[0].set(title="bias / KL", xlabel=r"$\mu$")
axes[1].set(title="standard deviation of one sample / KL", xlabel=r"$\mu$", yscale="log")
axes[1].legend()
plt.show()
assert theory_std["k3"][0] < theory_std["k1"][0] / 10
assert theory_std["k3"][-1] > 2 * theory_std["k1"][-1]

# %% [markdown]
# ## An estimator's gradient is another matter
#
# A formula that estimates a divergence need not have its gradient. Two settings, exactly, on five
# actions (sums instead of samples), the gradient taken in the logits of the policy that is
# trained:
#
# - **A**: samples from the fixed old policy, new is trained: TRPO, PPO, and this library's
#   signature.
# - **B**: samples from the trained policy $\pi$, $\log r=\log\text{ref}-\log\pi$: language models.
#
# Each entry is the cosine between the estimator's expected gradient, as a loss term, and that of
# the divergence in either direction; 1 is right, 0 is no signal at all.

# %%
keys = jax.random.split(jax.random.key(3))
fixed, theta = (jax.random.normal(key, (5,)) for key in keys)
log_fixed = jax.nn.log_softmax(fixed)


def expected(estimator, trained, sampler):
    """The estimator's mean over actions from a sampler that is not differentiated."""
    log_ratio = jax.nn.log_softmax(trained) - log_fixed
    log_ratio = log_ratio if sampler is fixed else -log_ratio
    return jnp.sum(jax.lax.stop_gradient(jax.nn.softmax(sampler)) * estimator(log_ratio))


def cosine(x, y):
    size = jnp.linalg.norm(x)
    return float(jnp.where(size > 1e-12, x @ y / (size * jnp.linalg.norm(y)), 0))


trained = "KL(fixed || trained)", "KL(trained || fixed)"
truth = [
    jax.grad(lambda t: kltrust.categorical_kl_from_logits(fixed, t))(theta),
    jax.grad(lambda t: kltrust.categorical_kl_from_logits(t, fixed))(theta),
]
rows = {}
for setting, sampler in (("A: a ~ fixed", fixed), ("B: a ~ trained", theta)):
    for name in ("k1", "k2", "k3"):
        estimator = getattr(kltrust, f"kl_{name}")
        gradient = jax.grad(expected, argnums=1)(estimator, theta, sampler)
        rows[setting, name] = [cosine(gradient, g) for g in truth]
cosines = pd.DataFrame(rows, index=trained).T
assert np.allclose(cosines.loc["A: a ~ fixed"].loc[["k1", "k3"], trained[0]], 1)
assert cosines.loc[("A: a ~ fixed", "k2")].max() < 0.999
assert np.allclose(cosines.loc[("B: a ~ trained", "k1")], 0)  # pure noise
assert np.allclose(cosines.loc[("B: a ~ trained", "k2"), trained[1]], 1)
assert np.allclose(cosines.loc[("B: a ~ trained", "k3"), trained[0]], 1)  # the other direction
cosines.round(3)

# %% [markdown]
# In A, k1 and k3 have the gradient of KL(old || new), at any new policy; k2 has that of no
# divergence away from old. In B, k1 as a loss term has the gradient 0, k2 the right one, and k3
# that of the *other* direction. `help(kltrust.kl_k3)` states both settings for each estimator.
#
# Next: [why a trust region](02_why_a_trust_region.ipynb).
