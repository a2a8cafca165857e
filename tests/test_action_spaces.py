"""Every kind of action space against one dense oracle, and masks from the environment to play."""

import functools
import io
import itertools
import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import known_envs
import numpy as np
import oracles
import pytest
from rich.console import Console
from toys import tiny

from kltrust import algorithms, value_regression
from kltrust.divergences import distribution_entropy, kl_divergence
from kltrust.environments import check_env, register, sample_action
from kltrust.experiments import cli
from kltrust.experiments.cli.progress import ConsoleProgress
from kltrust.experiments.jobs import run
from kltrust.experiments.reading import deploy
from kltrust.experiments.reading.results import load
from kltrust.fisher import fisher_operator
from kltrust.learner import evaluate, make_learner, train
from kltrust.networks import LOG_STD_RANGE, actor_critic, features, masks
from kltrust.rollout import reset_batch
from kltrust.rollout.normalization import init_moments, normalize, update_moments
from kltrust.types import (
    Discrete,
    Masked,
    MaskedSpace,
    MultiBinary,
    MultiDiscrete,
)

# --- the kinds ------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """An action space, what the network is told of it, and a mask for each of five states."""

    space: Any
    options: dict = {}  # noqa: RUF012
    mask: Any = None


ROWS = [[1, 1, 1, 1], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1]]
# Entries of 3, 2 and 4 values. The second state allows of the second entry only what it has not.
DIGITS = [
    [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]],
    [[1, 0, 1, 0], [0, 0, 1, 1], [0, 1, 1, 0]],
    [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]],
    [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    [[1, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 1]],
]
KINDS = {
    "discrete": Kind(Discrete(4)),
    "masked discrete": Kind(Discrete(4), mask=np.array(ROWS, bool)),
    "multi-discrete": Kind(MultiDiscrete((3, 2, 4))),
    "masked multi-discrete": Kind(MultiDiscrete((3, 2, 4)), mask=np.array(DIGITS, bool)),
    "multi-binary": Kind(MultiBinary(3)),
    "box": Kind(known_envs.unbounded(2)),
    "box, bounded log-std": Kind(known_envs.unbounded(2), {"init_log_std": 5.0}),
    "box, std of the state": Kind(known_envs.unbounded(2), {"state_dependent_std": True}),
    "box, both": Kind(
        known_envs.unbounded(2, 1), {"state_dependent_std": True, "init_log_std": 2.0}
    ),
}
MASKED = [name for name, kind in KINDS.items() if kind.mask is not None]
NUM_STATES, NUM_INPUTS, HIDDEN = 5, 3, 4


def environment(kind):
    obs, space = jnp.zeros(NUM_INPUTS, jnp.float32), known_envs.unbounded(NUM_INPUTS)
    if kind.mask is not None:
        obs, space = Masked(obs, jnp.asarray(kind.mask[0])), MaskedSpace(space)
    return known_envs.nothing(kind.space, space, obs)


@functools.cache
def agent_of(name):
    kind = KINDS[name]
    return actor_critic(environment(kind), (HIDDEN,), **kind.options)


def states(name, dtype=np.float32):
    # Of few digits, so that float32 holds them.
    x = np.random.default_rng(1).integers(-8, 8, (NUM_STATES, NUM_INPUTS)) / 4
    return x.astype(dtype), KINDS[name].mask


def observations(name):
    x, mask = states(name)
    return jnp.asarray(x) if mask is None else Masked(jnp.asarray(x), jnp.asarray(mask))


def parameters(name, seed, dtype=np.float64):
    """As the network has them, far from its start where all policies are alike."""
    start, _ = jax.eval_shape(agent_of(name).init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: 0.7 * rng.normal(size=x.shape).astype(dtype), start)
    if "log_std" in params and "init_log_std" in KINDS[name].options:
        params["log_std"][0] = 5.0 + seed  # beyond its bound; the other entry is within
    return params


# --- the oracle: NumPy, state by state, every outcome, complex steps ------------------------------


def legal_values(kind, mask):
    """Of each entry of an action, which values have a probability."""
    sizes = kind.space.nvec if isinstance(kind.space, MultiDiscrete) else [kind.space.n]
    mask = np.ones((len(sizes), max(sizes)), bool) if mask is None else mask.reshape(len(sizes), -1)
    allowed = [[v for v in range(n) if row[v]] for n, row in zip(sizes, mask, strict=True)]
    return [values or list(range(n)) for values, n in zip(allowed, sizes, strict=True)]


def outputs(kind, params, x):
    """What the last layers give for one state."""
    torso = params["torso"]["Dense_0"]
    h = np.tanh(x @ torso["kernel"] + torso["bias"])
    out = h @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    if "Dense_1" in params:
        std = h @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
        return out, std + kind.options.get("init_log_std", 0.0)
    return out, params.get("log_std")


def log_probs(kind, params, x, mask, actions):
    """Of a list of actions at one state."""
    y, log_std = outputs(kind, params, x)
    total = np.zeros(len(actions), complex)
    if isinstance(kind.space, MultiBinary):
        for k, action in enumerate(actions):
            for bit, logit in zip(action, y, strict=True):
                total[k] -= np.log(1 + np.exp(-logit if bit else logit))
    elif log_std is not None:
        for k, action in enumerate(actions):
            for a, m, s in zip(np.ravel(action), y, map(slowed, log_std), strict=True):
                total[k] -= 0.5 * ((a - m) / np.exp(s)) ** 2 + s + 0.5 * math.log(2 * math.pi)
    else:
        entries = legal_values(kind, mask)
        y = y.reshape(len(entries), -1)
        for logits, values, digits in zip(
            y, entries, np.reshape(actions, (-1, len(entries))).T, strict=True
        ):
            normaliser = np.log(sum(np.exp(logits[v]) for v in values))
            total += [logits[d] - normaliser if d in values else -np.inf for d in digits]
    return total


def slowed(s):
    """A log deviation beyond its range, e^2 (1 + s - 2) and its mirror image; s may be complex."""
    low, high = LOG_STD_RANGE
    if s.real > high:
        return high + np.log(1 + s - high)
    return low - np.log(1 + low - s) if s.real < low else s


def outcomes(kind, params, x, mask):
    """Actions and weights whose weighted sum is an expectation under the policy.

    All actions there are; of a Gaussian the nodes of Gauss and Hermite, exact up to degree 5.
    """
    if isinstance(kind.space, MultiBinary):
        actions = list(itertools.product((0, 1), repeat=kind.space.n))
    elif isinstance(kind.space, Discrete | MultiDiscrete):
        actions = list(itertools.product(*legal_values(kind, mask)))
        actions = actions if isinstance(kind.space, MultiDiscrete) else [a for (a,) in actions]
    else:
        loc, log_std = outputs(kind, params, x)
        scale = np.exp([slowed(s) for s in log_std])
        nodes, weights = np.polynomial.hermite_e.hermegauss(3)
        grid = list(itertools.product(range(3), repeat=loc.size))
        weights = np.array([np.prod(weights[list(k)]) for k in grid])
        return [loc + scale * nodes[list(k)] for k in grid], weights / weights.sum()
    return actions, np.exp(log_probs(kind, params, x, mask, actions).real)


class Oracle(NamedTuple):
    kl: Any
    entropy: Any
    fisher: Any


def oracle(name, old, new, forget_mask=False):
    kind = KINDS[name]
    leaves, structure = jax.tree.flatten(old)
    cuts = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def unflatten(theta):
        parts = np.split(theta, cuts)
        shaped = [p.reshape(x.shape) for p, x in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(structure, shaped)

    theta = np.concatenate([leaf.ravel() for leaf in leaves]).astype(np.float64)
    kls, entropies, fisher = [], [], np.zeros((theta.size, theta.size))
    obs, mask = states(name, np.float64)
    for i, x in enumerate(obs):
        allowed = None if mask is None or forget_mask else mask[i]
        actions, weight = outcomes(kind, old, x, allowed)

        def at(theta, x=x, allowed=allowed, actions=actions):
            return log_probs(kind, unflatten(theta), x, allowed, actions)

        log_p, log_q = at(theta).real, log_probs(kind, new, x, allowed, actions).real
        kls.append(weight @ (log_p - log_q))
        entropies.append(-weight @ log_p)
        score = oracles.complex_gradient(at, theta)  # [actions, parameters]
        fisher += score.T @ (weight[:, None] * score) / len(obs)
    return Oracle(np.array(kls), np.array(entropies), fisher)


@functools.cache
def measured(name):
    """KL, entropy and a Fisher product of the library, and the same of the oracle."""
    old, new = (parameters(name, seed) for seed in (0, 1))
    v = jax.tree.map(lambda x: np.cos(np.arange(x.size, dtype=float)).reshape(x.shape), old)
    policy = agent_of(name).policy

    @jax.jit
    def library(old, new, v):
        obs = observations(name)
        before, after = policy(old, obs), policy(new, obs)
        fisher = fisher_operator(policy, old, obs)
        kl, entropy = kl_divergence(before, after), distribution_entropy(before)
        return kl, entropy, fisher.product(v), fisher.quadratic_form(v)

    return *library(old, new, v), v, oracle(name, old, new)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("name", KINDS)
def test_kl_entropy_and_fisher_product_of_every_kind(name, x64):
    kl, entropy, product, form, v, expected = measured(name)
    np.testing.assert_allclose(kl, expected.kl, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(entropy, expected.entropy, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(flat(product), expected.fisher @ flat(v), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(form, flat(v) @ expected.fisher @ flat(v), rtol=1e-10)
    assert np.all(expected.kl > (1e-3 if KINDS[name].mask is None else -1e-15))


@pytest.mark.parametrize("name", MASKED)
def test_an_oracle_that_forgets_the_mask_is_another(name, x64):
    """The control: the mask changes what is compared."""
    kl, entropy, *_, expected = measured(name)
    forgetful = oracle(name, parameters(name, 0), parameters(name, 1), forget_mask=True)
    assert np.abs(kl - forgetful.kl).max() > 1e-2
    assert np.abs(entropy - forgetful.entropy).max() > 1e-2
    assert np.abs(expected.fisher - forgetful.fisher).max() > 1e-3


def test_a_deviation_beyond_its_range_still_has_a_gradient(x64):
    name = "box, bounded log-std"
    *_, expected = measured(name)
    std = agent_of(name).policy(parameters(name, 0), observations(name)).distribution.scale
    np.testing.assert_allclose(std[:, 0], math.exp(slowed(np.float64(5))))
    assert np.all(std[:, 1] < math.exp(LOG_STD_RANGE[1]))
    # Sorted by name, the two log standard deviations come after Dense_0's 2 + 8 numbers.
    np.testing.assert_allclose(expected.fisher[10, 10], 2 / (1 + 5 - LOG_STD_RANGE[1]) ** 2)
    np.testing.assert_allclose(expected.fisher[11, 11], 2)


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MASKED)
def test_a_forbidden_action_has_no_probability_and_is_never_drawn(name):
    kind, policy = KINDS[name], agent_of(name).policy
    params = jax.tree.map(lambda x: 5 * x, parameters(name, 2, np.float32))
    obs = jax.tree.map(lambda x: jnp.repeat(x, 2000, 0), observations(name))

    @jax.jit
    def draw(params, obs, key):
        dist = policy(params, obs)
        return getattr(dist, "distribution", dist).probs, dist.sample(seed=key), dist.mode()

    probs, sample, mode = (np.asarray(x) for x in draw(params, obs, jax.random.key(0)))
    free = policy(params, obs._replace(mask=jnp.ones_like(obs.mask))).mode()
    for i in range(NUM_STATES):
        rows = slice(2000 * i, 2000 * (i + 1))
        values = legal_values(kind, kind.mask[i])
        digits = np.reshape(sample[rows], (2000, len(values)))
        best = np.reshape(mode[rows], (2000, len(values)))
        each = np.reshape(probs[rows], (2000, len(values), -1))
        for entry, legal in enumerate(values):
            assert set(digits[:, entry]) <= set(legal)
            assert set(best[:, entry]) <= set(legal)
            forbidden = np.setdiff1d(np.arange(each.shape[-1]), legal)
            np.testing.assert_array_equal(each[:, entry, forbidden], 0)
    # The control: without the mask some of them are what the network likes best.
    assert np.any(np.asarray(free) != mode)


def test_rows_that_allow_nothing_are_counted():
    for name, expected in (("masked discrete", 1), ("masked multi-discrete", 2)):
        obs = observations(name)
        assert masks.count_fully_masked(KINDS[name].space, obs) == expected
        blocks = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), obs)
        assert masks.count_fully_masked(KINDS[name].space, blocks) == 2 * expected
        assert masks.count_fully_masked(KINDS[name].space, obs.obs) == 0
    count = masks.count_fully_masked(Discrete(4), Masked(jnp.zeros(2), jnp.eye(4, dtype=bool)))
    assert count == 0
    assert count.dtype == jnp.int32


def test_the_mask_is_no_feature_and_is_not_normalised():
    obs = observations("masked discrete")
    space = MaskedSpace(known_envs.unbounded(NUM_INPUTS))
    np.testing.assert_array_equal(features(space, obs), obs.obs)
    agent = agent_of("masked discrete")
    _, value_params = jax.jit(agent.init)(jax.random.key(0))
    np.testing.assert_array_equal(
        agent.value(value_params, obs), agent.value(value_params, obs._replace(mask=~obs.mask))
    )
    moments = update_moments(init_moments(jax.tree.map(lambda x: x[0], obs)), obs)
    normal = normalize(moments, obs)
    assert normal.mask.dtype == bool
    np.testing.assert_array_equal(normal.mask, obs.mask)
    np.testing.assert_allclose(normal.obs.mean(0), 0, atol=1e-6)


# --- environments ---------------------------------------------------------------------------------


def test_an_environment_with_masks_keeps_the_contract():
    check_env(known_envs.legal_arms(barren=0.2))
    keys = jax.random.split(jax.random.key(0), 500)
    mask = jnp.array([False, True, False, True])
    draw = jax.jit(jax.vmap(lambda key: sample_action(Discrete(4), key, mask)))
    np.testing.assert_allclose(np.bincount(draw(keys)) / 500, [0, 0.5, 0, 0.5], atol=0.1)
    digits = jnp.array(DIGITS[1], bool)
    draw = jax.jit(jax.vmap(lambda key: sample_action(MultiDiscrete((3, 2, 4)), key, digits)))
    drawn = np.asarray(draw(keys))
    assert [set(column) for column in drawn.T.tolist()] == [{0, 2}, {0, 1}, {1, 2}]


def declared(action_space, mask, space=None):
    obs = jnp.zeros(2) if mask is None else Masked(jnp.zeros(2), mask)
    space = MaskedSpace(known_envs.unbounded(2)) if space is None else space
    return known_envs.nothing(action_space, space, obs)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (declared(Discrete(3), jnp.ones(4, bool)), r"bool\[4\].* must be bool\[3\]"),
        (declared(Discrete(3), jnp.ones(3)), r"float32\[3\].* must be bool\[3\]"),
        (declared(Discrete(3), jnp.ones(3, jnp.int8)), r"int8\[3\].* must be bool\[3\]"),
        (declared(MultiDiscrete((2, 3)), jnp.ones(5, bool)), r"must be bool\[2, 3\]"),
        (declared(MultiBinary(3), jnp.ones(3, bool)), "masks are for Discrete and MultiDiscrete"),
        (declared(known_envs.unbounded(1), jnp.ones(1, bool)), "masks are for Discrete"),
        (declared(Discrete(3), None), "let both have the mask, or none"),
        (
            declared(Discrete(3), jnp.ones(3, bool), known_envs.unbounded(2)),
            r"has the space MaskedSpace\(space of obs\)",
        ),
    ],
)
def test_masks_that_do_not_fit_are_refused(env, message):
    for refusing in (actor_critic, check_env):
        with pytest.raises(ValueError, match=message):
            refusing(env)


# --- updates, learning ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned():
    """Thirty iterations with the whole audit and a normaliser, and what the policy scores then."""
    env = known_envs.legal_arms(barren=0.2)
    agent = actor_critic(env, (8,))
    learner = make_learner(
        env,
        agent,
        algorithms.trpo(max_kl=0.1),
        num_envs=16,
        num_steps=16,
        critic=value_regression(num_epochs=1, num_minibatches=2),
        normalize_observations=True,
        audit="full",
    )
    blind = agent._replace(
        policy=lambda params, obs: agent.policy(params, obs._replace(mask=obs.mask | True))
    )

    @jax.jit
    def run(key):
        state, metrics = train(learner, key, 30)
        arms = known_envs.legal_arms()
        scores = [evaluate(arms, a, state, key, 500).mean() for a in (agent, blind)]
        return state, metrics, scores

    return run(jax.random.key(1))


def test_a_learner_counts_them_and_measures_all_the_same(learned):
    """Finite at states that allow one action, or none."""
    state, metrics, _ = learned
    for leaf in jax.tree.leaves((state.policy_params, state.value_params, metrics)):
        assert np.all(np.isfinite(leaf))
    assert metrics.fully_masked.shape == (30,)
    assert np.all((metrics.fully_masked > 256 * 0.1) & (metrics.fully_masked < 256 * 0.3))
    assert np.all(metrics.kl[:10] > 0)


def test_the_mask_is_what_was_learned_with(learned):
    """With the mask the optimum; the same policy without it, like any that is blind, loses."""
    *_, (seeing, blind) = learned
    assert seeing > 0.97
    arms = known_envs.legal_arms()
    _, obs = jax.jit(lambda key: reset_batch(arms, key, 4000))(jax.random.key(0))
    last = 3 - np.argmax(np.asarray(obs.mask)[:, ::-1], 1)
    constant = [np.mean(np.where(obs.mask[:, arm], last == arm, -1.0)) for arm in range(4)]
    assert max(constant) < 0.2
    assert blind < 0.2


# --- from the command line to play ----------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder, and what the command line prints of it."""
    register("legal-arms", known_envs.legal_arms)
    experiment = tiny(
        env="legal-arms",
        learner={"num_envs": 8},
        budget={"total_steps": 512, "num_evals": 2, "eval_episodes": 4},
    )
    experiment = replace(experiment, env_params={"barren": 0.2})
    printed = io.StringIO()
    progress = ConsoleProgress(Console(file=printed))
    folder = tmp_path_factory.mktemp("runs") / "arms"
    return run.train(experiment, [0, 1], folder, progress=progress), printed.getvalue()


def test_a_training_warns_between_chunks(trained):
    record, printed = trained
    metrics = load(record.path).metrics
    counts = metrics.fully_masked
    assert counts.sum() > 0
    warnings = [line for line in printed.splitlines() if "allow no action by their mask" in line]
    per_chunk = counts.groupby(metrics.iteration // 2).sum()
    assert [int(line.split()[1]) for line in warnings] == per_chunk.tolist()


def test_the_deployed_policy_takes_masks(trained):
    act = deploy.numpy_policy(trained[0])
    mask = np.array([[0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]])  # of integers, as elsewhere
    action = act(Masked(np.ones((3, 1)), mask))
    assert action[0] == 1
    assert action[1] in (0, 3)
    assert action.shape == (3,)
    assert act(Masked([1.0], [0, 0, 1, 0])) == 2
    for wrong in (np.ones((3, 1)), Masked(np.ones((3, 1)), mask[0]), Masked([1.0], [1, 1])):
        with pytest.raises(ValueError, match=r"shape Masked\(obs=\(1,\), mask=\(4,\)\)"):
            act(wrong)


def test_the_command_line_names_the_space(trained, capsys):
    assert cli.main(["envs", "legal-arms"]) == 0
    assert "observations Masked(Box[1])" in capsys.readouterr().out
