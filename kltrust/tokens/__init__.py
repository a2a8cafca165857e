"""Trust regions over sequences of tokens: losses, masks, reductions, advantages and KLs.

All are pure functions of arrays [*E, L]: sequences of at most L tokens, with a mask that is true
for the tokens that count. A loss is built from a few parts:

    log_ratio = token_log_ratio(log_new, log_old, mask)           # sets masked places to 0
    loss = clipped_surrogate_loss(log_ratio, advantage, 0.2, clip_high=0.28)      # for each token
    loss += beta * kl_k2(token_log_ratio(log_new, log_ref, mask))             # any estimator of KL
    reduce_tokens(loss, mask, "token_mean")                                             # by name

`losses` has the losses specific to tokens, `kltrust.losses` the general ones. `selection` has
importance weights and masks, `sums` log-probabilities and reductions, `groups` advantages, `kl` the
KL of sequences, and `vocabulary` the KL of a token, exact or bounded. docs/tokens.md says what each
optimises.
"""

from kltrust.tokens.groups import group_advantages, leave_one_out_advantages
from kltrust.tokens.kl import sequence_kl, sequence_kl_exact, token_kl, token_kl_exact
from kltrust.tokens.losses import (
    clipped_log_ratio,
    clipped_weight_loss,
    sequence_log_ratio,
    soft_gate_loss,
    with_gradient_of,
)
from kltrust.tokens.selection import (
    clip_cov_tokens,
    kl_cov_tokens,
    masked_weight,
    token_covariance,
    truncated_weight,
    within,
)
from kltrust.tokens.sums import (
    REDUCTIONS,
    reduce_tokens,
    rewards_to_go,
    sequence_max,
    sequence_mean,
    sequence_sum,
    token_log_probs,
    token_log_ratio,
    token_weights,
)
from kltrust.tokens.vocabulary import PartialKL, binary_kl, binary_tv, over_chunks, top_k_kl

__all__ = [
    "REDUCTIONS",
    "PartialKL",
    "binary_kl",
    "binary_tv",
    "clip_cov_tokens",
    "clipped_log_ratio",
    "clipped_weight_loss",
    "group_advantages",
    "kl_cov_tokens",
    "leave_one_out_advantages",
    "masked_weight",
    "over_chunks",
    "reduce_tokens",
    "rewards_to_go",
    "sequence_kl",
    "sequence_kl_exact",
    "sequence_log_ratio",
    "sequence_max",
    "sequence_mean",
    "sequence_sum",
    "soft_gate_loss",
    "token_covariance",
    "token_kl",
    "token_kl_exact",
    "token_log_probs",
    "token_log_ratio",
    "token_weights",
    "top_k_kl",
    "truncated_weight",
    "with_gradient_of",
    "within",
]
