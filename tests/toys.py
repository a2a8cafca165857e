"""Toy sweeps and trainings that tests share: real ones, and folders made of known numbers."""

import jax
import numpy as np
import pandas as pd

import kltrust
from kltrust.experiments.config import spec
from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.jobs import plan, run
from kltrust.experiments.jobs.events import Progress
from kltrust.experiments.jobs.lanes import restore_states
from kltrust.experiments.jobs.rows import evaluation_rows, metric_rows
from kltrust.experiments.store.run import Run

# Two static groups: four runs of three iterations, in chunks of two and one; two runs of two.
SPEC = """
[sweep]
name = "toy"
seeds = [3, 5]
envs = "CartPole-v1"
algorithms = "vanilla_pg"
preset = "none"

[learner]
num_envs = 4

[critic]
num_epochs = 1
num_minibatches = 2

[network]
hidden = [8]

[budget]
total_steps = 192
num_evals = 2
eval_episodes = 2

[[experiments]]
learner.num_steps = 16
grid.learning_rate = [0.01, 0.3]

[[experiments]]
label = "falling"
envs = "Catch-bsuite"
learner.num_steps = 8
budget.total_steps = 64
"""
HEAD = SPEC[: SPEC.index("[[experiments]]")]
WIDTH = 2

# Seven iterations in chunks of two.
SEEDS = (3, 4)
ITERATIONS, CHUNK = 7, 2
PASSES = {"ppo_clip", "ppo_penalty", "ppo_reverse_kl", "ppo_adaptive_lr", "mdpo"}


def toy_plan(text=SPEC, **keywords):
    return plan.make_plan(spec.parse(text), **{"width": WIDTH, **keywords})


def tiny(algorithm="trpo", env="CartPole-v1", **sections):
    given = {
        "update": {"num_epochs": 1, "num_minibatches": 2} if algorithm in PASSES else {},
        "learner": {"num_envs": 4, "num_steps": 16},
        "critic": {"num_epochs": 1, "num_minibatches": 2},
        "network": {"hidden": [8]},
        "budget": {"total_steps": ITERATIONS * 64, "num_evals": 3, "eval_episodes": 2},
    }
    given = {k: {**given.get(k, {}), **sections.get(k, {})} for k in {**given, **sections}}
    return Experiment.from_dict({"algorithm": algorithm, "env": env, **given})


class Stop(Progress):
    """Interrupts after so many chunks."""

    def __init__(self, after):
        self.left = after

    def chunk(self, report):
        self.left -= 1
        if not self.left:
            raise InterruptedError


def parts(record):
    """The folders of all groups."""
    return [part for _, part in run.parts_of(record)[1]]


def states(record, which="latest"):
    """The learner states of each group."""
    planned, found = run.parts_of(record)
    return [restore_states(part, planned.experiment(group), which) for group, part in found]


def assert_same_bits(x, y):
    assert jax.tree.structure(x) == jax.tree.structure(y)
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_same(one, other):
    """The same tables, states and broken runs of two folders."""
    first, second = kltrust.load(one.path), kltrust.load(other.path)
    for frame in ("metrics", "evaluations"):
        pd.testing.assert_frame_equal(
            getattr(first, frame), getattr(second, frame), check_exact=True
        )
    pd.testing.assert_frame_equal(
        first.runs.drop(columns="sweep"), second.runs.drop(columns="sweep"), check_exact=True
    )
    assert_same_bits(states(one), states(other))
    assert one.summary == other.summary


def content(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def write(path, planned, metrics_of, score_of, *, chunks=2, groups=None):
    """A folder as if the plan had been run.

    Args:
        path: of the folder.
        planned: its plan.
        metrics_of: ``(group, first iteration) -> metrics [L, chunk_length]``.
        score_of: ``(run, iterations done) -> mean return``; the sampled one is its negative.
        chunks: of each group.
        groups: so many have begun; None is all.
    """
    with Run.create(path, planned.to_config()) as whole:
        finished = True
        for i, group in enumerate(planned.groups[:groups]):
            experiment = planned.experiment(group)
            runs, batch = group.runs, experiment.batch_size
            seeds = [planned.seed(r) for r in runs]
            config = run.group_config(planned, group)
            with Run.create(run.group_path(path, i), config) as part:
                for chunk in range(chunks):
                    first = chunk * group.chunk_length
                    done = first + group.chunk_length
                    scores = np.array([score_of(r, done) for r in runs], float)
                    returns = np.stack([scores, -scores], axis=1)[:, :, None]
                    reached = np.full(len(runs), done)
                    part.commit(
                        chunk,
                        metric_rows(metrics_of(group, first), runs, seeds, first, reached, batch),
                        {"w": np.zeros(len(runs))},
                        evaluation=evaluation_rows(returns, runs, seeds, done, batch),
                        seconds={"compile": 5.0, "run": 6.0},
                    )
                if chunks * group.chunk_length >= experiment.num_iterations:
                    part.finish({"broken": {}})
                finished &= part.finished
        if finished and groups is None:
            whole.finish({"broken": {}})
    return path
