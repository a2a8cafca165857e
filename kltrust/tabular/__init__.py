"""The theory, computed: finite MDPs in which every quantity that training estimates is exact.

For theory a policy is an array [S, A]; for an algorithm it is a ``policy(params, obs)`` on integer
states. `probabilities` turns the latter into the former. Here is one update of TRPO on an infinite
sample, with the bounds on it::

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

Work within ``jax.enable_x64(True)``: the results here need digits that float32 lacks.
"""

from kltrust.tabular._bounds import (
    Certificate as Certificate,
    certificate as certificate,
    conservative_mixture as conservative_mixture,
    conservative_penalty as conservative_penalty,
    conservative_step_size as conservative_step_size,
    cpo_penalty as cpo_penalty,
    expected_advantage_bound as expected_advantage_bound,
    performance_difference as performance_difference,
    practical_guarantee as practical_guarantee,
    surrogate_gain as surrogate_gain,
    surrogate_return as surrogate_return,
    trpo_coefficient as trpo_coefficient,
    trpo_coupling_penalty as trpo_coupling_penalty,
    trpo_kl_penalty as trpo_kl_penalty,
    trpo_pinsker_penalty as trpo_pinsker_penalty,
    trpo_tv_penalty as trpo_tv_penalty,
)
from kltrust.tabular._estimation import (
    Degradation as Degradation,
    GaeMoments as GaeMoments,
    compatible_weights as compatible_weights,
    degradation as degradation,
    gae_moments as gae_moments,
)
from kltrust.tabular._mdp import (
    MDP as MDP,
    Solution as Solution,
    chain as chain,
    cliff_walk as cliff_walk,
    expected_return as expected_return,
    garnet as garnet,
    induced as induced,
    mix_actions as mix_actions,
    optimal_policy as optimal_policy,
    solve as solve,
    state_distributions as state_distributions,
    undiscounted_visitation as undiscounted_visitation,
)
from kltrust.tabular._oracles import (
    PenalisedStep as PenalisedStep,
    RegularisedOptimum as RegularisedOptimum,
    exact_trpo_step as exact_trpo_step,
    forward_kl_step as forward_kl_step,
    kl_regularised_optimum as kl_regularised_optimum,
    mirror_step as mirror_step,
    penalised_step as penalised_step,
    reverse_kl_step as reverse_kl_step,
    trajectory_kl as trajectory_kl,
)
from kltrust.tabular._policies import (
    aggregated_policy as aggregated_policy,
    exact_batch as exact_batch,
    linear_policy as linear_policy,
    policy_gradient as policy_gradient,
    probabilities as probabilities,
    rollout_batch as rollout_batch,
    sampled_batch as sampled_batch,
    softmax_policy as softmax_policy,
)
from kltrust.tabular._tabulate import (
    Tabulated as Tabulated,
    deep_sea as deep_sea,
    four_rooms as four_rooms,
    frozen_lake as frozen_lake,
    tabulate as tabulate,
)

__all__ = [name for name in dir() if name[0] != "_"]
