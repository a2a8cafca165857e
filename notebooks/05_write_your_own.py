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
# # Write your own algorithm
#
# An algorithm is a `PolicyUpdate`: two pure functions.
#
# ```
# init(params) -> state
# update(policy, params, state, batch, key) -> (params, state, extra)
# ```
#
# `batch` is all that it may look at: `obs`, `action`, `advantage`, and `old`, the behaviour
# policy's *distribution* at every state, from which ratio, exact KL and Fisher matrix come. It
# sees no environment, no critic and no clock, and it does not grade itself: the learner measures
# every algorithm alike.
#
# The idea to be tried here: PPO is cheap but bounds nothing, TRPO bounds the KL but needs second
# order. So take PPO's step, then **put it on a leash**: shorten the whole step until the exact
# mean KL is within the bound and the surrogate has improved, TRPO's line search. That is the cell
# below.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import kltrust
from kltrust import tabular, tree
from kltrust.audit import log_ratio, mean_kl
from kltrust.experiments.config import registry, spec
from kltrust.experiments.reading.plots import BLUE, VERMILION

plt.style.use("house.mplstyle")


def ppo_leashed(
    *,
    max_kl: float = 0.01,
    learning_rate: float = 3e-3,
    num_epochs: int = 5,
    num_minibatches: int = 8,
) -> kltrust.PolicyUpdate:
    """PPO-clip's step, shortened until mean KL(old || new) <= max_kl and the surrogate improved."""
    ppo = kltrust.ppo_clip(
        learning_rate=learning_rate, num_epochs=num_epochs, num_minibatches=num_minibatches
    )

    def update(policy, params, state, batch, key):
        proposal, state, extra = ppo.update(policy, params, state, batch, key)
        step = tree.add_scaled(proposal, -1.0, params)

        def acceptable(candidate):
            ratio = log_ratio(policy(candidate, batch.obs), batch)
            loss = kltrust.surrogate_loss(ratio, batch.advantage)
            gain = -kltrust.weighted_mean(loss + batch.advantage, batch.weight)
            kl = mean_kl(policy, candidate, batch)
            return (kl <= max_kl) & (gain > 0), kl

        found = kltrust.backtracking_line_search(acceptable, params, step, max_backtracks=20)
        report = {"max_kl": jnp.float32(max_kl), "backtracks": found.num_backtracks}
        return found.params, state, {**extra, **report}

    return kltrust.PolicyUpdate(ppo.init, update)


# %% [markdown]
# ## The audit
#
# Before any training: one update on one batch, beside the built-in algorithms, by `audit_update`.
# The batch is of a random MDP with linear features, so that states share parameters. The `kl`
# columns say how far an update went, on average and at its worst state; `killed`, what a clip of
# 0.2 would have silenced; `gain`, the mean of $(r-1)A$, what was had for it.

# %%
STATES, ACTIONS = 60, 4
mdp_key, feature_key, batch_key = jax.random.split(jax.random.key(0), 3)
mdp = tabular.garnet(mdp_key, STATES, ACTIONS, branching=4, gamma=0.95)
policy, theta = tabular.linear_policy(jax.random.normal(feature_key, (STATES, ACTIONS, 64)) / 8)
value = tabular.solve(mdp, tabular.probabilities(policy, theta, STATES)).value
batch = tabular.rollout_batch(
    mdp, policy, theta, batch_key, num_envs=16, num_steps=32, lam=0.95, value=value
)
batch = batch._replace(advantage=kltrust.standardize(batch.advantage))

adam = {"learning_rate": 0.03, "num_epochs": 5, "num_minibatches": 8}
contenders = {
    "vanilla_pg": kltrust.vanilla_pg(learning_rate=20.0),
    "npg": kltrust.npg(target_kl=0.01, damping=1e-3),
    "trpo": kltrust.trpo(max_kl=0.01, damping=1e-3),
    "ppo_clip": kltrust.ppo_clip(**adam),
    "ppo_penalty": kltrust.ppo_penalty(**adam),
    "ppo_leashed": ppo_leashed(max_kl=0.01, **adam),
}


audit = jax.jit(kltrust.audit_update, static_argnums=0)


def audited(update):
    step = jax.jit(lambda state: update.update(policy, theta, state, batch, jax.random.key(1))[0])
    found = audit(policy, theta, step(update.init(theta)), batch)
    return {
        "kl": found.kl.mean,
        "kl, 95 %": found.kl.quantiles["q95"],
        "kl, largest": found.kl.max,
        "kl reversed": found.kl_reverse.mean,
        "total variation": found.tv.mean,
        "largest ratio": found.ratio.max,
        "killed": found.killed,
        "gain": found.surrogate_gain,
    }


table = pd.DataFrame({name: audited(update) for name, update in contenders.items()})
table = table.T.astype(float)
assert table.loc[["trpo", "ppo_leashed"], "kl"].max() <= 0.01
assert table.loc["ppo_clip", "kl"] > 0.01
assert (table["gain"] > 0).all()
table.round(4)

# %% [markdown]
# The leash holds. A contract worth testing before anything is believed: the bound for *every*
# setting and batch, one compilation for all of them, and no step at all where nothing can be
# gained.


# %%
def one(max_kl, key):
    """An update on a batch of its own."""
    own = batch._replace(advantage=jax.random.normal(key, batch.advantage.shape))
    update = ppo_leashed(max_kl=max_kl, **adam)
    new, _, extra = update.update(policy, theta, update.init(theta), own, key)
    return mean_kl(policy, new, own), extra["backtracks"]


bounds = jnp.logspace(-5, -0.5, 10)
keys = jax.random.split(jax.random.key(2), 20)
kl, backtracks = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(bounds, keys)
assert (kl <= bounds[:, None]).all()
assert (kl[3:] > 0).all()

nothing = batch._replace(advantage=jnp.zeros_like(batch.advantage))
update = ppo_leashed()
stayed, _, _ = update.update(policy, theta, update.init(theta), nothing, keys[0])
assert jnp.array_equal(stayed, theta)

figure, ax = plt.subplots(figsize=(5, 3.2))
ax.loglog(bounds, kl, "o", color=BLUE, ms=3, alpha=0.6)
ax.loglog(bounds, bounds, color="black", ls=":", lw=1)
ax.set(
    xlabel="max_kl (dotted: the bound)", ylabel="realised KL, 20 batches each", title="ppo_leashed"
)
plt.show()

# %% [markdown]
# Where the bound is beyond what PPO's own step comes to, nothing is shortened.
#
# ## The sweep
#
# `register_algorithm` makes it known by name; its float settings are traced, so that all of them
# share a compilation. (On the command line: the same call in a module, and
# `kltrust sweep SPEC.toml --import MODULE`.) Three algorithms, three settings, three seeds:

# %%
registry.register_algorithm("ppo_leashed", ppo_leashed)

SPEC = """
[sweep]
name = "leash"
seeds = 3
envs = ["CartPole-v1"]
preset = "none"

[network]
hidden = [16, 16]

[learner]
num_envs = 8
num_steps = 128
value_epochs = 2
value_minibatches = 8

[budget]
total_steps = 25_600
num_evals = 2
eval_episodes = 6

[[experiments]]
algorithms = ["trpo", "ppo_leashed"]
grid.max_kl = [0.003, 0.01, 0.03]

[[experiments]]
algorithms = "ppo_clip"
update.learning_rate = 3e-3
update.num_epochs = 5
update.num_minibatches = 8
grid.clip_eps = [0.1, 0.2, 0.3]
"""
with tempfile.TemporaryDirectory() as folder:
    results = kltrust.sweep(spec.parse(SPEC), Path(folder) / "leash")

by_label = results.runs.groupby("label", sort=False)
kl = results.metrics.merge(results.runs[["run", "label"]]).groupby("label", sort=False).kl
summary = pd.DataFrame(
    {
        "mean score": by_label.score.mean(),
        "worst score": by_label.score.min(),
        "median KL": kl.median(),
        "largest KL": kl.max(),
    }
)
for label in summary.index[summary.index.str.contains("max_kl")]:
    assert summary.loc[label, "largest KL"] <= float(label.split("=")[1]) * (1 + 1e-5)
summary.round(4)

# %% [markdown]
# Scores of three seeds and 26,000 steps decide nothing; the picture says what to look at in a
# larger sweep: the score against the KL that was *spent* on it, and who kept to what was promised.

# %%
figure, axes = plt.subplots(1, 2)
algorithm = summary.index.str.split(" ").str[0]
for name, marker, color in (
    ("trpo", "o", BLUE), ("ppo_leashed", "D", "black"), ("ppo_clip", "s", VERMILION)
):  # fmt: skip
    rows = summary[algorithm == name]
    axes[0].semilogx(rows["median KL"], rows["mean score"], marker, color=color, ms=7, label=name)
    axes[1].semilogy(
        np.arange(3), rows["largest KL"], marker, color=color, ls="-", ms=7, label=name
    )
for i, bound in enumerate((0.003, 0.01, 0.03)):
    axes[1].plot([i - 0.3, i + 0.3], [bound, bound], color="black", ls=":", lw=1.5)
axes[0].set(xlabel="median KL of an update, nats", ylabel="score", title="score against KL spent")
axes[0].set_xticks([0.002, 0.005, 0.01, 0.02], ["0.002", "0.005", "0.01", "0.02"])
axes[0].legend()
axes[1].set_yticks([0.003, 0.01, 0.03, 0.1], ["0.003", "0.01", "0.03", "0.1"])
for ax in axes:
    ax.minorticks_off()
axes[1].set(title="largest KL of any update (dotted: max_kl)", ylabel="nats")
axes[1].set_xticks(range(3), ["0.003\nclip 0.1", "0.01\nclip 0.2", "0.03\nclip 0.3"])
plt.show()

# %% [markdown]
# Next: [a sweep and its report](06_a_sweep_and_its_report.ipynb).
