"""V-MPO: fits the better half of the actions, weighted, with KL targets held by duals."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kltrust import tree
from kltrust.algorithms._registry import algorithm
from kltrust.settings import INF, setting
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PyTree, UpdateReport
from kltrust.updates import MinibatchEpochs, Optimizer, Sample, bounded, sample_loss
from kltrust.updates.families import kl_parts
from kltrust.updates.fields import LEARNING_RATE, TARGET_KL
from kltrust.updates.objectives import known_advantage


class Duals(NamedTuple):
    """The temperature and the weights of the two KLs: three [] floats."""

    temperature: Array
    alpha: Array
    alpha_scale: Array


class VMPOState(NamedTuple):
    """The optimisers' states and the duals."""

    optimizer: PyTree
    duals: Duals


@algorithm("vmpo")
class VMPO(MinibatchEpochs):
    """Epochs of minibatch steps towards the better half of the actions (Song et al. 2019).

    minimise  -sum psi log new(a) + alpha (mean KL - target_kl),  psi = softmax(A / temperature)

    over the half of a minibatch with the larger advantages: a reweighted target, fitted by maximum
    likelihood with no importance weight. The KL is KL(old || new), exact. For Gaussians the target
    of the means' KL is target_kl and that of the scales' KL is ``target_scale_kl``, each with its
    own weight. The temperature and both weights are duals: each takes a step of Adam beside every
    step of the policy. The temperature minimises eta (temperature_kl + log mean exp(A / eta)) over
    the same half; a weight moves by how far its KL is from its target. None of them falls below
    ``min_dual``. The KLs are targets, and nothing bounds an update.

    Extra:
        - ``temperature``: the dual of the weights psi, after the update.
        - ``alpha``: the weight of the KL, for a Gaussian of its means' KL, after the update.
        - ``alpha_scale``: the weight of the KL of a Gaussian's scales, after the update.
    """

    learning_rate: Number = setting(3e-4, anneal=1, **LEARNING_RATE)
    target_kl: Number = setting(0.01, **(TARGET_KL | {"infinite": False}))
    target_scale_kl: Number = setting(
        1e-3,
        "For a Gaussian: the set point of the KL of its scales, nats.",
        above=0,
        usual="5e-6 to 5e-5 (Song et al. 2019), over many updates with one target",
    )
    temperature_kl: Number = setting(
        0.1,
        "Bound on the KL, nats, of the weights psi from equal weights.",
        above=0,
        usual="0.01 to 0.1 (Song et al. 2019)",
    )
    init_temperature: Number = setting(
        1.0, "The temperature at the start, in advantages.", above=0, usual="1 (Song et al. 2019)"
    )
    init_alpha: Number = setting(
        1.0, "Both KLs' weights at the start.", above=0, role="drift", usual="1 to 5"
    )
    dual_learning_rate: Number = setting(
        1e-2, "The learning rate of the duals.", at_least=0, usual="1e-4 to 1e-2"
    )
    min_dual: Number = setting(
        1e-8, "No dual falls below it.", above=0, role="floor", usual="1e-8 (Song et al. 2019)"
    )

    def init(self, params: Params) -> VMPOState:
        """Both optimisers' states, and the duals at their start."""
        start = self.init_temperature, self.init_alpha, self.init_alpha
        duals = Duals(*(jnp.asarray(x, tree.wide_dtype(params)) for x in start))
        return VMPOState(self.make_optimizer(self.learning_rate).init((params, duals)), duals)

    def make_optimizer(self, learning_rate: Number) -> optax.GradientTransformation:
        """For (parameters, duals): each has its own optimiser; the duals stay above their floor."""
        inner = super().make_optimizer(learning_rate)
        adam = bounded(Optimizer("adam"), self.dual_learning_rate, INF)

        def init(both: tuple[Params, Duals]) -> PyTree:
            return inner.init(both[0]), adam.init(both[1])

        def update(gradients: Any, state: PyTree, both: Any = None) -> tuple[Any, PyTree]:
            (params, duals), (opt_state, dual_state) = both, state
            changes, opt_state = inner.update(gradients[0], opt_state, params)
            steps, dual_state = adam.update(gradients[1], dual_state)
            steps = jax.tree.map(
                lambda x, step: (jnp.maximum(x + step, self.min_dual) - x).astype(x.dtype),
                duals,
                steps,
            )
            return (changes, steps), (opt_state, dual_state)

        return optax.GradientTransformation(init, update)

    def loss(self, policy: Policy) -> Any:
        """``loss((params, duals), batch) -> []`` for the parameters of a ``policy`` and the duals.

        Each part has a gradient of 0 with respect to the other part's arguments.
        """

        def of_both(both: tuple[Params, Duals], batch: PolicyBatch) -> Array:
            params, duals = both
            fixed = jax.lax.stop_gradient(duals)
            better, advantage = better_half(batch)
            weight = jnp.ones_like(advantage) if batch.weight is None else batch.weight
            counted = jnp.where(better | ~jnp.any(better), jnp.where(better, weight, 1), 0)

            def normaliser(temperature: Array) -> Array:
                return jax.nn.logsumexp(advantage / temperature, b=counted)

            # psi / row weight * total weight: the sum over psi becomes a mean over the rows.
            log_share = advantage / fixed.temperature - normaliser(fixed.temperature)
            share = jnp.where(better, jnp.exp(log_share), 0) * jnp.sum(weight)
            parts: list[tuple[Array, Array]] = []

            def losses(sample: Sample) -> Array:
                kls = kl_parts(sample.old, sample.new)
                parts.append(kls)
                fitted = -tree.weighted(share, sample.log_ratio)
                held = tree.weighted(fixed.alpha, kls[0])
                return fitted + held + tree.weighted(fixed.alpha_scale, kls[1])

            fit = sample_loss(policy, losses, self.entropy_coef)(params, batch)
            means = [tree.weighted_mean(jax.lax.stop_gradient(x), batch.weight) for x in parts[0]]
            spread = normaliser(duals.temperature) - jnp.log(jnp.sum(counted))
            dual = duals.temperature * (self.temperature_kl + spread)
            dual += duals.alpha * (self.target_kl - means[0])
            dual += duals.alpha_scale * (self.target_scale_kl - means[1])
            return fit + jnp.where(jnp.any(better), dual, 0).astype(fit.dtype)

        return of_both

    def update(
        self, policy: Policy, params: Params, state: VMPOState, batch: PolicyBatch, key: Array
    ) -> tuple[Params, VMPOState, UpdateReport]:
        """All epochs; undoing an epoch also undoes its changes of the duals."""
        (params, duals), opt_state, report = self.fit(
            self.loss(policy),
            lambda both, obs: policy(both[0], obs),
            (params, state.duals),
            state.optimizer,
            batch,
            key,
            self.learning_rate,
        )
        extra = {**report.extra, **duals._asdict()}
        return params, VMPOState(opt_state, duals), report._replace(extra=extra)


def better_half(batch: PolicyBatch) -> tuple[Array, Array]:
    """The rows of a ``batch`` with the larger advantages, [N] bool, and its advantages [N].

    They hold half of the weight, rounded up to whole rows; rows tied with the least are included.
    """
    advantage = known_advantage(batch)
    better = advantage >= -tree.weighted_quantile(-advantage, 0.5, batch.weight)
    return better if batch.weight is None else better & (batch.weight > 0), advantage


vmpo = VMPO
