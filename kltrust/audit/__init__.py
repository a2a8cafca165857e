"""How far an update moved the policy: measured in the same way for any algorithm.

The audit takes old and new parameters, whether from an algorithm of this library or from your
function, and adds no cost to the update itself::

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
    print(audit.kl.mean, audit.kl.max, audit.tv.mean, audit.gradient_removed)
    print(model.kl / model.kl_quadratic, model.largest_eigenvalue.value)

All of it is pure: compile it with ``jax.jit``, batch it over lanes with ``jax.vmap``. It returns a
pytree of scalars, which become the columns of a table. The learner's metrics hold `audit_update` of
every update; ``make_learner(..., audit="full")`` adds the rest, see `IterationAudit`.
"""

from kltrust.audit._curvature import (
    CurvatureAudit as CurvatureAudit,
    audit_curvature as audit_curvature,
)
from kltrust.audit._divergence import (
    bretagnolle_huber_bound as bretagnolle_huber_bound,
    exact_total_variation as exact_total_variation,
    gaussian_kl_parts as gaussian_kl_parts,
    normal_total_variation as normal_total_variation,
)
from kltrust.audit._iteration import (
    AUDITS as AUDITS,
    IterationAudit as IterationAudit,
    Reference as Reference,
    audit_by_default as audit_by_default,
    audit_iteration as audit_iteration,
    audit_on_request as audit_on_request,
)
from kltrust.audit._spectrum import (
    EffectiveDimension as EffectiveDimension,
    Estimate as Estimate,
    effective_dimension as effective_dimension,
    largest_eigenvalue as largest_eigenvalue,
)
from kltrust.audit._states import (
    StateAudit as StateAudit,
    Summary as Summary,
    audit_states as audit_states,
    summarise as summarise,
)
from kltrust.audit._training import (
    ReferenceKL as ReferenceKL,
    fisher_rao_length as fisher_rao_length,
    kl_path as kl_path,
    normalizer_kl as normalizer_kl,
    reference_kl as reference_kl,
)
from kltrust.audit._update import (
    UpdateAudit as UpdateAudit,
    audit_update as audit_update,
    clip_partition as clip_partition,
    effective_sample_size as effective_sample_size,
    measure_update as measure_update,
)
from kltrust.types import KLPath as KLPath
from kltrust.updates import log_ratio as log_ratio, mean_kl as mean_kl

__all__ = [name for name in dir() if name[0] != "_"]
