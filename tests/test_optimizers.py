"""Optimisers as settings: how they are named, what is traced of them, and that they are used."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from handmade import case, categorical, max_difference

from kltrust import mdpo, ppo_clip, value_regression, vanilla_pg
from kltrust.settings import annealed
from kltrust.types import CriticBatch
from kltrust.updates import ADAM, Optimizer, bounded
from kltrust.updates.optimizers import _ELEMENTWISE, Elementwise
from kltrust.updates.vectors import in_vectors
from kltrust.values import from_plain, to_plain

ADAMW = Optimizer("adamw", weight_decay=0.1)


def sgd_of_ones_own(learning_rate):
    return optax.chain(optax.trace(0.5), optax.scale(-1.0 * learning_rate))


@pytest.mark.parametrize("given", [ADAMW, "adamw(weight_decay=0.1)", dict(ADAMW.to_plain())])
@pytest.mark.parametrize("factory", [ppo_clip, mdpo, vanilla_pg, value_regression])
def test_an_optimizer_by_name_text_and_table(factory, given):
    made = factory(optimizer=given)
    assert made == factory(optimizer=ADAMW) != factory()
    assert repr(made.optimizer) == "adamw(weight_decay=0.1)"
    assert Optimizer.of(repr(made.optimizer)) == made.optimizer
    assert from_plain(type(made), to_plain(made), where="update") == made


def test_a_function_of_optax_is_its_name_and_another_stays_a_function():
    assert ppo_clip(optimizer=optax.lion).optimizer == Optimizer("lion")
    assert Optimizer.of("contrib.muon").name == "contrib.muon"
    own = ppo_clip(optimizer=sgd_of_ones_own)
    assert own == ppo_clip(optimizer=sgd_of_ones_own) != ppo_clip(optimizer=optax.sgd)
    assert "optimizer=sgd_of_ones_own" in repr(own)
    with pytest.raises(ValueError, match="can't be written to a file"):
        to_plain(own)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("adamm", "unknown optimiser of optax 'adamm': did you mean adam"),
        ("clip", "unknown optimiser of optax 'clip'"),  # of optax, but none
        ("adamw(weight_decy=0.1)", "setting of optax.adamw 'weight_decy': did you mean weight_dec"),
        ({"name": "sgd", "momentun": 0.9}, "did you mean momentum"),
        ("adamw(weight_decay='a')", "weight_decay of optax.adamw must be a number, got 'a'"),
        ("contrib.dpsgd(l2_norm_clip=1.0)", "optax.contrib.dpsgd needs noise_multiplier: as in"),
        ({"momentum": 0.9}, "optimizer must be the name of an optimiser"),
        ("adamw(0.1)", "its settings have names"),
        ("adam(", "optimizer must read like"),
        ("adam(eps=open('x'))", "optimizer must read like"),
        pytest.param(optax.sgd(0.1), "or a function of the learning rate", id="transformation"),
        (None, "optimizer must be"),
        (0.1, "optimizer must be"),
    ],
    ids=str,
)
def test_what_is_no_optimizer_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ppo_clip(optimizer=given)


def test_float_settings_are_leaves_and_the_rest_is_static():
    sgd = Optimizer("sgd", nesterov=True, momentum=1)  # optax's own default is None: a float
    assert jax.tree.leaves(sgd) == [1.0]
    assert jax.tree.structure(sgd) == jax.tree.structure(
        Optimizer.of("sgd(momentum=.5,nesterov=1)")
    )
    assert jax.tree.structure(sgd) != jax.tree.structure(Optimizer("sgd", momentum=0.5))
    assert jax.tree.map(lambda x: 2 * x, ADAMW) == Optimizer("adamw", weight_decay=0.2)


@functools.cache
def compiled(traced):
    """One update of a declaration, which is an argument; ``traced`` counts."""

    def update(algorithm, c):
        traced.append(algorithm)
        state = algorithm.init(c.params)
        return algorithm.update(categorical, c.params, state, c.batch, jax.random.key(0))[0]

    return jax.jit(update), jax.jit(jax.vmap(update, (0, None)))


class Traced(list):
    __hash__ = object.__hash__


SMALL = {"learning_rate": 0.01, "num_epochs": 2, "num_minibatches": 2}
TRACED = Traced()


@pytest.mark.parametrize("given", ["sgd", ADAMW, sgd_of_ones_own, lambda rate: optax.sgd(rate)])
def test_another_optimizer_makes_another_update(given):
    update, _ = compiled(TRACED)
    before = len(TRACED)
    algorithms = [ppo_clip(**SMALL | {"learning_rate": r}, optimizer=given) for r in (0.01, 0.02)]
    results = [update(algorithm, case("categorical")) for algorithm in algorithms]
    assert len(TRACED) - before == 1  # the rate is traced, whatever it is a rate of
    assert max_difference(*results) > 1e-5
    assert max_difference(results[0], update(ppo_clip(**SMALL), case("categorical"))) > 1e-4


def test_lanes_over_a_setting_of_the_optimizer():
    update, lanes = compiled(TRACED)
    many = [
        ppo_clip(**SMALL, optimizer=Optimizer("adamw", weight_decay=w)) for w in (0.0, 0.1, 3.0)
    ]
    together = lanes(jax.tree.map(lambda *x: jnp.stack(x), *many), case("categorical"))
    alone = [update(algorithm, case("categorical")) for algorithm in many]
    for lane, one in enumerate(alone):
        np.testing.assert_allclose(together["out"][lane], one["out"], atol=2e-5)
    assert max_difference(alone[0], alone[1]) > 1e-5


@pytest.mark.parametrize("bound", [0.5, 5.1, np.inf])
def test_the_norm_is_bounded_over_all_leaves_before_the_optimizer(bound):
    gradient = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([4.0])}
    optimizer = bounded(ADAM, 0.1, bound)
    state = optimizer.update(gradient, optimizer.init(gradient))[1]
    first_moment = jnp.concatenate([10 * x for x in jax.tree.leaves(state[1][0].mu)])
    np.testing.assert_allclose(first_moment, np.array([3, 0, 4]) * min(bound / 5, 1), rtol=1e-6)


PARAMS = {"w": jnp.linspace(-1, 2, 12).reshape(3, 4), "b": jnp.array([0.5, -3.0])}


def stepped(transformation):
    """Parameters and state after two steps whose gradients have a norm beyond the bound."""

    def descend(start, form):
        def step(carry, slope):
            params, state = carry
            gradient = jax.tree.map(lambda p: slope * jnp.cos(p), form.tree_of(params))
            updates, state = transformation.update(form.vector_of(gradient), state, params)
            return (optax.apply_updates(params, updates), state), None

        return step(step(start, 1.0)[0], 3.0)

    return in_vectors(descend, transformation, PARAMS, transformation.init(PARAMS))


@pytest.mark.parametrize("name", sorted(_ELEMENTWISE))
def test_leaves_strung_together_move_as_they_would_one_by_one(name, monkeypatch):
    settings = {"weight_decay": 0.1} if name.endswith("w") else {}
    transformation = bounded(Optimizer(name, **settings), 0.01, 0.5)
    assert isinstance(transformation, Elementwise)
    leaf_by_leaf, seen = stepped(transformation)[0], []

    def plain(*operands, default, **_):
        seen.append(default.__name__)
        return default(*operands)

    monkeypatch.setattr(jax.lax, "platform_dependent", plain)
    as_vectors = stepped(transformation)[0]
    assert seen == ["as_vectors"]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, as_vectors, leaf_by_leaf)
    assert np.max(np.abs(as_vectors[0]["w"] - PARAMS["w"])) > 1e-4


@pytest.mark.parametrize("given", ["lamb", "novograd", "adafactor", sgd_of_ones_own])
def test_an_optimizer_that_may_look_at_the_tree_keeps_it(given, monkeypatch):
    monkeypatch.setattr(jax.lax, "platform_dependent", None)
    transformation = bounded(Optimizer.of(given), 0.01, 0.5)
    assert not isinstance(transformation, Elementwise)
    stepped(transformation)


def test_it_would_move_otherwise_strung_together():
    """The control: of lamb, whose steps are as long as a leaf is."""
    transformation = bounded(Optimizer("lamb"), 0.01, 0.5)
    own = stepped(transformation)[0][0]
    strung = Elementwise(*transformation)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "platform_dependent", lambda *x, default, **_: default(*x))
        assert np.max(np.abs(stepped(strung)[0][0]["b"] - own["b"])) > 1e-4


SCHEDULE = optax.linear_schedule(0.05, 0.0, 3)
FALLING = {
    "fit": (ppo_clip, {"num_epochs": 2, "num_minibatches": 2, "optimizer": "adam"}, 4),
    "one step": (vanilla_pg, {"optimizer": "adam"}, 1),
    "undone": (ppo_clip, {"num_epochs": 2, "num_minibatches": 2, "max_kl": 1e-9}, 0),
}


def counts(state):
    """Of all parts of an optimiser's state that count its steps."""
    named = jax.tree_util.tree_leaves_with_path(state)
    return [int(x) for path, x in named if "count" in jax.tree_util.keystr(path)]


@pytest.mark.parametrize(("factory", "settings", "steps"), FALLING.values(), ids=FALLING)
def test_a_schedule_as_a_rate_is_optaxs_own_over_the_optimizers_steps(factory, settings, steps):
    c = case("categorical")

    @jax.jit
    def update(algorithm):
        state = algorithm.init(c.params)
        moved = algorithm.update(categorical, c.params, state, c.batch, jax.random.key(0))
        return moved[:2]

    rate = lambda count: 0.5 * SCHEDULE(count)  # noqa: E731
    theirs = factory(**settings | {"optimizer": lambda _: optax.adam(rate)})
    ours = annealed(factory(**settings, learning_rate=SCHEDULE), 0.5)
    params, state = update(ours)
    jax.tree.map(np.testing.assert_array_equal, params, update(theirs)[0])
    assert set(counts(state)) == {steps}
    assert (max_difference(params, c.params) > 1e-4) == bool(steps)


def test_a_schedule_of_the_critic_and_its_place_in_a_pytree():
    ours = value_regression(learning_rate=SCHEDULE)
    assert ours == value_regression(learning_rate=SCHEDULE) != value_regression()
    assert "learning_rate=polynomial_schedule" in repr(ours)
    same = jax.tree.unflatten(jax.tree.structure(ours), jax.tree.leaves(ours))
    assert same == ours
    tables = jax.tree.structure(ours), jax.tree.structure(value_regression(learning_rate=abs))
    assert tables[0] != tables[1]  # static: one compilation each
    rows = jnp.linspace(0, 1, 8)
    batch = CriticBatch(rows, rows, rows + 1)
    given = {"num_epochs": 2, "num_minibatches": 2, "max_grad_norm": np.inf}
    params = jnp.float32(0.5)

    def fitted(critic):
        key = jax.random.key(0)
        return critic.update(lambda w, obs: w * obs, params, critic.init(params), batch, key)[0]

    one = fitted(value_regression(**given, optimizer="adam", learning_rate=SCHEDULE))
    other = fitted(value_regression(**given, optimizer=lambda _: optax.adam(SCHEDULE)))
    assert one == other != params
    with pytest.raises(ValueError, match=r"no file can hold.*budget.anneal"):
        to_plain(ours)
