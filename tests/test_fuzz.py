"""Settings that nobody can mean are accepted or refused in a clear sentence: never a traceback."""

import copy
import dataclasses
import random
import time

import pytest
import toys

from kltrust.algorithms import algorithm_names
from kltrust.experiments.config import spec
from kltrust.experiments.config.experiment import Experiment, section_kinds
from kltrust.experiments.engine.program import check_values
from kltrust.experiments.jobs import plan

NAN, INF = float("nan"), float("inf")
NUMBERS = [0, 1, -1, 2, 7, 1.5, -0.5, 1e-30, 1e12, 1e23, 1e300, 10**12, 10**23, 2**31]
NUMBERS += [NAN, INF, -INF, 10**400, -(10**400)]
OTHERS = [True, None, "", "inf", "nan", "trpo", "λ", [], [0], [8], [-1], [1e9], ["a"], [[8]], {}]
OTHERS += [{"name": "adam"}, {"name": "adamw", "weight_decay": NAN}, {"a": 1}, (1, 2)]
OTHERS += [{"name": "adam", "b1": 10**400}, "adam(b1={[]: 1})", "adam(", "((((", "\0"]
POOL = [*NUMBERS, *OTHERS, b"bytes", object]
SECONDS = 3.0
"""For one case: JAX may compile its first operations in it. A refusal takes milliseconds."""


def refused(attempt):
    """Whether a case is refused; another error than a clear one is the test's failure."""
    begin = time.process_time()
    try:
        attempt()
        message = ""
    except ValueError as error:
        message = str(error)
        assert message
        assert "Traceback" not in message
    assert time.process_time() - begin < SECONDS
    return bool(message)


@pytest.mark.parametrize("algorithm", algorithm_names())
def test_any_value_for_any_setting(algorithm):
    draw = random.Random(algorithm)
    count = 0
    for section, cls in section_kinds(algorithm).items():
        for field in dataclasses.fields(cls):
            for value in draw.sample(POOL, 16):
                data = {"algorithm": algorithm, "env": "CartPole-v1", section: {field.name: value}}
                made = []

                def attempt(data=data, made=made):
                    made.append(Experiment.from_dict(data))
                    if draw.random() < 0.1:  # building parts takes longer
                        check_values(made[0])
                    made[0].digest()

                count += refused(attempt)
    assert count > 200


def test_any_value_for_an_environments_parameter():
    refusals = 0
    for value in POOL:
        for name in ("gravity", "max_steps_in_episode", "no_such_name"):
            data = {"algorithm": "trpo", "env": "CartPole-v1", "env_params": {name: value}}
            refusals += refused(lambda data=data: check_values(Experiment.from_dict(data)))
    assert refusals > 60


def paths(document, at=()):
    """Every place of a document."""
    yield at
    items = document.items() if isinstance(document, dict) else ()
    items = enumerate(document) if isinstance(document, list) else items
    for key, value in items:
        yield from paths(value, (*at, key))


DOCUMENT = {
    "sweep": {"name": "odd", "seeds": [3, 5], "envs": "CartPole-v1", "preset": "none"},
    "learner": {"num_envs": 4, "num_steps": 16, "gamma": 0.9},
    "critic": {"num_epochs": 1, "num_minibatches": 2},
    "network": {"hidden": [8]},
    "budget": {"total_steps": 192, "num_evals": 2, "eval_episodes": 2},
    "experiments": [
        {"algorithms": "vanilla_pg", "grid": {"learning_rate": [0.01, 0.3]}},
        {"algorithms": ["trpo", "npg"], "update": {"damping": 0.1}, "zip": {"gamma": [0.9, 0.99]}},
        {
            "label": "drawn",
            "algorithms": "ppo_clip",
            "random": {"count": 2, "seed": 1, "clip_eps": {"log_uniform": [0.1, 0.3]}},
            "update": {"num_minibatches": 2},
            "env_params": {"gravity": 9.0},
        },
    ],
}


def test_a_specification_with_anything_anywhere():
    plan.check_spec(spec.from_dict(copy.deepcopy(DOCUMENT)))
    draw = random.Random(0)
    places = [path for path in paths(DOCUMENT) if path]
    refusals = 0
    for _ in range(350):
        document = copy.deepcopy(DOCUMENT)
        for path in draw.sample(places, draw.choice([1, 1, 1, 2])):
            holder = document
            try:
                for key in path[:-1]:
                    holder = holder[key]
                if draw.random() < 0.1:
                    del holder[path[-1]]
                else:
                    holder[path[-1]] = draw.choice(POOL)
            except (TypeError, KeyError, IndexError):
                continue  # the first change took the second's place away
        refusals += refused(lambda document=document: plan.check_spec(spec.from_dict(document)))
    assert refusals > 200


@pytest.mark.parametrize(
    "changes",
    [
        "seeds = 1_000_000_000_000",
        "seeds = 100_001\ngrid.x",
        "grid = { gamma = [HUNDRED], max_kl = [HUNDRED], damping = [HUNDRED] }",
        "random = { count = 1_000_000_000, seed = 0, max_kl = { uniform = [0.1, 0.2] } }",
    ],
)
def test_millions_of_runs_are_refused_before_they_are_made(changes):
    hundred = ", ".join(str(0.001 * i) for i in range(1, 101))
    text = toys.HEAD + "[[experiments]]\nalgorithms = 'trpo'\n"
    if changes.startswith("seeds"):
        seeds, _, rest = changes.partition("\n")
        text = text.replace("seeds = [3, 5]", seeds)
        changes = f"grid.gamma = [{hundred}]" if rest else ""
    text += changes.replace("HUNDRED", hundred)
    with pytest.raises(ValueError, match=r"too many|at most"):
        spec.parse(text)


def test_the_line_of_a_long_value_is_found_at_once():
    seeds = "\n".join(f"{i}," for i in range(5000))
    text = f"# long\n[sweep]\n# these\nseeds = [\n{seeds}\n-1]\n[[experiments]]\nbogus = 1\n"
    begin = time.process_time()
    assert spec.line_of(text, ("sweep", "seeds")) == 4
    assert spec.line_of(text, ("experiments", 0, "bogus")) == 5007
    assert time.process_time() - begin < SECONDS
