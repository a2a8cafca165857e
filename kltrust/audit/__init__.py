"""How far an update moved the policy: measured, by one standard, for any algorithm.

Whatever turned old parameters into new ones, an algorithm of this library or a function of one's
own, is audited alike, at no cost to the update itself::

    import distrax, jax
    from kltrust import PolicyBatch, audit_curvature, audit_update

    policy = lambda weights, obs: distrax.Categorical(logits=obs @ weights)
    old, obs = jax.numpy.zeros((4, 3)), jax.random.normal(jax.random.key(0), (200, 4))
    action = policy(old, obs).sample(seed=jax.random.key(1))
    batch = PolicyBatch(obs, action, obs[:, 0] * (action - 1), policy(old, obs))
    new = old.at[0, 2].add(0.5)  # or what an algorithm makes of the batch
    audit = jax.jit(audit_update, static_argnums=0)(policy, old, new, batch)
    curvature = jax.jit(audit_curvature, static_argnums=0)
    model = curvature(policy, old, new, batch, damping=0.1, key=jax.random.key(2))
    print(audit.kl.mean, audit.kl.max, audit.tv.mean, audit.killed)
    print(model.kl / model.kl_quadratic, model.largest_eigenvalue.value)

All of it is pure: compile it with ``jax.jit``, batch it over lanes with ``jax.vmap``. What it
returns is a pytree of scalars, which becomes columns where it becomes a table. The learner's
metrics hold `audit_update` of every update; ``make_learner(..., audit="full")`` adds the rest, see
`IterationAudit`.
"""

from kltrust.audit._curvature import CurvatureAudit, audit_curvature
from kltrust.audit._divergence import (
    bretagnolle_huber_bound,
    exact_total_variation,
    gaussian_kl_parts,
    normal_total_variation,
)
from kltrust.audit._iteration import (
    AUDITS,
    IterationAudit,
    Reference,
    audit_by_default,
    audit_iteration,
)
from kltrust.audit._measure import measure_update
from kltrust.audit._request import audit_on_request
from kltrust.audit._spectrum import (
    EffectiveDimension,
    Estimate,
    effective_dimension,
    largest_eigenvalue,
)
from kltrust.audit._states import StateAudit, audit_states
from kltrust.audit._summary import Summary, summarise
from kltrust.audit._training import (
    ReferenceKL,
    fisher_rao_length,
    kl_path,
    normalizer_kl,
    reference_kl,
)
from kltrust.audit._update import UpdateAudit, audit_update, clip_partition, effective_sample_size
from kltrust.types import KLPath
from kltrust.updates import log_ratio, mean_kl

__all__ = [
    "AUDITS",
    "CurvatureAudit",
    "EffectiveDimension",
    "Estimate",
    "IterationAudit",
    "KLPath",
    "Reference",
    "ReferenceKL",
    "StateAudit",
    "Summary",
    "UpdateAudit",
    "audit_by_default",
    "audit_curvature",
    "audit_iteration",
    "audit_on_request",
    "audit_states",
    "audit_update",
    "bretagnolle_huber_bound",
    "clip_partition",
    "effective_dimension",
    "effective_sample_size",
    "exact_total_variation",
    "fisher_rao_length",
    "gaussian_kl_parts",
    "kl_path",
    "largest_eigenvalue",
    "log_ratio",
    "mean_kl",
    "measure_update",
    "normal_total_variation",
    "normalizer_kl",
    "reference_kl",
    "summarise",
]
