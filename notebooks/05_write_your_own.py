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
# An algorithm is a declaration: a class of settings with two pure functions.
#
# ```
# init(params) -> state
# update(policy, params, state, batch, key) -> (params, state, report)
# ```
#
# `batch` is all that it may look at: `obs`, `action`, `advantage`, and `old`, the behaviour
# policy's *distribution* at every state, from which ratio, exact KL and Fisher matrix come. It
# sees no environment, no critic and no clock, and it does not grade itself: the learner measures
# every algorithm alike.
#
# `kltrust.updates` holds the parts that the library's own algorithms are made of. The next cell
# builds PPO from them: a log ratio, a loss, epochs of minibatches, an optimiser.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import kltrust
from kltrust import setting, tabular, tree, updates
from kltrust.experiments.reading.plots import BLUE, VERMILION

plt.style.use("house.mplstyle")


@kltrust.algorithm("my_ppo")
class MyPPO:
    """PPO with the clipped surrogate, from its parts."""

    learning_rate: float = setting(3e-3, "Adam's learning rate.", at_least=0, anneal=1)
    clip_eps: float = setting(0.2, "Half-width of the clipping interval.", above=0, role="clip")
    num_epochs: int = setting(5, "Passes over the batch.", at_least=1)
    num_minibatches: int = setting(8, "Parts of each pass.", at_least=1, role="minibatches")

    def optimizer(self):
        return updates.bounded(updates.ADAM, self.learning_rate, max_grad_norm=0.5)

    def init(self, params):
        return self.optimizer().init(params)

    def update(self, policy, params, state, batch, key):
        def loss(params, minibatch):
            log_ratio = updates.log_ratio(policy(params, minibatch.obs), minibatch)
            losses = kltrust.clipped_surrogate_loss(log_ratio, minibatch.advantage, self.clip_eps)
            return kltrust.weighted_mean(losses, minibatch.weight)

        return updates.minibatch_epochs(
            loss,
            policy,
            params,
            state,
            batch,
            key,
            optimizer=self.optimizer(),
            num_epochs=self.num_epochs,
            num_minibatches=self.num_minibatches,
        )


# %% [markdown]
# Now an idea. PPO is cheap but bounds nothing; TRPO bounds the KL but needs second order. So take
# PPO's step, then **put it on a leash**: shorten the whole step until the exact mean KL is within
# the bound and the surrogate has improved, by TRPO's line search. The variant inherits the
# settings above and adds one. Its role says what it promises, and its `anneal` that an annealed
# run shrinks it like the square of a step.


# %%
@kltrust.algorithm("ppo_leashed")
class Leashed(MyPPO):
    """PPO's step, shortened until mean KL(old || new) <= max_kl and the surrogate improved."""

    max_kl: float = setting(
        0.01, "Hard bound on the mean KL(old || new), nats.", above=0, role="bound", anneal=2
    )

    def update(self, policy, params, state, batch, key):
        proposal, state, report = super().update(policy, params, state, batch, key)
        step = tree.add_scaled(proposal, -1.0, params)

        def acceptable(candidate):
            log_ratio = updates.log_ratio(policy(candidate, batch.obs), batch)
            loss = kltrust.surrogate_loss(log_ratio, batch.advantage)
            gain = -kltrust.weighted_mean(loss + batch.advantage, batch.weight)
            kl = updates.mean_kl(policy, candidate, batch)
            return (kl <= self.max_kl) & (gain > 0), kl

        found = kltrust.backtracking_line_search(acceptable, params, step, max_backtracks=20)
        extra = {"max_kl": jnp.float32(self.max_kl), "backtracks": found.num_backtracks}
        return found.params, state, report._replace(extra={**report.extra, **extra})


print(Leashed(max_kl=0.02))

# %% [markdown]
# ## The audit
#
# Before any training: one update on one batch, beside the built-in algorithms, by `audit_update`.
# The batch is of a random MDP with linear features, so that states share parameters. The `kl`
# columns say how far an update went, on average and at its worst state; `removed`, what a clip of
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
    "my_ppo": MyPPO(**adam),
    "ppo_leashed": Leashed(max_kl=0.01, **adam),
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
        "removed": found.gradient_removed,
        "gain": found.surrogate_gain,
    }


table = pd.DataFrame({name: audited(update) for name, update in contenders.items()})
table = table.T.astype(float)
assert table.loc[["trpo", "ppo_leashed"], "kl"].max() <= 0.01
assert table.loc["ppo_clip", "kl"] > 0.01
# The parts make what the library makes. Two compiled programs may round differently.
np.testing.assert_allclose(table.loc["my_ppo"], table.loc["ppo_clip"], rtol=1e-3, atol=1e-6)
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
    update = Leashed(max_kl=max_kl, **adam)
    new, _, report = update.update(policy, theta, update.init(theta), own, key)
    return updates.mean_kl(policy, new, own), report.extra["backtracks"]


bounds = jnp.logspace(-5, -0.5, 10)
keys = jax.random.split(jax.random.key(2), 20)
kl, backtracks = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(bounds, keys)
assert (kl <= bounds[:, None]).all()
assert (kl[3:] > 0).all()

nothing = batch._replace(advantage=jnp.zeros_like(batch.advantage))
update = Leashed()
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
# `@kltrust.algorithm` has made it known by name. Its float settings are traced, so that all of them
# share a compilation. (On the command line, put the class into a module and say
# `kltrust sweep SPEC.toml --import MODULE`.) Three algorithms, three settings, three seeds:

# %%
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

[critic]
num_epochs = 2
num_minibatches = 8

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
    (Path(folder) / "leash.toml").write_text(SPEC)
    results = kltrust.sweep(Path(folder) / "leash.toml", Path(folder) / "leash")

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
