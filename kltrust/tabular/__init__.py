"""The theory, computed: finite MDPs in which everything that an estimate stands for is exact.

A policy is an array [S, A] where theory speaks of it, and a ``policy(params, obs)`` on integer
states where an algorithm moves it; `probabilities` leads from one to the other. Here is one update
of TRPO on an infinite sample, and what is known about it::

    import jax
    from kltrust import tabular, trpo

    with jax.enable_x64(True):
        mdp = tabular.garnet(jax.random.key(0), 10, 3, branching=3)
        policy, params = tabular.softmax_policy(10, 3)
        batch = tabular.exact_batch(mdp, policy, params)
        algorithm = trpo(max_kl=0.01, damping=0.0)
        state, key = algorithm.init(params), jax.random.key(1)
        new_params, _, _ = algorithm.update(policy, params, state, batch, key)
        old, new = (tabular.probabilities(policy, p, 10) for p in (params, new_params))
        tabular.certificate(mdp, old, new)      # improvement, gap, every bound's penalty

Work within ``jax.enable_x64(True)``: the statements here are about digits that float32 lacks.
"""

from kltrust.tabular._bounds import (
    Certificate,
    certificate,
    conservative_mixture,
    conservative_penalty,
    conservative_step_size,
    cpo_penalty,
    expected_advantage_bound,
    performance_difference,
    practical_guarantee,
    surrogate_gain,
    surrogate_return,
    trpo_coefficient,
    trpo_coupling_penalty,
    trpo_kl_penalty,
    trpo_pinsker_penalty,
    trpo_tv_penalty,
)
from kltrust.tabular._estimation import (
    GaeMoments,
    Harm,
    compatible_weights,
    gae_moments,
    harm,
)
from kltrust.tabular._mdp import (
    MDP,
    Solution,
    chain,
    cliff_walk,
    expected_return,
    garnet,
    induced,
    mix_actions,
    optimal_policy,
    solve,
    state_distributions,
    undiscounted_visitation,
)
from kltrust.tabular._oracles import (
    PenalisedStep,
    RegularisedOptimum,
    exact_trpo_step,
    forward_kl_step,
    kl_regularised_optimum,
    mirror_step,
    penalised_step,
    reverse_kl_step,
    trajectory_kl,
)
from kltrust.tabular._policies import (
    aggregated_policy,
    exact_batch,
    linear_policy,
    policy_gradient,
    probabilities,
    rollout_batch,
    sampled_batch,
    softmax_policy,
)
from kltrust.tabular._tabulate import Tabulated, deep_sea, four_rooms, frozen_lake, tabulate

__all__ = [
    "MDP",
    "Certificate",
    "GaeMoments",
    "Harm",
    "PenalisedStep",
    "RegularisedOptimum",
    "Solution",
    "Tabulated",
    "aggregated_policy",
    "certificate",
    "chain",
    "cliff_walk",
    "compatible_weights",
    "conservative_mixture",
    "conservative_penalty",
    "conservative_step_size",
    "cpo_penalty",
    "deep_sea",
    "exact_batch",
    "exact_trpo_step",
    "expected_advantage_bound",
    "expected_return",
    "forward_kl_step",
    "four_rooms",
    "frozen_lake",
    "gae_moments",
    "garnet",
    "harm",
    "induced",
    "kl_regularised_optimum",
    "linear_policy",
    "mirror_step",
    "mix_actions",
    "optimal_policy",
    "penalised_step",
    "performance_difference",
    "policy_gradient",
    "practical_guarantee",
    "probabilities",
    "reverse_kl_step",
    "rollout_batch",
    "sampled_batch",
    "softmax_policy",
    "solve",
    "state_distributions",
    "surrogate_gain",
    "surrogate_return",
    "tabulate",
    "trajectory_kl",
    "trpo_coefficient",
    "trpo_coupling_penalty",
    "trpo_kl_penalty",
    "trpo_pinsker_penalty",
    "trpo_tv_penalty",
    "undiscounted_visitation",
]
