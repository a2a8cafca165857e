"""One healthy update of a discrete and of a Gaussian policy, and copies of it with one fault each.

A fault is a function from the healthy arrays to what it changes. Nothing is compiled.
"""

import functools

import numpy as np

from kltrust.findings._transitions import estimate

T, B, A, D = 64, 8, 4, 3
GAMMA, LAM = 0.97, 0.9


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gaussian_log_prob(actions, mean, std):
    z = (actions - mean) / std
    return (-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum(-1)


def discrete_log_prob(actions, logits):
    top = logits - logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(top, actions[..., None], -1)[..., 0]
    return chosen - np.log(np.exp(top).sum(-1))


def transitions(rng):
    """A rollout whose episodes end in both ways, and its advantages."""
    terminated = rng.random((T, B)) < 0.06
    truncated = ~terminated & (rng.random((T, B)) < 0.08)
    values = rng.normal(3, 1, (T, B))
    # Before the reset: where an episode went on, it is the value of the next row.
    next_values = np.concatenate([values[1:], rng.normal(3, 1, (1, B))])
    ended = terminated | truncated
    next_values[ended] = rng.normal(3, 1, int(ended.sum()))
    rewards = rng.normal(0.1, 1, (T, B))
    of = {
        "rewards": rewards,
        "values": values,
        "next_values": next_values,
        "terminated": terminated,
        "truncated": truncated,
    }
    raw = estimate(rewards, values, next_values, terminated, ended, GAMMA, LAM)
    return of, raw


def standardised(x):
    return (x - x.mean()) / x.std()


@functools.cache
def discrete():
    """All arguments of `judge_update` of a healthy update of a softmax policy, rows [T, B]."""
    rng = np.random.default_rng(0)
    rollout, raw = transitions(rng)
    logits = rng.normal(0, 1, (T, B, A))
    actions = (softmax(logits).cumsum(-1) > rng.random((T, B, 1))).argmax(-1)
    advantages = standardised(raw)
    # A step along the gradient of log new(a) times the advantage, state by state.
    step = 0.15 * advantages[..., None] * (np.eye(A)[actions] - softmax(logits))
    new = logits + step + 0.02 * rng.normal(size=logits.shape)
    return {
        "old": logits,
        "new": new,
        "actions": actions,
        "advantages": advantages,
        "log_probs": discrete_log_prob(actions, logits),
        "mask": np.ones((T, B, A), bool),
        "observations": rng.normal(0, 1, (T, B, 5)),
        "targets": raw + rollout["values"],
        "new_values": rollout["values"] + 0.5 * raw,
        "gradient_norms": rng.uniform(0.1, 1, 40),
        "gamma": GAMMA,
        "gae_lambda": LAM,
        "claims": {"bound": 0.05, "clip": 0.2, "gradient bound": 0.5, "value clip": 10.0},
        **rollout,
    }


@functools.cache
def gaussian():
    """Likewise of a Gaussian policy."""
    rng = np.random.default_rng(1)
    rollout, raw = transitions(rng)
    mean, std = rng.normal(0, 1, (T, B, D)), np.array([0.6, 1.0, 1.5]) * np.ones((T, B, D))
    actions = mean + std * rng.normal(size=mean.shape)
    advantages = standardised(raw)
    z = (actions - mean) / std
    new_mean = mean + 0.06 * advantages[..., None] * z * std
    new_std = std * np.exp(0.01)
    return {
        "old": (mean, std),
        "new": (new_mean, new_std),
        "actions": actions,
        "advantages": advantages,
        "log_probs": gaussian_log_prob(actions, mean, std),
        "observations": rng.normal(0, 1, (T, B, 5)),
        "targets": raw + rollout["values"],
        "gamma": GAMMA,
        "gae_lambda": LAM,
        "claims": {"bound": 0.05},
        **rollout,
    }


HEALTHY = {"discrete": discrete, "gaussian": gaussian}
UPDATES = {}
"""By name: (which healthy update, what changes, the finding that has to be made)."""


def planted(of, finding, public=False):
    """Registers a fault; ``public`` ones are of a kind that a public project has had."""

    def register(change):
        UPDATES[change.__name__] = (of, change, finding, public)
        return change

    return register


def arrays(name):
    """The arguments of a planted update."""
    of, change, *_ = UPDATES[name]
    healthy = HEALTHY[of]()
    return {**healthy, **change(dict(healthy), np.random.default_rng(7))}


def remade(u, **changes):
    """The advantages of another recursion, standardised."""
    of = {name: u[name] for name in ("rewards", "values", "next_values", "terminated")}
    of |= {"ended": u["terminated"] | u["truncated"], "gamma": GAMMA, "lam": LAM, **changes}
    return {"advantages": standardised(estimate(**of))}


# --- where the update starts ----------------------------------------------------------------------


@planted("discrete", "ratio_not_one_at_start", public=True)
def normaliser_updated_before_the_update(u, rng):
    """Observations are normalised by statistics that the batch itself has moved."""
    moved = u["old"] * 1.05 + 0.02
    return {"old": moved, "new": u["new"] * 1.05 + 0.03}


@planted("gaussian", "ratio_not_one_at_start", public=True)
def dropout_left_on(u, rng):
    """Two passes through one network differ, since units are dropped at random."""
    mean, std = u["old"]
    return {"old": (mean * (rng.random(mean.shape) > 0.1), std)}


@planted("discrete", "old_policy_rebuilt", public=True)
def old_evaluated_after_the_step(u, rng):
    """Old and new are both evaluated with the parameters after the update."""
    return {"old": u["new"]}


@planted("gaussian", "new_is_old", public=True)
def learning_rate_of_zero(u, rng):
    """A schedule had come to its end before the run began."""
    return {"new": u["old"]}


@planted("discrete", "new_is_old")
def optimiser_of_other_parameters(u, rng):
    """The optimiser was made before the network was moved, and steps copies."""
    return {"new": u["old"].copy()}


@planted("gaussian", "half_precision", public=True)
def log_probabilities_in_bfloat16(u, rng):
    """Autocasting rounds log-probabilities to eight bits."""
    bits = u["log_probs"].astype(np.float32).view(np.uint32) & 0xFFFF0000
    return {"log_probs": bits.view(np.float32)}


@planted("discrete", "half_precision")
def logits_in_float16(u, rng):
    """The head of the policy stays in half precision."""
    return {"old": u["old"].astype(np.float16), "new": u["new"].astype(np.float16)}


@planted("gaussian", "actions_clipped", public=True)
def clipped_actions_stored(u, rng):
    """The action is clipped to the environment's bounds before it is stored."""
    actions = np.clip(u["actions"], -1, 1)
    return {"actions": actions, "log_probs": gaussian_log_prob(u["actions"], *u["old"])}


@planted("gaussian", "actions_squashed", public=True)
def squashed_actions_stored(u, rng):
    """The action went through tanh; its density is asked without the Jacobian."""
    actions = np.tanh(u["actions"])
    return {"actions": actions, "log_probs": gaussian_log_prob(actions, *u["old"])}


@planted("discrete", "actions_not_from_old", public=True)
def rows_flattened_in_another_order(u, rng):
    """Actions are flattened time first and everything else environment first."""
    actions = u["actions"].T.reshape(T, B)
    return {"actions": actions, "log_probs": discrete_log_prob(actions, u["old"])}


@planted("discrete", "actions_not_from_old")
def greedy_actions(u, rng):
    """The rollout takes the mode of the policy."""
    actions = u["old"].argmax(-1)
    return {"actions": actions, "log_probs": discrete_log_prob(actions, u["old"])}


@planted("gaussian", "actions_not_from_old", public=True)
def variance_taken_for_deviation(u, rng):
    """The network's variance is handed to a distribution that takes a deviation."""
    (mean, std), (new_mean, new_std) = u["old"], u["new"]
    old = (mean, std**2)
    log_probs = gaussian_log_prob(u["actions"], *old)
    return {"old": old, "new": (new_mean, new_std**2), "log_probs": log_probs}


@planted("gaussian", "log_prob_not_summed", public=True)
def log_probabilities_averaged(u, rng):
    """Log-probabilities are averaged over the dimensions of an action."""
    return {"log_probs": u["log_probs"] / D}


def masked(logits, mask):
    return np.where(mask, logits, -1e9)


@planted("discrete", "illegal_actions")
def mask_ignored_when_acting(u, rng):
    """The update masks what the rollout had not."""
    mask = rng.random((T, B, A)) > 0.3
    mask[..., 0] = True
    old, new = masked(u["old"], mask), masked(u["new"], mask)
    return {"old": old, "new": new, "mask": mask, "log_probs": None}


@planted("discrete", "masks_differ", public=True)
def mask_on_one_side_only(u, rng):
    """The loss recomputes log-probabilities without the mask that acting had."""
    mask = np.ones((T, B, A), bool)
    np.put_along_axis(mask, (u["actions"][..., None] + 1) % A, False, -1)
    old = masked(u["old"], mask)
    return {"old": old, "mask": mask, "log_probs": discrete_log_prob(u["actions"], old)}


@planted("discrete", "mask_allows_nothing")
def mask_of_a_finished_game(u, rng):
    """A finished game allows no action."""
    mask = u["mask"].copy()
    mask[u["terminated"]] = False
    return {"mask": mask}


@planted("gaussian", "arrays_not_finite", public=True)
def deviation_of_nan(u, rng):
    """A deviation went below 0 and became NaN."""
    mean, std = u["new"]
    std = std.copy()
    std[40, 3, 1] = np.nan
    return {"new": (mean, std)}


# --- what it is fed with --------------------------------------------------------------------------


@planted("discrete", "advantages_constant", public=True)
def advantages_standardised_alone(u, rng):
    """Advantages are standardised over an axis of one entry."""
    return {"advantages": np.zeros((T, B)), "rewards": None}


@planted("discrete", "advantages_dominated")
def one_reward_of_another_scale(u, rng):
    """One bonus of a million."""
    rewards = u["rewards"].copy()
    rewards[50, 2] = 1e6
    of = {**u, "rewards": rewards}
    return {"rewards": rewards, **remade(of, rewards=rewards)}


@planted("discrete", "step_against_advantages", public=True)
def loss_of_the_wrong_sign(u, rng):
    """The surrogate is minimised."""
    return {"new": 2 * u["old"] - u["new"]}


@planted("discrete", "bound_exceeded", public=True)
def bound_checked_on_a_minibatch(u, rng):
    """The step that left the bound was applied before the KL was looked at."""
    return {"new": u["old"] + 8 * (u["new"] - u["old"])}


@planted("discrete", "logits_saturated")
def logits_that_grew(u, rng):
    """The policy is certain everywhere."""
    logits = 40 * np.eye(A)[u["actions"]] + u["old"]
    return {"old": logits, "new": logits + 0.01 * rng.normal(size=logits.shape), "log_probs": None}


@planted("gaussian", "deviation_extreme", public=True)
def deviation_without_ceiling(u, rng):
    """An entropy bonus drives the deviation up."""
    mean, std = u["old"]
    wide = np.full_like(std, 3e3)
    actions = mean + wide * rng.normal(size=mean.shape)
    return {"old": (mean, wide), "new": (mean, wide * 1.01), "actions": actions, "log_probs": None}


@planted("discrete", "observation_scale", public=True)
def pictures_of_bytes(u, rng):
    """Pictures in bytes reach the network undivided."""
    return {"observations": rng.integers(0, 256, (T, B, 5)).astype(np.float32)}


@planted("discrete", "observations_constant")
def one_observation_for_all_rows(u, rng):
    """A view of one buffer is stored at every step."""
    return {"observations": np.broadcast_to(rng.normal(size=5), (T, B, 5))}


@planted("discrete", "critic_constant", public=True)
def value_loss_that_broadcasts(u, rng):
    """[N] less [N, 1] teaches the critic the mean."""
    values = np.full((T, B), u["targets"].mean())
    return {"values": values, "rewards": None}


@planted("discrete", "values_at_their_clip")
def value_clip_of_small_scale(u, rng):
    """Returns of thousands, and a value clip made for returns of 1."""
    sign = np.sign(rng.normal(size=(T, B)))
    values = u["values"]
    claims = {**u["claims"], "value clip": 0.2}
    return {
        "targets": values + 500 * sign,
        "new_values": values + 0.2 * sign,
        "claims": claims,
        "rewards": None,
    }


@planted("discrete", "gradient_always_bounded")
def gradients_far_beyond_their_bound(u, rng):
    """Losses are sums over the batch, and the bound is made for means."""
    return {"gradient_norms": 500 * u["gradient_norms"]}


# --- what is logged -------------------------------------------------------------------------------


def kls(u):
    (m0, s0), (m1, s1) = u["old"], u["new"]
    each = np.log(s1 / s0) + (s0**2 + (m0 - m1) ** 2) / (2 * s1**2) - 0.5
    return each.sum(-1)


@planted("gaussian", "kl_averaged_over_dimensions", public=True)
def kl_averaged(u, rng):
    """The KL is averaged over the dimensions of an action."""
    return {"logged_kl": kls(u).mean() / D}


@planted("gaussian", "kl_of_the_other_direction", public=True)
def kl_turned_round(u, rng):
    """KL(new || old) is logged as KL(old || new)."""
    mean, std = u["new"]
    new = (mean, std * 0.6)
    return {"new": new, "logged_kl": kls({"old": new, "new": u["old"]}).mean(), "claims": {}}


@planted("discrete", "kl_estimate_signed", public=True)
def kl_of_the_mean_log_ratio(u, rng):
    """The mean of -log ratio is logged, and is negative in this batch."""
    return {"logged_kl": -0.003}


@planted("discrete", "minibatch_kl_scatters")
def steered_by_a_minibatch(u, rng):
    """Minibatches of eight rows decide when to stop."""
    return {"minibatch_kls": np.array([0.001, 0.2, 0.0004, 0.15, 0.002, 0.0001])}


# --- how advantages were made ---------------------------------------------------------------------


@planted("discrete", "time_limit_taken_for_end", public=True)
def time_limits_are_ends(u, rng):
    """One flag, done, stands for both ways to end."""
    return remade(u, terminated=u["terminated"] | u["truncated"])


@planted("gaussian", "trace_across_episodes", public=True)
def trace_over_time_limits(u, rng):
    """Only a true end stops the recursion; a time limit does not."""
    return remade(u, ended=u["terminated"])


@planted("discrete", "trace_across_episodes")
def trace_over_everything(u, rng):
    """Nothing stops the recursion."""
    return remade(u, ended=np.zeros((T, B), bool))


@planted("gaussian", "end_taken_for_time_limit")
def bootstrap_at_every_end(u, rng):
    """Flags come in the other order."""
    return remade(u, terminated=np.zeros((T, B), bool))


@planted("discrete", "bootstrap_from_next_episode", public=True)
def value_of_the_next_start(u, rng):
    """With auto-reset, the value after a time limit is that of a new episode."""
    after = np.concatenate([u["values"][1:], u["next_values"][-1:]])
    return remade(u, next_values=np.where(u["truncated"], after, u["next_values"]))


@planted("gaussian", "flags_one_step_off", public=True)
def flags_of_the_step_before(u, rng):
    """The flag that is stored says whether the row begins an episode."""
    ended = np.roll(u["terminated"] | u["truncated"], 1, 0)
    terminated = np.roll(u["terminated"], 1, 0)
    ended[0] = terminated[0] = False
    return remade(u, ended=ended, terminated=terminated)


@planted("discrete", "other_discount")
def discount_that_does_not_arrive(u, rng):
    """The estimator's default stands in for the setting."""
    return remade(u, gamma=0.99, lam=0.95)


@planted("gaussian", "advantages_not_of_transitions")
def values_of_the_next_update(u, rng):
    """Advantages are made of values that the critic's update has moved."""
    moved = u["values"] + rng.normal(0, 0.5, (T, B))
    return remade(u, values=moved)


@planted("discrete", "ends_all_at_one_length")
def limit_reported_as_end(u, rng):
    """The environment's time limit comes as terminated."""
    shape = (256, B)
    terminated = np.zeros(shape, bool)
    terminated[49::50] = True
    of_rows = {k: x for k, x in u.items() if getattr(x, "shape", ())[:2] == (T, B)}
    wide = {k: np.concatenate([x] * 4) for k, x in of_rows.items()}
    values = wide["values"]
    next_values = np.concatenate([values[1:], values[:1]])
    truncated = np.zeros(shape, bool)
    of = {**wide, "next_values": next_values, "terminated": terminated, "truncated": truncated}
    return {**of, **remade(of)}
