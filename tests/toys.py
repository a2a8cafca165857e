"""Toy sweeps and trainings that tests share: real ones, and folders made of known numbers."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd

import kltrust
from kltrust import tree
from kltrust.algorithms import algorithm_names, find_algorithm
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

# One static group, four iterations: without experiments.
ONE_GROUP = """
learner = { num_envs = 4, num_steps = 16 }
critic = { num_epochs = 1, num_minibatches = 2 }
network = { hidden = [8] }
budget = { total_steps = 256, num_evals = 2, eval_episodes = 2 }
sweep = { name = "toy", seeds = [3, 5], envs = "CartPole-v1", preset = "none" }
"""

# For folders of known numbers: four iterations in chunks of two.
MADE = """
[sweep]
name = "made"
seeds = [4, 2, 9]
envs = ["CartPole-v1", "Acrobot-v1"]
preset = "none"
[budget]
total_steps = 8192
num_evals = 2
"""

# Seven iterations in chunks of two.
SEEDS = (3, 4)
ITERATIONS, CHUNK = 7, 2

ALGORITHMS = algorithm_names()


def having(setting):
    """The algorithms that have such a setting."""
    return tuple(n for n in ALGORITHMS if hasattr(find_algorithm(n), setting))


FITTED = having("num_epochs")
"""Those that fit a loss by epochs of minibatches."""


def kinds():
    """One algorithm for each loop that there is: the rest differ from it by their losses alone."""
    found = {}
    for name in sorted(ALGORITHMS, key=lambda n: n != "ppo_clip"):
        cls = find_algorithm(name)
        found.setdefault((cls.update, getattr(cls, "State", None)), name)
    return tuple(n for n in ALGORITHMS if n in found.values())


KINDS = kinds()
DECLARED = tuple(n for n in ALGORITHMS if n not in KINDS)
"""Those that are a declaration of another's loop: what is of the loop is tested once."""


def few(name, rate=None, *, num_epochs=2, num_minibatches=2, **changes):
    """An algorithm that takes few passes over the batch, if it is one that does."""
    given = {"num_epochs": num_epochs, "num_minibatches": num_minibatches}
    if rate is not None:
        given |= {"learning_rate": rate, "init_learning_rate": rate}
    known = {option: value for option, value in given.items() if name in having(option)}
    return find_algorithm(name)(**known, **changes)


def toy_plan(text=SPEC, **keywords):
    return plan.make_plan(spec.parse(text), **{"width": WIDTH, **keywords})


def tiny(algorithm="trpo", env="CartPole-v1", **sections):
    given = {
        "update": {"num_epochs": 1, "num_minibatches": 2} if algorithm in FITTED else {},
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


def arrays(x):
    """The leaves as numpy arrays, typed keys as their data."""

    def plain(leaf):
        is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
            leaf.dtype, jax.dtypes.prng_key
        )
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return [plain(leaf) for leaf in jax.tree.leaves(x)]


def same_bits(x, y):
    one, other = ([(a.dtype, a.shape, a.tobytes()) for a in arrays(each)] for each in (x, y))
    return jax.tree.structure(x) == jax.tree.structure(y) and one == other


def assert_same_bits(x, y):
    assert same_bits(x, y)


def gaussian_start(agent, scale=0.3):
    """The agent with Gaussian parameters: orthogonal ones take long to compile."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(agent.init, jax.random.key(0)))

    def init(key):
        keys = jax.random.split(key, len(leaves))
        normal = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
        return tree.scale(scale, jax.tree.unflatten(structure, normal))

    return agent._replace(init=init)


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


def write(path, planned, metrics_of, score_of, *, chunks=2, groups=None, code=None):
    """A folder as if the plan had been run.

    Args:
        path: of the folder.
        planned: its plan.
        metrics_of: ``(group, first iteration) -> metrics [L, chunk_length]``.
        score_of: ``(run, iterations done) -> mean return``; the sampled one is its negative.
        chunks: of each group.
        groups: so many have begun; None is all.
        code: what it says of one's own modules.
    """
    with Run.create(path, planned.to_config(), code) as whole:
        finished = True
        for i, group in enumerate(planned.groups[:groups]):
            experiment = planned.experiment(group)
            runs, batch = group.runs, experiment.batch_size
            seeds = [planned.seed(r) for r in runs]
            config = run.group_config(whole, planned, group)
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


def on_devices(number):
    """The environment of a process that has this many CPU devices, and compiles as the tests do."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={number}"
    return {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu", "COLUMNS": "200"}


def python(*arguments, devices=1, environment=(), **keywords):
    """A fresh interpreter among the tests, with this many devices."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **on_devices(devices), **dict(environment)},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
        **keywords,
    )


def output(*arguments, **keywords):
    """What an interpreter that succeeds prints."""
    done = python(*arguments, **keywords)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
