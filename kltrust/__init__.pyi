"""The public names, for type checkers and for `kltrust.__getattr__`: this list is the only one."""

from kltrust import (
    advantages as advantages,
    algorithms as algorithms,
    audit as audit,
    critic as critic,
    divergences as divergences,
    environments as environments,
    experiments as experiments,
    findings as findings,
    fisher as fisher,
    learner as learner,
    loops as loops,
    losses as losses,
    masks as masks,
    networks as networks,
    normalization as normalization,
    recurrent as recurrent,
    results as results,
    rollout as rollout,
    sequences as sequences,
    settings as settings,
    solvers as solvers,
    tabular as tabular,
    tokens as tokens,
    tree as tree,
    types as types,
    updates as updates,
)
from kltrust.advantages import gae as gae, standardize as standardize
from kltrust.algorithms import algorithm as algorithm, register_algorithm as register_algorithm
from kltrust.algorithms._drift_ppo import drift_ppo as drift_ppo
from kltrust.algorithms._espo import espo as espo
from kltrust.algorithms._fixpo import fixpo as fixpo
from kltrust.algorithms._fr_ppo import fr_ppo as fr_ppo
from kltrust.algorithms._mdpo import mdpo as mdpo
from kltrust.algorithms._npg import npg as npg
from kltrust.algorithms._ppo import ppo as ppo
from kltrust.algorithms._ppo_adaptive_lr import ppo_adaptive_lr as ppo_adaptive_lr
from kltrust.algorithms._ppo_asymmetric import ppo_asymmetric as ppo_asymmetric
from kltrust.algorithms._ppo_clip import ppo_clip as ppo_clip
from kltrust.algorithms._ppo_ewma import ppo_ewma as ppo_ewma
from kltrust.algorithms._ppo_penalty import (
    ppo_penalty as ppo_penalty,
    ppo_reverse_kl as ppo_reverse_kl,
)
from kltrust.algorithms._spma import spma as spma
from kltrust.algorithms._spo import spo as spo
from kltrust.algorithms._tr_ppo import tr_ppo as tr_ppo
from kltrust.algorithms._trgppo import trgppo as trgppo
from kltrust.algorithms._trpl import trpl as trpl
from kltrust.algorithms._trpo import trpo as trpo
from kltrust.algorithms._vanilla_pg import vanilla_pg as vanilla_pg
from kltrust.algorithms._vmpo import vmpo as vmpo
from kltrust.audit import (
    CurvatureAudit as CurvatureAudit,
    IterationAudit as IterationAudit,
    StateAudit as StateAudit,
    UpdateAudit as UpdateAudit,
    audit_curvature as audit_curvature,
    audit_states as audit_states,
    audit_update as audit_update,
    bretagnolle_huber_bound as bretagnolle_huber_bound,
    fisher_rao_length as fisher_rao_length,
    kl_path as kl_path,
    measure_update as measure_update,
    normalizer_kl as normalizer_kl,
    reference_kl as reference_kl,
)
from kltrust.critic import value_regression as value_regression
from kltrust.divergences import (
    categorical_kl as categorical_kl,
    categorical_kl_from_logits as categorical_kl_from_logits,
    control_variate_coefficient as control_variate_coefficient,
    cross_entropy as cross_entropy,
    distribution_entropy as distribution_entropy,
    entropy as entropy,
    jensen_shannon as jensen_shannon,
    kl_control_variate as kl_control_variate,
    kl_divergence as kl_divergence,
    kl_k1 as kl_k1,
    kl_k2 as kl_k2,
    kl_k3 as kl_k3,
    kl_reverse_k1 as kl_reverse_k1,
    kl_reverse_k3 as kl_reverse_k3,
    masked_logits as masked_logits,
    pinsker_bound as pinsker_bound,
    quadrature_kl as quadrature_kl,
    ratio_weighted as ratio_weighted,
    renyi as renyi,
    total_variation as total_variation,
    wasserstein2 as wasserstein2,
)
from kltrust.environments import (
    bound_actions as bound_actions,
    check_env as check_env,
    from_functions as from_functions,
    hide_observations as hide_observations,
    make as make,
    register as register,
)
from kltrust.findings import judge as judge, judge_update as judge_update
from kltrust.fisher import (
    FisherOperator as FisherOperator,
    fisher_operator as fisher_operator,
    fisher_quadratic_form as fisher_quadratic_form,
    fisher_root as fisher_root,
    fisher_vector_product as fisher_vector_product,
)
from kltrust.learner import (
    Learner as Learner,
    LearnerState as LearnerState,
    Metrics as Metrics,
    check_agent as check_agent,
    evaluate as evaluate,
    make_learner as make_learner,
    policy_of as policy_of,
    policy_step_of as policy_step_of,
    run as run,
    train as train,
)
from kltrust.losses import (
    bounded_kl_loss as bounded_kl_loss,
    clipped_surrogate_loss as clipped_surrogate_loss,
    clipped_value_loss as clipped_value_loss,
    entropy_loss as entropy_loss,
    fisher_rao_loss as fisher_rao_loss,
    importance_ratio as importance_ratio,
    kl_clipped_loss as kl_clipped_loss,
    kl_constraint as kl_constraint,
    kl_rollback_loss as kl_rollback_loss,
    learned_drift_loss as learned_drift_loss,
    log_surrogate_loss as log_surrogate_loss,
    penalty_surrogate_loss as penalty_surrogate_loss,
    rollback_loss as rollback_loss,
    spo_loss as spo_loss,
    surrogate_loss as surrogate_loss,
    value_loss as value_loss,
    weighted_mean as weighted_mean,
)
from kltrust.networks import actor_critic as actor_critic, recurrent_agent as recurrent_agent
from kltrust.results import load as load, numpy_policy as numpy_policy, sweep as sweep
from kltrust.settings import setting as setting
from kltrust.solvers import (
    LineSearchResult as LineSearchResult,
    backtracking_line_search as backtracking_line_search,
    conjugate_gradient as conjugate_gradient,
    trust_region_scale as trust_region_scale,
)
from kltrust.tokens import (
    rewards_to_go as rewards_to_go,
    sequence_kl as sequence_kl,
    sequence_kl_exact as sequence_kl_exact,
    sequence_mean as sequence_mean,
    sequence_sum as sequence_sum,
    token_kl as token_kl,
    token_kl_exact as token_kl_exact,
    token_log_probs as token_log_probs,
)
from kltrust.types import (
    ActorCritic as ActorCritic,
    Array as Array,
    Box as Box,
    Critic as Critic,
    CriticBatch as CriticBatch,
    Discrete as Discrete,
    Distribution as Distribution,
    Env as Env,
    KLPath as KLPath,
    Masked as Masked,
    MaskedSpace as MaskedSpace,
    Memory as Memory,
    MultiBinary as MultiBinary,
    MultiDiscrete as MultiDiscrete,
    Number as Number,
    Outcome as Outcome,
    Params as Params,
    Policy as Policy,
    PolicyBatch as PolicyBatch,
    PolicyUpdate as PolicyUpdate,
    PyTree as PyTree,
    Sequences as Sequences,
    Space as Space,
    Transition as Transition,
    UpdatePair as UpdatePair,
    UpdateReport as UpdateReport,
)

__version__: str
