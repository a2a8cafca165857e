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
# # A sweep and its report
#
# ## In memory: settings x seeds, one compilation
#
# Factories take numbers, and a number may be a tracer: **what is an argument is traced, what is
# closed over is static**. A whole training is a function of a setting and a seed; `vmap` makes a
# sweep of it, `jit` one program.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from rich.console import Console

import kltrust
from kltrust.experiments import report
from kltrust.experiments.cli.tables import dry_run
from kltrust.experiments.config import spec
from kltrust.experiments.jobs import plan
from kltrust.experiments.reading.plots import GREY

plt.style.use("house.mplstyle")

env = kltrust.make("CartPole-v1")
agent = kltrust.actor_critic(env, hidden=(32, 32))
critic = kltrust.value_regression(num_epochs=2, num_minibatches=8)
traced = []


def run(max_kl, key):
    traced.append(max_kl)  # Python runs when JAX traces, and only then
    learner = kltrust.make_learner(
        env, agent, kltrust.trpo(max_kl=max_kl), num_steps=128, critic=critic
    )
    _, metrics = kltrust.train(learner, key, num_iterations=25)
    return metrics.kl, metrics.return_sum, metrics.num_episodes


bounds, seeds = jnp.array([0.0003, 0.003, 0.03, 0.3]), jax.random.split(jax.random.key(0), 4)
grid = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))
kl, return_sum, num_episodes = grid(bounds, seeds)
assert len(traced) == 1
assert kl.shape == (4, 4, 25)
assert (kl <= bounds[:, None, None] * (1 + 1e-5)).all()

figure, axes = plt.subplots(1, 2)
for i, bound in enumerate(bounds):
    axes[0].plot(return_sum[i].sum(0) / num_episodes[i].sum(0), label=f"max_kl {bound:g}")
    axes[1].semilogy(jnp.median(kl[i], axis=0))
    axes[1].axhline(bound, color=GREY, ls=":", lw=1)
axes[0].set(xlabel="iteration", title="return of the episodes that ended, 4 seeds")
axes[0].legend()
axes[1].set(xlabel="iteration", title="KL(old || new), median (dotted: max_kl)", ylabel="nats")
plt.show()

# %% [markdown]
# ## From a file: what survives the night
#
# For more than a look, a TOML file: algorithms, environments, grids or random ranges, seeds. Runs
# that differ in floats only are one static group with one compilation; every chunk is committed,
# and a kill at any moment costs at most the chunks under way. In a terminal:
#
# ```bash
# kltrust sweep spec.toml --dry-run       # groups, runs, memory; --measure tries what it will take
# kltrust sweep spec.toml --out runs/tonight
# kltrust status runs/tonight             # from another terminal, while it runs
# kltrust sweep --resume runs/tonight     # after a kill: the same bits as without it
# ```
#
# and here the same from Python:

# %%
SPEC = """
[sweep]
name = "tonight"
seeds = 4
envs = ["CartPole-v1", "Catch-bsuite"]
preset = "none"

[network]
hidden = [16, 16]

[learner]
num_envs = 8
num_steps = 64

[critic]
num_epochs = 2
num_minibatches = 8

[budget]
total_steps = 15_360
num_evals = 3
eval_episodes = 6

[[experiments]]
algorithms = "trpo"
grid.max_kl = [0.001, 0.01, 0.1]
"""
scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name) / "tonight"
specification = spec.parse(SPEC)
planned = plan.make_plan(specification)
Console(width=110, force_jupyter=False, force_terminal=False).print(dry_run(planned))
results = kltrust.sweep(specification, folder)
assert len(results.runs) == 3 * 2 * 4  # settings x environments x seeds
assert len(planned.groups) == 2  # one for each algorithm and environment

# %% [markdown]
# Three frames, `run` the key between them: `.runs` (one row per run, its resolved settings and its
# score), `.metrics` (per iteration), `.evaluations`.

# %%
columns = ["run", "label", "env", "seed", "update.max_kl", "iterations", "score"]
display(results.runs[columns].head(6))
columns = ["run", "iteration", "kl", "kl_max", "surrogate_gain", "max_ratio", "extra.accepted"]
display(results.metrics[columns].head(3).round(4))
display(results.evaluations[["run", "iteration", "env_steps", "mean_return"]].head(3))

# %% [markdown]
# ## Scores that say how sure they are
#
# Few seeds, skewed scores: Agarwal et al. (2021) take the interquartile mean, with stratified
# bootstrap intervals, over runs and tasks. `results.scores()` gives arrays for it (and for the
# authors' library rliable): {label: [runs, tasks]}. Each environment is scaled by its own range of
# returns, CartPole 0 to 500, Catch -1 to 1.

# %%
from kltrust.results import statistics  # noqa: E402

low, high = np.array([0.0, -1.0]), np.array([500.0, 1.0])
assert results.tasks == ["CartPole-v1", "Catch-bsuite"]
scores = {label: (x - low) / (high - low) for label, x in results.scores().items()}
thresholds = np.linspace(0, 1, 41)

figure, axes = plt.subplots(1, 2, gridspec_kw={"width_ratios": [1, 1.3]})
for i, (label, x) in enumerate(scores.items()):
    iqm, *interval = statistics.intervals(x, statistics.interquartile_mean)
    axes[0].plot(np.ravel(interval), [i, i], color=GREY, ls="-", lw=6, alpha=0.5)
    axes[0].plot(iqm, i, "o", color="black")
    shares, *band = statistics.intervals(
        x, lambda x: statistics.performance_profile(x, thresholds), resamples=500
    )
    (line,) = axes[1].plot(thresholds, shares, label=label)
    axes[1].fill_between(thresholds, *band, color=line.get_color(), alpha=0.12, lw=0)
axes[0].set_yticks(range(len(scores)), scores)
axes[0].set(title="interquartile mean, 95 % interval", xlabel="normalised score", ylim=(2.5, -0.5))
axes[1].set(title="share of runs above a score", xlabel="normalised score")
axes[1].legend()
plt.show()

# %% [markdown]
# ## The report
#
# One command, one self-contained page: what ran, aggregates, curves, sensitivity to each setting,
# and the realised KL of every update beside what its algorithm claims; the best settings as
# presets.
#
# ```bash
# kltrust report runs/tonight
# ```

# %%
page = report.make_report([folder])
names = sorted(str(p.relative_to(page)) for p in page.rglob("*") if p.is_file())
print(*names, sep="\n")

# %% [markdown]
# ## To a GPU, to many, to a cluster
#
# Nothing changes in the specification. JAX takes the accelerator that it finds (`kltrust doctor`
# says which); the runs of a group then go side by side in blocks of a width that fits the memory
# (`--width` to choose), and over all devices of the machine. With one width, a run's bits do not
# depend on the number of devices.
#
# ```bash
# pip install "kltrust[sweeps,cuda13]"                       # or cuda12, or tpu
# kltrust sweep spec.toml --dry-run --measure                 # time and memory on this machine
# kltrust sweep spec.toml --shard $I/8 --out runs/part$I      # an array job, I = 1 to 8
# kltrust merge runs/part1 ... runs/part8 --out runs/tonight  # as if it had run in one piece
# ```
#
# A shard is the same plan, cut so that each part has about as many environment steps:

# %%
shards = [plan.make_plan(specification, shard=(i, 4)) for i in range(1, 5)]
parts = [[run for group in shard.groups for run in group.runs] for shard in shards]
assert sorted(run for part in parts for run in part) == list(range(len(results.runs)))
scratch.cleanup()
pd.DataFrame(
    {
        "runs": [len(part) for part in parts],
        "static groups": [len(shard.groups) for shard in shards],
        "first run": [part[0] for part in parts],
        "last run": [part[-1] for part in parts],
    },
    index=pd.Index([f"{i}/4" for i in range(1, 5)], name="shard"),
)
