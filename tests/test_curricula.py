"""Curricula: parameters of environments as schedules of the training."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import known_envs
import numpy as np
import pandas as pd
import pytest
from toys import Stop, assert_same

import kltrust
from kltrust.environments import LinearSchedule, from_functions, make, register
from kltrust.experiments import cli
from kltrust.experiments.cli import train as command, typed
from kltrust.experiments.config import fairness, presets, spec
from kltrust.experiments.engine.lanes import keys_of
from kltrust.experiments.jobs import run
from kltrust.experiments.jobs.plan import check_spec, make_plan
from kltrust.experiments.report._export import sections_toml, specification
from kltrust.experiments.report._gather import Source
from kltrust.experiments.store import files
from kltrust.experiments.store.record import Record
from kltrust.types import Discrete

LIMIT, ITERATIONS, SEEDS = 4, 4, [3, 5]
RISING = {"from": 1.0, "to": 3.0, "until": 0.5}
FALLING = {"from": 5.0, "to": 2.0}
LEVEL = {"from": 2.0, "to": 2.0, "until": 0.3}
ALL = RISING, LEVEL, 2.0, FALLING
"""What a sweep runs, one after the other."""


def pulled(pull=1.0, gain=1, sections=2):
    """Each step pays ``pull``, which also moves the state; the two others are static."""

    def transition(key, x, action):
        x = 0.9 * x + 0.1 * pull * (2 * action - 1) + 0.01 * jax.random.normal(key, (2,))
        return x, x, pull if gain else 0.0, False, False

    start = jnp.zeros(sections)
    return from_functions(
        lambda key: (start, start),
        transition,
        known_envs.unbounded(2),
        Discrete(2),
        max_steps=LIMIT,
    )


@pytest.fixture(autouse=True, scope="module")
def there():
    register("pulled", pulled)


def document(settings=ALL, **changes):
    """A specification in Python."""
    return {
        "sweep": {"envs": "pulled", "seeds": SEEDS, "algorithms": "vanilla_pg", "preset": "none"},
        "learner": {"num_envs": 4, "num_steps": 2 * LIMIT},
        "critic": {"num_epochs": 1, "num_minibatches": 2},
        "network": {"hidden": [4]},
        "budget": {"total_steps": 4 * 2 * LIMIT * ITERATIONS, "num_evals": 2, "eval_episodes": 2},
        "experiments": [{"grid": {"env_params.pull": list(settings)}}],
        **changes,
    }


def plan_of(**changes):
    return make_plan(spec.from_dict(document(**changes)), width=2)


@pytest.fixture(scope="module")
def swept(there, tmp_path_factory):
    return run.start(plan_of(), tmp_path_factory.mktemp("runs") / "swept")


def formula(iteration, start, end, until=1.0):
    return start + (end - start) * min(iteration / ITERATIONS / until, 1.0)


def numbers(record, setting=0):
    """The metrics of one setting, without its names."""
    metrics = kltrust.load(record.path).metrics
    mine = metrics[metrics.run // len(SEEDS) == setting]
    return mine.drop(columns=["run", "label"]).reset_index(drop=True)


def same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=True)


# What is trained.


def test_every_iteration_has_the_value_of_the_formula(swept):
    for setting, (start, end, until) in enumerate([(1, 3, 0.5), (2, 2, 0.3), (2, 2, 1), (5, 2, 1)]):
        metrics = numbers(swept, setting)
        expected = [formula(i, start, end, until) for i in metrics.iteration]
        assert len(metrics) == ITERATIONS * len(SEEDS)
        np.testing.assert_allclose(metrics.return_sum / metrics.length_sum, expected, rtol=1e-6)


def test_an_evaluation_has_the_last_value(swept):
    loaded = kltrust.load(swept.path)
    ends = loaded.evaluations.run.map(lambda i: [3.0, 2.0, 2.0, 2.0][i // len(SEEDS)])
    assert len(loaded.evaluations) == 2 * len(ALL) * len(SEEDS)
    np.testing.assert_allclose(loaded.evaluations.mean_return, LIMIT * ends, rtol=1e-6)


def test_one_program_serves_constants_and_schedules(swept):
    planned, ((_, part),) = run.parts_of(swept)
    assert len(planned.groups) == 1
    assert part.summary["compilations"] == {"init": 1, "chunk": 1, "evaluate": 1}


def test_a_schedule_of_one_value_has_the_bits_of_the_constant(swept):
    same(numbers(swept, 1), numbers(swept, 2))
    assert (numbers(swept, 0).kl != numbers(swept, 1).kl).any()


@pytest.mark.parametrize("setting", [0, 2])
def test_a_lane_equals_the_setting_alone(swept, setting, tmp_path):
    alone = plan_of(settings=[ALL[setting]])
    same(numbers(run.start(alone, tmp_path / "alone")), numbers(swept, setting))


def test_resumed_or_cut_into_other_chunks(swept, tmp_path):
    with pytest.raises(InterruptedError):
        run.start(plan_of(), tmp_path / "part", progress=Stop(after=1))
    assert_same(run.resume(tmp_path / "part"), swept)
    budget = {**document()["budget"], "num_evals": 1}
    other = run.start(plan_of(budget=budget), tmp_path / "one")
    for setting in range(len(ALL)):
        same(numbers(other, setting), numbers(swept, setting))


def test_a_command_trains_the_same(swept, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = "--preset none --seed 3 --num-envs 4 --num-steps 8 --hidden 4 --total-steps 128"
    flags += " --critic.num-epochs 1 --critic.num-minibatches 2 --num-evals 2 --eval-episodes 2"
    flags += " --quiet --width 2 --out run"
    text = "pull={ from = 1, to = 3.0, until = 0.5 }"
    assert cli.main(["train", "vanilla_pg", "pulled", *flags.split(), "--env-params", text]) == 0
    metrics = numbers(swept)
    alone = metrics[metrics.seed == 3].reset_index(drop=True)
    same(numbers(Record(tmp_path / "run"))[alone.columns], alone)
    found = presets.preset("vanilla_pg", "pulled", "none")
    assert found.env_params == {}


def test_a_learner_in_python_trains_the_same(swept):
    pull = LinearSchedule(1.0, 3.0, until=0.5)
    final = make("pulled", pull=3.0)
    learner = kltrust.make_learner(
        lambda fraction: make("pulled", pull=pull(fraction)),
        kltrust.actor_critic(final, hidden=(4,)),
        kltrust.vanilla_pg(),
        critic=kltrust.value_regression(num_epochs=1, num_minibatches=2),
        planned_iterations=ITERATIONS,
        num_envs=4,
        num_steps=2 * LIMIT,
    )
    key = keys_of(np.array([3]))[0][0]
    state, metrics = jax.jit(lambda key: kltrust.train(learner, key, ITERATIONS + 1))(key)
    expected = numbers(swept)[:ITERATIONS]
    for name in ("return_sum", "kl", "value_loss", "entropy"):
        found = getattr(metrics, name)[:-1]
        np.testing.assert_allclose(found, expected[name], rtol=1e-3, atol=1e-7)
    assert metrics.return_sum[-1] / metrics.length_sum[-1] == 3.0  # beyond the plan
    returns = kltrust.evaluate(final, kltrust.actor_critic(final, hidden=(4,)), state, key, 2)
    assert returns.tolist() == [3.0 * LIMIT] * 2


# What is said and written.


def test_a_schedule_is_shown_and_written_as_it_was_given(swept, tmp_path):
    planned = run.plan_of(swept)
    experiment = planned.settings[0].experiment
    assert planned.settings[0].label == "vanilla_pg pull={from=1,to=3,until=0.5}"
    assert planned.settings[3].method == "vanilla_pg"
    assert experiment.flat()["env_params.pull.until"] == 0.5
    assert sections_toml(experiment).endswith("pull = { from = 1.0, to = 3.0, until = 0.5 }\n")
    (tmp_path / "again.toml").write_text(sections_toml(experiment))
    assert presets.preset("vanilla_pg", "pulled", tmp_path / "again.toml") == experiment
    again = spec.parse(specification(Source("", swept, planned, [])))
    assert [s.experiment for s in again.settings] == [s.experiment for s in planned.settings]


def test_a_part_of_a_schedule_is_swept():
    text = """
    sweep = { envs = "pulled", seeds = 1, algorithms = "trpo" }
    [[experiments]]
    env_params.pull = { from = 1.0, to = 3.0 }
    grid.env_params.pull.to = [4.0, 5]
    random = { count = 1, env_params.pull.until = { uniform = [0.5, 0.6] } }
    """
    settings = spec.parse(text).settings
    found = [s.experiment.env_params["pull"] for s in settings]
    assert [(s.start, s.end) for s in found] == [(1, 4), (1, 5)]
    assert all(0.5 <= s.until <= 0.6 for s in found)
    moved = settings[0].having({"env_params.pull.until": 0.25}).experiment
    assert moved.env_params["pull"] == LinearSchedule(1.0, 4.0, until=0.25)


# What is refused.


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{ from = 1.0, too = 2.0 }", "unknown key of a schedule 'too': did you mean to"),
        ("{ from = 1.0 }", "a schedule needs to, as in { from"),
        ("{ from = 1.0, to = nan }", r"to \(end\) must be finite .*, got nan"),
        ("{ from = -inf, to = 1.0 }", r"from \(start\) must be finite"),
        ('{ from = "low", to = 1.0 }', r"from \(start\) must be a number, got 'low'"),
        ("{ from = 1.0, to = true }", r"to \(end\) must be a number, got True"),
        ("{ from = 1.0, to = 2.0, until = 0.0 }", r"until must be a share.*in \(0, 1\], got 0.0"),
        ("{ from = 1.0, to = 2.0, until = 1.5 }", r"until must be .*got 1.5"),
    ],
)
def test_bad_schedules_are_refused_with_their_line(value, message):
    text = 'sweep = { envs = "pulled", algorithms = "trpo" }\n[[experiments]]\n'
    entry = r"specification:4: \[\[experiments\]\] 1 \(trpo\)"
    with pytest.raises(ValueError, match=f"{entry}: env_params.pull: {message}"):
        spec.parse(f"{text}\nenv_params.pull = {value}")


@pytest.mark.parametrize(
    ("env", "name", "reason"),
    [
        ("pulled", "gain", "bool"),
        ("pulled", "sections", "concrete values"),
        ("Catch-bsuite", "rows", "an argument of the factory"),
    ],
)
def test_parameters_that_cannot_be_scheduled(env, name, reason, tmp_path):
    changes = {"sweep": {**document()["sweep"], "envs": env}}
    changes["experiments"] = [{"env_params": {name: {"from": 2.0, "to": 2.0}}}]
    with pytest.raises(
        ValueError, match=rf"env_params.{name} can't be a schedule in {env}.*{reason}"
    ):
        kltrust.sweep(document(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_no_parameter_is_named_with_what_is_near(tmp_path):
    schedule = {"from": 2.0, "to": 3.0}
    changes = {"sweep": {**document()["sweep"], "envs": "CartPole-v1"}}
    changes["experiments"] = [{"env_params": {"gravty": schedule}}]
    message = r"env_params.gravty: CartPole-v1 has no parameter 'gravty'; did you mean 'gravity'\?"
    with pytest.raises(ValueError, match=message):
        kltrust.sweep(document(**changes), tmp_path / "run")


@pytest.mark.parametrize("value", [[1, 4], "from 1 to 4", {"start": 1}])
def test_what_is_no_number_is_refused_with_the_form_of_a_schedule(value):
    with pytest.raises(ValueError, match=r"pull must be a number, got .*a schedule.* is { from"):
        make("pulled", pull=value)


def test_several_flags_add_up_and_parts_are_refused():
    flag = "--env-params"
    given = [
        "--seeds",
        "2",
        flag,
        "a=1",
        "b=2",
        "--quiet",
        f"{flag}=c=3",
        "--out",
        "x",
        flag,
        "d=4",
    ]
    together = ["--seeds", "2", flag, "a=1", "b=2", "c=3", "d=4", "--quiet", "--out", "x"]
    assert typed.joined(given, flag) == together
    assert typed.joined(["--out", "x"], flag) == ["--out", "x"]
    with pytest.raises(ValueError, match=r"goal.to=4 is a part of a schedule.*'goal={ from"):
        command._env_params(["goal.to=4"])


def test_methods_that_differ_in_a_schedule_are_told_so_in_one_setting(tmp_path):
    schedule = LinearSchedule(0.0, 2.0)
    experiments = [{"algorithms": "trpo", "env_params": {"pull": 1.5}}]
    experiments += [{"algorithms": "npg", "env_params": {"pull": schedule}}]
    found = spec.from_dict(json.loads(files.to_json(document(experiments=experiments)))).settings
    runs = [("pulled", s.label, fairness.shared_settings(s.experiment)) for s in found]
    (note,) = fairness.describe_differences(fairness.differences(runs)).values()
    assert re.search(r"env_params.pull \(\S*trpo\S* 1.5; \S*npg\S* 0 to 2 until 1\)", note)


def test_static_parameters_are_named_with_the_remedy():
    text = 'sweep = { envs = "pulled", algorithms = "trpo" }\n[[experiments]]\n'
    text += "env_params.gain = { from = 1.0, to = 2.0 }"
    message = "env_params.gain can't be a schedule in pulled.*give this .* one value"
    with pytest.raises(ValueError, match=f"specification:3: .*{message}"):
        check_spec(spec.parse(text))


def test_an_environment_by_itself_has_no_schedule():
    for value in (LinearSchedule(1.0, 2.0), RISING):
        with pytest.raises(ValueError, match=r"pull is a schedule.*lambda fraction: make"):
            make("pulled", pull=value)
    with pytest.raises(ValueError, match=r"gravity must be a number.*a schedule .*{ from"):
        make("CartPole-v1", gravity={"start": 1.0})
    agent = kltrust.actor_critic(pulled())
    with pytest.raises(ValueError, match="a schedule needs planned_iterations"):
        kltrust.make_learner(lambda fraction: pulled(fraction), agent, kltrust.trpo())
    with pytest.raises(TypeError, match=r"pass one environment of a schedule, .* env\(1.0\)"):
        kltrust.evaluate(pulled, agent, None, jax.random.key(0), 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pull=from=1.0", "a shell has cut at its braces: quote it"),
        ("pull={ from 1.0 }", "no table of TOML"),
        ("pull={ from = 1.0, too = 2.0 }", "env_params.pull: unknown key"),
    ],
)
def test_bad_schedules_of_a_command(text, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "trpo", "pulled", "--env-params", text]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_the_page_has_a_specification():
    text = (Path(__file__).parent.parent / "docs/howto/environment.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    first, second = spec.parse(example).settings
    check_spec(spec.parse(example))
    assert first.experiment.env_params["gravity"] == LinearSchedule(5.0, 9.8, until=0.5)
    assert second.experiment.env_params["force_mag"] == LinearSchedule(20.0, 10.0)
