"""The exact MDPs against series, enumeration and simulation; and every algorithm on them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import few

from kltrust import tabular
from kltrust.environments import make
from kltrust.tabular import MDP
from kltrust.updates.objectives import surrogate

pytestmark = pytest.mark.usefixtures("x64")

solve = jax.jit(tabular.solve)
expected_return = jax.jit(tabular.expected_return)
optimal_policy = jax.jit(tabular.optimal_policy)
certificate = jax.jit(tabular.certificate)


@functools.cache
def small(seed=0, num_states=5, num_actions=3, gamma=0.9):
    """A Garnet and a policy on it."""

    @jax.jit
    def make_both(key):
        keys = jax.random.split(key)
        mdp = tabular.garnet(keys[0], num_states, num_actions, branching=2, gamma=gamma)
        return mdp, jax.nn.softmax(jax.random.normal(keys[1], (num_states, num_actions)))

    with jax.enable_x64(True):
        mdp, pi = make_both(jax.random.key(seed))
        return mdp._replace(gamma=gamma), pi


# --- evaluation -----------------------------------------------------------------------------------


def series(mdp, pi, num_steps=400):
    """J, V, Q, d as sums over time, in loops."""
    transition, reward, start, pi = (np.asarray(x) for x in (*mdp[:2], mdp.start, pi))
    num_states, num_actions = reward.shape
    chain, mean = np.zeros((num_states, num_states)), np.zeros(num_states)
    for s in range(num_states):
        for a in range(num_actions):
            chain[s] += pi[s, a] * transition[s, a]
            mean[s] += pi[s, a] * reward[s, a]
    value, visitation, power, discount = 0, 0, np.eye(num_states), 1.0
    for _ in range(num_steps):
        value = value + discount * power @ mean
        visitation = visitation + discount * start @ power
        power, discount = power @ chain, discount * mdp.gamma
    q = reward + mdp.gamma * transition @ value
    return start @ value, value, q, visitation * (1 - mdp.gamma)


@pytest.mark.parametrize("seed", range(3))
def test_solve_is_the_sum_over_time(seed):
    mdp, pi = small(seed)
    found = solve(mdp, pi)
    expected, value, q, visitation = series(mdp, pi)
    np.testing.assert_allclose(found.expected_return, expected, rtol=1e-12)
    np.testing.assert_allclose(found.value, value, rtol=1e-12)
    np.testing.assert_allclose(found.action_value, q, rtol=1e-12)
    np.testing.assert_allclose(found.advantage, q - value[:, None], atol=1e-12)
    np.testing.assert_allclose(found.visitation, visitation, rtol=1e-12)


def test_identities_of_a_solution():
    mdp, pi = small(1, gamma=0.999)
    found = solve(mdp, pi)
    np.testing.assert_allclose(jnp.sum(pi * found.advantage, axis=-1), 0, atol=1e-12)
    np.testing.assert_allclose(found.visitation.sum(), 1, rtol=1e-12)
    _, reward = tabular.induced(mdp, pi)
    np.testing.assert_allclose(found.visitation @ reward, 1e-3 * found.expected_return, rtol=1e-10)
    np.testing.assert_allclose(expected_return(mdp, pi), found.expected_return, rtol=1e-14)


def test_state_distributions():
    mdp, pi = small(2)
    found = tabular.state_distributions(mdp, pi, 300)
    chain, _ = tabular.induced(mdp, pi)
    np.testing.assert_array_equal(found[0], mdp.start)
    np.testing.assert_allclose(found[2], mdp.start @ chain @ chain, rtol=1e-13)
    discounted = 0.1 * 0.9 ** jnp.arange(300) @ found
    np.testing.assert_allclose(discounted, solve(mdp, pi).visitation, rtol=1e-12)
    undiscounted = tabular.undiscounted_visitation(mdp, pi, 300)
    np.testing.assert_allclose(undiscounted, found.mean(0), rtol=1e-12)
    assert jnp.max(jnp.abs(undiscounted - discounted)) > 1e-3  # what a batch has is not d


@pytest.mark.parametrize("seed", range(3))
def test_optimal_policy_by_listing_all(seed):
    mdp, _ = small(seed)
    best = optimal_policy(mdp)
    all_of_them = jnp.eye(3)[jnp.array(list(itertools.product(range(3), repeat=5)))]
    returns = jax.jit(jax.vmap(tabular.expected_return, (None, 0)))(mdp, all_of_them)
    np.testing.assert_allclose(expected_return(mdp, best), returns.max(), rtol=1e-13)
    assert solve(mdp, best).advantage.max() < 1e-12


def test_policy_iteration_ends_on_ties():
    """Two copies of every action: none is better than its twin."""
    mdp, _ = small(0)
    twins = MDP(
        jnp.repeat(mdp.transition, 2, axis=1), jnp.repeat(mdp.reward, 2, axis=1), 0.9, mdp.start
    )
    pair = [expected_return(m, optimal_policy(m)) for m in (mdp, twins)]
    np.testing.assert_allclose(*pair, rtol=1e-13)


# --- constructors ---------------------------------------------------------------------------------


def test_garnet():
    garnet = jax.jit(functools.partial(tabular.garnet, num_states=7, num_actions=3, branching=3))
    mdp = garnet(jax.random.key(0))
    assert mdp.transition.dtype == jnp.float64
    np.testing.assert_allclose(mdp.transition.sum(-1), 1, rtol=1e-14)
    assert (jnp.sum(mdp.transition > 0, axis=-1) == 3).all()
    assert ((mdp.reward >= 0) & (mdp.reward <= 1)).all()
    np.testing.assert_allclose(mdp.start, 1 / 7)
    other = garnet(jax.random.key(1))
    assert (other.reward != mdp.reward).all()
    deterministic = tabular.garnet(jax.random.key(0), 7, 3, branching=1)
    assert jnp.isin(deterministic.transition, jnp.array([0.0, 1.0])).all()


garnet = functools.partial(tabular.garnet, None, 7, 3)
tabulate = functools.partial(tabular.tabulate, None)
GAMMAS = (-0.1, 1.0, float("nan"))


@pytest.mark.parametrize(
    ("constructor", "settings", "message"),
    [
        *((garnet, {"branching": n}, "branching must be between 1 and 7") for n in (0, 8)),
        *((garnet, {"branching": 2, "gamma": x}, "gamma must be at least 0 and") for x in GAMMAS),
        *((tabular.chain, {"gamma": x}, "gamma must be at least 0 and below 1") for x in GAMMAS),
        *((tabular.cliff_walk, {"gamma": x}, "gamma must be at least 0 and") for x in GAMMAS),
        *((tabulate, {"gamma": x}, "gamma must be at least 0 and below 1") for x in GAMMAS),
        (tabular.chain, {"slip": 1.1}, "slip must be between 0 and 1"),
    ],
)
def test_settings_that_can_not_be(constructor, settings, message):
    with pytest.raises(ValueError, match=message):
        constructor(**settings)


def test_chain():
    """Without slips, always on: 10 gamma^4 / (1 - gamma); always back: 2 / (1 - gamma)."""
    mdp = tabular.chain(5, slip=0.0, gamma=0.9)
    on, back = (jnp.zeros((5, 2)).at[:, a].set(1) for a in range(2))
    np.testing.assert_allclose(expected_return(mdp, on), 100 * 0.9**4, rtol=1e-13)
    np.testing.assert_allclose(expected_return(mdp, back), 20, rtol=1e-13)
    np.testing.assert_array_equal(optimal_policy(mdp), on)
    slippery = tabular.chain(5, slip=1.0, gamma=0.9)
    np.testing.assert_allclose(expected_return(slippery, on), 20, rtol=1e-13)


def test_cliff_walk():
    """The shortest way is 13 steps, one cell above the cliff."""
    mdp = tabular.cliff_walk(gamma=0.9)
    best = optimal_policy(mdp)
    cost = (1 - 0.9**13) / (1 - 0.9)
    np.testing.assert_allclose(expected_return(mdp, best), -cost, rtol=1e-13)
    np.testing.assert_allclose(mdp.transition.sum(-1), 1)
    assert mdp.reward[36, 1] == -100
    assert mdp.transition[36, 1, 36] == 1


def test_mix_actions():
    mdp, _ = small(0)
    mixture = np.array([[0.5, 0.5, 0], [0, 1, 0], [0.2, 0.3, 0.5]])
    found = tabular.mix_actions(mdp, mixture)
    for a in range(3):
        row = jnp.broadcast_to(mixture[a], (5, 3))
        chain, reward = tabular.induced(mdp, row)
        np.testing.assert_allclose(found.transition[:, a], chain, rtol=1e-14)
        np.testing.assert_allclose(found.reward[:, a], reward, rtol=1e-14)


# --- policies and batches -------------------------------------------------------------------------


def test_policy_classes():
    groups = jnp.array([0, 1, 0, 1, 1])
    policy, params = tabular.aggregated_policy(groups, 2, 3)
    np.testing.assert_allclose(tabular.probabilities(policy, params, 5), 1 / 3)
    params = jax.random.normal(jax.random.key(0), params.shape)
    pi = tabular.probabilities(policy, params, 5)
    np.testing.assert_allclose(pi, jax.nn.softmax(params)[groups], rtol=1e-14)
    features = jax.nn.one_hot(jnp.arange(15).reshape(5, 3), 15)
    linear, theta = tabular.linear_policy(features)
    free, logits = tabular.softmax_policy(5, 3)
    assert theta.shape == (15,)
    logits = logits + jax.random.normal(jax.random.key(1), logits.shape)
    np.testing.assert_allclose(
        tabular.probabilities(linear, logits.reshape(-1), 5),
        tabular.probabilities(free, logits, 5),
        rtol=1e-14,
    )


CLASSES = {
    "softmax": lambda: tabular.softmax_policy(5, 3),
    "aggregated": lambda: tabular.aggregated_policy(jnp.array([0, 1, 0, 1, 1]), 2, 3),
    "linear": lambda: tabular.linear_policy(jax.random.normal(jax.random.key(9), (5, 3, 4))),
}


@pytest.mark.parametrize("name", CLASSES)
def test_exact_gradient(name):
    """By central differences, and by the batch: (1 - gamma) grad J is the surrogate's gradient."""
    mdp, _ = small(0)
    policy, params = CLASSES[name]()
    params = params + jax.random.normal(jax.random.key(0), params.shape)

    @jax.jit
    def gradients(params):
        batch = tabular.exact_batch(mdp, policy, params)
        gain = jax.grad(lambda p: surrogate(policy, p, batch, 0.0)[0])(params)
        return tabular.policy_gradient(mdp, policy, params), gain

    exact, of_the_batch = gradients(params)
    returns = jax.jit(lambda p: tabular.expected_return(mdp, tabular.probabilities(policy, p, 5)))
    for i in range(params.size):
        step = jnp.zeros(params.size).at[i].set(1e-5).reshape(params.shape)
        slope = (returns(params + step) - returns(params - step)) / 2e-5
        np.testing.assert_allclose(exact.reshape(-1)[i], slope, atol=1e-8)
    np.testing.assert_allclose(of_the_batch, (1 - mdp.gamma) * exact, atol=1e-14)


def test_sampled_batch_is_the_exact_one_in_the_limit():
    mdp, pi = small(0)
    policy, _ = tabular.softmax_policy(5, 3)
    params, n = jnp.log(pi), 20_000
    exact = tabular.exact_batch(mdp, policy, params)
    sample = tabular.sampled_batch(mdp, policy, params, jax.random.key(0), n)
    counts = np.zeros((5, 3))
    np.add.at(counts, (np.asarray(sample.obs), np.asarray(sample.action)), 1)
    expected = np.asarray(exact.weight).reshape(5, 3)
    assert (np.abs(counts / n - expected) < 4.5 * np.sqrt(expected / n)).all()
    advantage = solve(mdp, pi).advantage
    np.testing.assert_allclose(sample.advantage, advantage[sample.obs, sample.action], rtol=1e-13)
    noisy = tabular.sampled_batch(mdp, policy, params, jax.random.key(0), n, noise=2.0)
    np.testing.assert_array_equal(noisy.obs, sample.obs)
    error = noisy.advantage - sample.advantage
    assert abs(error.mean()) < 4.5 * 2 / np.sqrt(n)
    assert abs(error.std() / 2 - 1) < 0.03


def estimates(lam, shift):
    """z-scores of the mean GAE of each pair against A, from a critic that is off by ``shift``."""
    mdp, pi = small(0)
    policy, _ = tabular.softmax_policy(5, 3)
    solution = solve(mdp, pi)
    value = solution.value + shift * jnp.arange(5.0)

    @jax.jit
    def batch(lam, value):
        key = jax.random.key(0)
        sizes = {"num_envs": 20_000, "num_steps": 4}
        return tabular.rollout_batch(mdp, policy, jnp.log(pi), key, **sizes, lam=lam, value=value)

    found = jax.tree.map(np.asarray, batch(lam, value))
    # The first step of each trajectory: independent of one another.
    first = slice(None, None, 4)
    obs, action, advantage = found.obs[first], found.action[first], found.advantage[first]
    scores = []
    for s, a in np.ndindex(5, 3):
        rows = advantage[(obs == s) & (action == a)]
        scores.append((rows.mean() - solution.advantage[s, a]) / (rows.std() / np.sqrt(rows.size)))
    return found, np.abs(scores)


@pytest.mark.parametrize("lam", [0.0, 0.9])
def test_rollout_batch_is_unbiased_with_the_exact_critic(lam):
    found, scores = estimates(lam, 0.0)
    assert scores.max() < 4.5
    mdp, pi = small(0)
    share = np.bincount(found.obs, minlength=5) / found.obs.size
    expected = np.asarray(tabular.undiscounted_visitation(mdp, pi, 4))
    np.testing.assert_allclose(share, expected, atol=0.01)


def test_rollout_batch_is_biased_with_a_wrong_one():
    _, scores = estimates(0.0, 0.5)
    assert scores.max() > 10


@functools.cache
def groups_of_states():
    """A policy that shares parameters, and a batch of each kind for it."""

    @jax.jit
    def batches():
        value = tabular.solve(mdp, tabular.probabilities(policy, params, 5)).value
        key = jax.random.key(0)
        return {
            "exact": tabular.exact_batch(mdp, policy, params),
            "sampled": tabular.sampled_batch(mdp, policy, params, key, 15),
            "rollout": tabular.rollout_batch(
                mdp, policy, params, key, num_envs=5, num_steps=3, lam=0.9, value=value
            ),
        }

    with jax.enable_x64(True):
        mdp, _ = small(0)
        policy, params = tabular.aggregated_policy(jnp.array([0, 1, 0, 1, 1]), 2, 3)
        return mdp, policy, params, batches()


@pytest.mark.parametrize("name", ["vanilla_pg", "trpo", "ppo_clip"])
def test_algorithms_take_every_batch_and_obey_every_bound(name):
    mdp, policy, params, batches = groups_of_states()
    algorithm = few(name, 1.0 if name == "vanilla_pg" else 0.1, num_epochs=4, num_minibatches=3)

    @jax.jit
    def update(batch):
        state = algorithm.init(params)
        new, _, _ = algorithm.update(policy, params, state, batch, jax.random.key(1))
        return [tabular.probabilities(policy, p, 5) for p in (params, new)]

    for kind, batch in batches.items():
        weight = jnp.ones(batch.obs.shape) if batch.weight is None else batch.weight
        found = certificate(
            mdp, *update(batch._replace(weight=weight))
        )  # one structure, one compilation
        for penalty in ("trpo_tv", "trpo_kl", "trpo_pinsker", "trpo_coupling", "cpo"):
            assert abs(found.gap) <= getattr(found, penalty) + 1e-12
        assert found.kl_mean > 1e-5
        if kind == "exact":
            assert found.surrogate_gain > 0
            assert found.improvement > 0


# --- gymnax's environments ------------------------------------------------------------------------

GAMMA, STEPS, EPISODES = 0.9, 80, 3000
ENVIRONMENTS = {
    "FrozenLake-misc": ({}, lambda: tabular.frozen_lake(gamma=GAMMA)),
    "FourRooms-misc": ({"fail_prob": 0.4}, lambda: tabular.four_rooms(fail_prob=0.4, gamma=GAMMA)),
    "DeepSea-bsuite": (
        {"size": 5, "deterministic": False},
        lambda: tabular.deep_sea(5, stochastic=True, gamma=GAMMA),
    ),
}


@functools.cache
def tabulated(name):
    with jax.enable_x64(True):
        return ENVIRONMENTS[name][1]()


@functools.cache
def simulated(name):
    """Discounted returns and visits per episode of a lopsided random policy, in the environment."""
    env = made(name, **ENVIRONMENTS[name][0])
    observations = jnp.asarray(tabulated(name).obs[:-1])
    flat = observations.reshape(len(observations), -1)
    pi = lopsided(env.action_space.n)

    def episode(key):
        reset_key, step_key = jax.random.split(key)
        state, obs = env.reset(reset_key)

        def step(carry, key):
            state, obs, weight, total, visits = carry
            action_key, key = jax.random.split(key)
            action = jax.random.categorical(action_key, jnp.log(jnp.asarray(pi, jnp.float32)))
            visits += weight * jnp.all(flat == obs.reshape(1, -1), axis=-1)
            state, obs, outcome = env.step(key, state, action)
            total += weight * outcome.reward
            over = outcome.terminated | outcome.truncated
            return (state, obs, jnp.where(over, 0, GAMMA * weight), total, visits), None

        first = (state, obs, jnp.float32(1), jnp.float32(0), jnp.zeros(len(flat)))
        keys = jax.random.split(step_key, STEPS)
        (*_, total, visits), _ = jax.lax.scan(step, first, keys)
        return total, visits

    with jax.enable_x64(False):
        keys = jax.random.split(jax.random.key(0), EPISODES)
        return jax.tree.map(np.asarray, jax.jit(jax.vmap(episode))(keys))


def lopsided(num_actions):
    weight = np.array([1.0, 3.0, 5.0, 1.0])[:num_actions]
    return weight / weight.sum()


def worst_score(name, mdp):
    """The largest z-score among the return and the visits to every state."""
    pi = jnp.broadcast_to(lopsided(mdp.reward.shape[1]), mdp.reward.shape)
    exact = solve(mdp, pi)
    returns, visits = simulated(name)
    scores = []
    pairs = [(returns, exact.expected_return)]
    pairs += zip(visits.T, exact.visitation[:-1] / (1 - GAMMA), strict=True)
    for sample, expected in pairs:
        # One more visit in all: a state that was not seen has no spread.
        error = (sample.std() + np.sqrt(1 / EPISODES)) / np.sqrt(EPISODES)
        scores.append(abs(sample.mean() - float(expected)) / error)
    return max(scores)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_tabulated_environments_agree_with_simulation(name):
    assert worst_score(name, tabulated(name).mdp) < 4.5


@pytest.mark.parametrize("name", ["FrozenLake-misc", "FourRooms-misc"])
def test_simulation_catches_a_wrong_mixture(name):
    wrong = tabular.mix_actions(tabulated(name).mdp, 0.6 * np.eye(4) + 0.1)
    assert worst_score(name, wrong) > 6


def test_simulation_catches_a_sea_without_slips():
    assert worst_score("DeepSea-bsuite", tabular.deep_sea(5, gamma=GAMMA).mdp) > 6


def test_known_values_of_the_environments():
    lake = tabulated("FrozenLake-misc")
    assert lake.mdp.reward.shape == (12, 4)  # 11 states to stand on, and the end
    mdp = lake.mdp._replace(gamma=0.99)
    best = expected_return(mdp, optimal_policy(mdp))
    np.testing.assert_allclose(best, 0.542, atol=1e-4)
    size, gamma = 5, 0.9
    sea = tabular.deep_sea(size, gamma=gamma).mdp
    assert sea.reward.shape == (16, 2)
    cost = 0.01 / size * sum(gamma**t for t in range(size))
    best = expected_return(sea, optimal_policy(sea))
    np.testing.assert_allclose(best, gamma ** (size - 1) - cost, rtol=1e-6)
    rooms = tabulated("FourRooms-misc").mdp
    assert rooms.reward.shape == (104, 4)  # 104 cells, the goal among them being the end


def made(name, **params):
    with jax.enable_x64(False):
        return make(name, **params)


@pytest.mark.parametrize(
    ("name", "params", "limits", "message"),
    [
        ("FrozenLake-misc", {}, {}, "FrozenLake-misc draws at random"),
        ("FrozenLake-misc", {"is_slippery": False}, {"max_states": 5}, "than max_states=5 states"),
        (
            "FrozenLake-misc",
            {"is_slippery": False, "max_steps_in_episode": 3},
            {},
            "raise its time limit",
        ),
        ("Pendulum-v1", {}, {}, "Discrete action space"),
    ],
)
def test_tabulate_refuses(name, params, limits, message):
    with pytest.raises(ValueError, match=message):
        tabular.tabulate(made(name, **params), gamma=0.9, **limits)


def test_tabulate_wants_one_array():
    lake = made("FrozenLake-misc", is_slippery=False)

    def reset(key):
        state, obs = lake.reset(key)
        return state, {"cell": obs}

    with pytest.raises(ValueError, match=r"observations of one array.* got dict"):
        tabular.tabulate(lake._replace(reset=reset), gamma=0.9)
