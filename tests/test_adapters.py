"""Adapters of other libraries' environments: one contract for all, and what each is asked for."""

from __future__ import annotations

import ast
import importlib
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_contract import Raw, check_contract
from test_layers import ADAPTED, imports

from kltrust import environments
from kltrust.environments import _adapters, _check, from_functions, make
from kltrust.experiments.cli import main
from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.engine.program import traced_settings
from kltrust.experiments.jobs.plan import static_key
from kltrust.experiments.reading.results import load
from kltrust.experiments.store.record import Record
from kltrust.networks.masks import without_mask
from kltrust.types import Box, Discrete, MaskedSpace, MultiDiscrete, Outcome

ROOT = Path(__file__).parent.parent


def needs(prefix: str) -> None:
    if environments.adapters()[prefix] is None:
        pytest.skip(f"{_adapters.ADAPTERS[prefix][0]} is not installed")


# The libraries' own environments, beside which the contract is checked.


def _brax() -> Raw:
    from brax import envs

    env = envs.get_environment("inverted_pendulum", backend="spring")
    return _with_done(env)


def _playground() -> Raw:
    from mujoco_playground import registry

    env = registry.load("CartpoleBalance", config_overrides={"impl": "jax"})
    return _with_done(env)


def _with_done(env: Any) -> Raw:
    def reset(key):
        state = env.reset(key)
        return state, state.obs

    def step(key, state, action):
        state = env.step(state, jnp.clip(action, -1, 1))
        return state, state.obs, state.reward, state.done

    return Raw(reset, step)


def _navix() -> Raw:
    import navix

    env = navix.make("Navix-Empty-Random-5x5-v0", max_steps=1000)

    def reset(key):
        timestep = env.reset(key)
        return timestep, timestep.observation

    def step(key, timestep, action):
        timestep = env.step(timestep, action)
        return timestep, timestep.observation, timestep.reward, timestep.is_termination()

    return Raw(reset, step)


def _jumanji() -> Raw:
    import jumanji

    env = jumanji.make("Game2048-v1", board_size=2)

    def leaves(timestep):
        return timestep.observation.board, timestep.observation.action_mask

    def reset(key):
        state, timestep = env.reset(key)
        return state, leaves(timestep)

    def step(key, state, action):
        state, timestep = env.step(state, action)
        return state, leaves(timestep), timestep.reward, timestep.last()

    return Raw(reset, step)


def _pgx() -> Raw:
    import pgx

    env = pgx.make("2048")

    def leaves(state):
        return state.observation, state.legal_action_mask

    def reset(key):
        state = env.init(key)
        return state, leaves(state)

    def step(key, state, action):
        state = env.step(state, action, key)
        return state, leaves(state), state.rewards[0], state.terminated

    return Raw(reset, step)


def _craftax() -> Raw:
    from craftax.craftax_env import make_craftax_env_from_name

    env = make_craftax_env_from_name("Craftax-Classic-Symbolic-v1", auto_reset=False)
    params = env.default_params

    def reset(key):
        obs, state = env.reset_env(jax.random.key_data(key), params)
        return state, obs

    def step(key, state, action):
        obs, state, reward, done, _ = env.step_env(jax.random.key_data(key), state, action, params)
        return state, obs, reward, done

    return Raw(reset, step)


class Case(NamedTuple):
    name: str
    raw: Callable[[], Raw]
    limit: int
    ends: bool = True
    params: tuple[tuple[str, Any], ...] = ()


CASES = {
    "brax": Case("brax/inverted_pendulum", _brax, limit=9),
    "craftax": Case("craftax/Craftax-Classic-Symbolic-v1", _craftax, limit=7, ends=False),
    "jumanji": Case("jumanji/Game2048-v1", _jumanji, limit=9, params=(("board_size", 2),)),
    "navix": Case("navix/Navix-Empty-Random-5x5-v0", _navix, limit=9),
    "pgx": Case("pgx/2048", _pgx, limit=7, ends=False),
    "playground": Case("playground/CartpoleBalance", _playground, limit=7, ends=False),
}


SLOW = ("craftax", "playground")
"""They take half a minute to import and to compile."""


every = pytest.mark.parametrize(
    "prefix", [pytest.param(p, marks=[pytest.mark.slow] * (p in SLOW)) for p in _adapters.ADAPTERS]
)


@every
def test_contract(prefix):
    needs(prefix)
    case = CASES[prefix]
    check_contract(
        lambda limit: make(case.name, max_steps=limit, **dict(case.params)),
        case.raw(),
        limit=case.limit,
        ends=case.ends,
    )


class Canvas:
    """MuJoCo's renderer without OpenGL, which not every machine has: pixels are positions."""

    def __init__(self, model, height, width):
        self.shape = height, width, 3

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def update_scene(self, data, camera):
        self.place = int(1e6 * abs(data.qpos.sum()))

    def render(self):
        return np.full(self.shape, self.place % 251, np.uint8)


@every
def test_pictures(prefix, monkeypatch):
    needs(prefix)
    if "mujoco" in _adapters.ADAPTERS[prefix]:
        monkeypatch.setattr("mujoco.Renderer", Canvas)
    case = CASES[prefix]
    env = make(case.name, max_steps=100, **dict(case.params))
    if prefix == "pgx":
        assert env.render is None  # it draws SVG alone
        return
    step, state = jax.jit(env.step), jax.jit(env.reset)(jax.random.key(0))[0]
    states = [state]
    for key in jax.random.split(jax.random.key(1), 12):
        states.append(step(key, states[-1], _check.sample_action(env.action_space, key))[0])
    pictures = list(env.render(states))
    assert len(pictures) == 13
    assert {(p.shape, p.dtype.name) for p in pictures} == {(pictures[0].shape, "uint8")}
    assert pictures[0].shape[0] >= 150
    assert pictures[0].shape[2] == 3
    assert len({p.tobytes() for p in pictures}) > 2
    assert (next(env.render(states)) == pictures[0]).all()  # drawn anew, not drawn over


def test_no_opengl(monkeypatch):
    needs("brax")

    def broken(*size):
        raise AttributeError("'NoneType' object has no attribute 'glGetError'")

    monkeypatch.setattr("mujoco.Renderer", broken)
    with pytest.raises(RuntimeError, match=r"glGetError.*set MUJOCO_GL=egl"):
        list(make("brax/inverted_pendulum").render([(None, 0)]))


# The control of the contract: an environment that keeps it, and ways to break it.

NOWHERE = Box(np.full(2, -np.inf, np.float32), np.full(2, np.inf, np.float32), (2,))


def _drift_reset(key):
    place = jax.random.uniform(key, (2,))
    return place, place


def _drift(key, place, action):
    place = place + 0.3 * action + 0.1 * jax.random.uniform(key, (2,))
    return place, place, place.sum(), place[0] > 2.0


def _adapted(limit):
    def transition(key, place, action):
        return *_drift(key, place, action), False

    return from_functions(_drift_reset, transition, NOWHERE, Discrete(2), max_steps=limit)


def _frozen_start(limit):
    first = _drift_reset(jax.random.key(0))
    return from_functions(
        lambda key: first,
        lambda key, place, action: (*_drift(key, place, action), False),
        NOWHERE,
        Discrete(2),
        max_steps=limit,
    )


def _changed(change):
    def make(limit):
        env = _adapted(limit)
        return env._replace(step=lambda key, state, action: change(*env.step(key, state, action)))

    return make


def _limit_terminates(state, obs, out: Outcome):
    return state, obs, out._replace(terminated=out.terminated | out.truncated)


def _end_truncates(state, obs, out: Outcome):
    return (
        state,
        obs,
        out._replace(terminated=jnp.zeros((), bool), truncated=out.terminated | out.truncated),
    )


def _reset_twice(limit):
    """The reset of one episode is drawn by the transition's key."""
    env = _adapted(limit)

    def step(key, state, action):
        state, obs, outcome = env.step(key, state, action)
        done = outcome.terminated | outcome.truncated
        key_transition, _ = jax.random.split(key)
        (place, _), fresh = env.reset(key_transition)
        obs = jnp.where(done, fresh, obs)
        return (jnp.where(done, place, state[0]), state[1]), obs, outcome

    return env._replace(step=step)


def _weak_count(limit):
    env = _adapted(limit)

    def reset(key):
        (place, _), obs = env.reset(key)
        return (place, 0), obs

    return env._replace(reset=reset)


BROKEN = {
    "frozen start": (_frozen_start, "the first observation|a reset by the key"),
    "next_obs after the reset": (
        _changed(lambda state, obs, out: (state, obs, out._replace(next_obs=obs))),
        "before any reset",
    ),
    "reward of another step": (
        _changed(lambda state, obs, out: (state, obs, out._replace(reward=out.reward + 1))),
        "reward",
    ),
    "the limit terminates": (_changed(_limit_terminates), "terminated"),
    "an end truncates": (_changed(_end_truncates), "terminated"),
    "no limit": (lambda limit: _adapted(limit + 1), "truncated at the limit"),
    "no reset": (
        _changed(lambda state, obs, out: (state, out.next_obs, out)),
        "a reset by the key",
    ),
    "a reset by the wrong key": (_reset_twice, "before any reset|a reset by the key"),
    "a weak type": (_weak_count, "compiles twice"),
}


def test_the_contract_accepts_what_keeps_it():
    check_contract(_adapted, Raw(_drift_reset, _drift), limit=5)


@pytest.mark.parametrize(("broken", "message"), BROKEN.values(), ids=BROKEN)
def test_the_contract_finds_what_is_broken(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_contract(broken, Raw(_drift_reset, _drift), limit=5)


# Names and packages.


@pytest.fixture
def absent(monkeypatch):
    """Makes a library one that is not installed, until the end of the test."""

    def forget(prefix):
        package = "mujoco_playground" if prefix == "playground" else prefix
        for module in list(sys.modules):
            if module.partition(".")[0] == package or module == _adapters._module(prefix):
                monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, package, None)

    return forget


@pytest.mark.parametrize("prefix", _adapters.ADAPTERS)
def test_a_missing_package_is_named_with_its_remedy(prefix, absent):
    absent(prefix)
    with pytest.raises(RuntimeError, match=rf"pip install 'kltrust\[{prefix}\]'"):
        make(f"{prefix}/anything")
    with pytest.raises(RuntimeError, match="packages that do not import"):
        environments.available(prefix)
    assert prefix in environments.adapters()


def test_an_error_of_our_own_is_not_a_missing_package(monkeypatch):
    def broken(name):
        raise ImportError("cannot import name 'x'", name="kltrust.types")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ImportError, match="cannot import name"):
        make("brax/hopper")


def test_every_prefix_is_an_extra_that_the_tests_install():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = pyproject["optional-dependencies"]
    for prefix, packages in _adapters.ADAPTERS.items():
        assert [r.partition(">")[0] for r in extras[prefix]] == [packages[0]]
    assert f"kltrust[{','.join(_adapters.ADAPTERS)}]" in extras["all"]
    assert "kltrust[all,docs,test]" in extras["dev"]


def test_only_its_own_adapter_imports_a_library():
    folder = Path(_adapters.__file__).parent
    for path in folder.parent.rglob("*.py"):
        tops = {module.partition(".")[0] for module in imports(ast.parse(path.read_text()))}
        own = {"playground": "mujoco_playground"}.get(path.stem[1:], path.stem[1:])
        assert tops & ADAPTED <= ({own} if path.parent == folder else set()), path


def test_an_unknown_prefix():
    with pytest.raises(ValueError, match="brax/, craftax/"):
        make("mujoco/hopper")
    with pytest.raises(ValueError, match="brax, craftax"):
        environments.available("mujoco")


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("brax/hoper", {}, "'brax/hopper'.*kltrust envs brax"),
        ("brax/hopper", {"gravity": 1.0}, "max_steps, .*ctrl_cost_weight.*backend"),
        ("brax/hopper", {"max_steps": 0}, "at least 1"),
        ("brax/hopper", {"max_steps": 2.5}, "int32"),
        ("jumanji/LevelBasedForaging-v0", {}, "several agents"),
        ("jumanji/MultiCVRP-v0", {}, "no adapter for the actions"),
        ("navix/Navix-Empty-5x5-v0", {"observation_fn": "smell"}, "no function 'smell'"),
        ("navix/Navix-Empty-5x5-v0", {"height": 9}, "observation_fn"),
        ("pgx/chess", {}, "no environment 'chess'"),
        ("pgx/2048", {"komi": 1}, "no arguments"),
    ],
)
def test_what_cannot_be_made(name, params, message):
    needs(name.partition("/")[0])
    with pytest.raises(ValueError, match=message):
        make(name, **params)


@pytest.mark.parametrize(
    ("name", "params", "obs", "actions"),
    [
        ("jumanji/Snake-v1", {"num_rows": 4}, {"grid": (4, 12, 5), "step_count": ()}, Discrete(4)),
        ("jumanji/RobotWarehouse-v0", {}, None, MultiDiscrete((5,) * 4)),
        ("navix/Navix-Empty-5x5-v0", {"observation_fn": "categorical"}, (5, 5), Discrete(7)),
    ],
)
def test_spaces_and_types(name, params, obs, actions):
    """By tracing alone: structures, shapes and dtypes of a reset and of a step are the spaces'."""
    needs(name.partition("/")[0])
    env = make(name, **params)
    _check._check_types(env, jax.random.key(0))
    space = without_mask(env.observation_space)
    if obs is not None:
        is_box = lambda x: isinstance(x, Box)  # noqa: E731
        assert jax.tree.map(lambda box: box.shape, space, is_leaf=is_box) == obs
    assert actions is None or env.action_space == actions


def test_data_that_cannot_be_loaded(monkeypatch):
    needs("jumanji")
    import jumanji

    def unreachable(name):
        raise FileNotFoundError("no network")

    monkeypatch.setattr(jumanji, "make", unreachable)
    with pytest.raises(RuntimeError, match=r"jumanji/Sokoban-v0 .*network"):
        make("jumanji/Sokoban-v0")


def test_masks_over_whole_vectors_are_not_taken_for_ours():
    needs("jumanji")
    tetris = make("jumanji/Tetris-v0")
    assert isinstance(tetris.observation_space, dict)
    assert "action_mask" in tetris.observation_space
    assert isinstance(make("jumanji/Maze-v0").observation_space, MaskedSpace)


def test_time_limits_are_the_libraries_own():
    needs("jumanji")
    assert make("jumanji/Snake-v1").max_steps == 4000
    assert make("jumanji/Game2048-v1").max_steps == 1000
    assert make("jumanji/Snake-v1", max_steps=7).max_steps == 7
    assert environments.describe("jumanji/Snake-v1").arguments["time_limit"] == 4000


# brax, by an environment that is registered with it: a point that is pushed, without physics.


@pytest.fixture
def toy(monkeypatch):
    needs("brax")
    from brax import envs

    class Toy(envs.Env):
        action_size, observation_size, backend = 2, 2, "none"

        def __init__(self, weight: float = 1.0, reverse: bool = False, scale=None):
            self._weight, self._sign = weight, -1.0 if reverse else 1.0

        def reset(self, rng):
            place = jax.random.uniform(rng, (2,))
            zero = jnp.zeros(())
            return envs.State(None, place, zero, zero, {"pushed": zero})

        def step(self, state, action):
            state.metrics.update(pushed=action.sum())
            place = state.obs + self._sign * action
            reward = self._weight * action.sum()
            done = jnp.where(jnp.abs(place).max() > 3.0, 1.0, 0.0)
            return state.replace(obs=place, reward=reward, done=done)

    monkeypatch.setitem(envs._envs, "toy", Toy)


def test_what_brax_registers_is_found(toy):
    assert "brax/toy" in environments.available("brax")
    info = environments.describe("brax/toy")
    assert info.fields == {"max_steps": 1000, "weight": 1.0}
    assert info.arguments == {"reverse": False, "scale": None}
    assert (info.source, info.max_steps) == ("brax", 1000)


def test_a_step_leaves_the_state_that_it_is_given(toy):
    """brax writes into the metrics of its argument: a second step from it would see that."""
    env = make("brax/toy")
    state, _ = env.reset(jax.random.key(0))
    env.step(jax.random.key(1), state, jnp.ones(2))
    assert jax.tree.leaves(state[0].metrics) == [0.0]


def test_a_weight_of_brax_sweeps_in_one_compilation(toy):
    traces = []

    @jax.jit
    @jax.vmap
    def rewards(weight):
        traces.append(weight)
        env = make("brax/toy", weight=weight, reverse=True)
        state, _ = env.reset(jax.random.key(0))
        # Raw actions beyond the bounds are clipped to them.
        return env.step(jax.random.key(1), state, jnp.array([0.5, 7.0]))[2].reward

    np.testing.assert_allclose(rewards(jnp.array([1.0, -2.0])), [1.5, -3.0])
    rewards(jnp.array([3.0, 4.0]))
    assert len(traces) == 1
    with pytest.raises(ValueError, match=r"'reverse'.*static"):
        jax.jit(lambda x: make("brax/toy", reverse=x).reset(jax.random.key(0)))(True)


def test_made_inside_a_trace_first(absent, monkeypatch):
    """What a library's modules hold is no tracer of whoever imported them."""
    needs("pgx")
    absent("pgx")
    monkeypatch.delitem(sys.modules, "pgx")

    @jax.jit
    def limits(n):
        return make("pgx/2048", max_steps=n).max_steps

    assert limits(7) == 7
    jax.eval_shape(make("pgx/2048").reset, jax.random.key(0))


def test_a_static_float_is_not_traced(toy):
    """Experiments that differ in it are two groups; those that differ in a weight are one."""

    def of(**env_params):
        plain = {"algorithm": "trpo", "env": "brax/toy", "env_params": env_params}
        return Experiment.from_dict(plain)

    one, other = of(weight=0.5, scale=2.0), of(weight=0.7, scale=2.0)
    assert traced_settings(one).env_params == {"weight": np.float32(0.5), "scale": 2.0}
    assert type(traced_settings(one).env_params["scale"]) is float  # as it was given: static
    assert static_key(one) == static_key(other)
    assert static_key(one) != static_key(of(weight=0.5, scale=3.0))


def test_32_bits_under_x64(toy, x64):
    env = make("brax/toy", weight=0.5)
    state, obs = env.reset(jax.random.key(0))
    stepped = env.step(jax.random.key(1), state, jnp.ones(2))
    assert {str(x.dtype) for x in jax.tree.leaves((state, obs, stepped))} <= {
        "float32",
        "int32",
        "bool",
    }


def test_the_command_line(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = """train vanilla_pg brax/toy --num-envs 2 --num-steps 8 --critic.num-epochs 1
        --critic.num-minibatches 2 --hidden 8 --eval-episodes 2 --num-evals 1 --total-steps 32
        --env-params max_steps=5 weight=0.5 --preset none"""
    assert main(line.split()) == 0, capsys.readouterr()
    record = Record("runs/vanilla_pg-brax-toy-seed0")
    assert record.versions["packages"]["brax"] == environments.adapters()["brax"]
    loaded = load(record.path)
    assert loaded.tasks == ["brax/toy"]
    ended = loaded.metrics.query("num_episodes > 0")
    assert (ended.length_sum / ended.num_episodes <= 5).all()
    assert len(ended)
    assert record.changes() == {}
    assert main(["envs", "brax"]) == 0
    assert "brax/toy" in capsys.readouterr().out.split()
