"""Findings about the policy, the critic and the returns, from the metrics of a run."""

from __future__ import annotations

import numpy as np

from kltrust.findings._declare import TRAINING, Evidence, Missing, finding
from kltrust.findings._lane import Lane


def _gained(lane: Lane) -> float:
    """The rise of the mean return from the first quarter to the last."""
    returns = lane.returns(8)
    first, last = returns[:2], returns[-2:]
    if np.isnan(first).all() or np.isnan(last).all():
        raise Missing("episodes")
    return float(np.nanmean(last) - np.nanmean(first))


@finding(
    "warning",
    TRAINING,
    means="A state offers nothing that is legal, or the mask means the opposite.",
    remedy="A mask is true for what is allowed; end the episode where nothing is.",
)
def mask_allows_nothing(lane: Lane) -> Evidence | None:
    """Some observations have a mask that allows no action."""
    return lane.when("fully_masked", lane["fully_masked"] > 0)


@finding(
    "warning",
    TRAINING,
    means="The policy became certain before it was good: steps too long at the start, advantages "
    "of a scale that is too large, no bonus for entropy.",
    remedy="Shorter steps at first, an entropy bonus, standardised advantages.",
    explains=("kl_always_zero",),
)
def entropy_collapsed(lane: Lane) -> Evidence | None:
    """The policy became almost deterministic, and the return did not rise."""
    lane.need(10)
    entropy = lane["entropy"]
    start = float(np.mean(entropy[: max(2, lane.length // 10)]))
    # For a discrete policy a share of its first entropy; for a density, which may have a negative
    # entropy, a fall in nats.
    floor = 0.05 * start if start > 0 and entropy.min() >= 0 else start - 6
    late = lane.late(entropy)
    if np.median(late) > floor or _gained(lane) > 0:
        return None
    return lane.when("entropy", entropy <= floor, limit=floor)


@finding(
    "warning",
    TRAINING,
    means="The entropy bonus outweighs the advantages, or the deviation is not bound: noise grows "
    "until actions are at their limits.",
    remedy="A smaller entropy bonus; actions bound by the environment do not reward more noise.",
)
def entropy_grows(lane: Lane) -> Evidence | None:
    """The entropy grew by more than a nat and a half, to the end."""
    lane.need(10)
    entropy = lane["entropy"]
    start = float(np.mean(entropy[:2]))
    late = lane.late(entropy)
    if np.median(late) < start + 1.5 or entropy[-1] < late[0]:
        return None
    return lane.when("entropy", entropy > start + 1.5, limit=start + 1.5)


@finding(
    "note",
    TRAINING,
    means="Updates move the policy to and fro: no signal in the advantages, or steps too short.",
    remedy="Look at the returns: is any reward ever seen? Then longer steps or larger batches.",
)
def entropy_unmoved(lane: Lane) -> Evidence | None:
    """The entropy stayed within a thousandth of where it began."""
    lane.need(20)
    entropy = lane["entropy"]
    moved = np.abs(entropy - entropy[0])
    limit = 1e-3 * max(abs(entropy[0]), 1e-3)
    return lane.when("abs(entropy - first)", moved <= limit, values=moved, limit=limit, share=0.999)


def _varies(lane: Lane) -> np.ndarray:
    """[n] explained variance, NaN where targets do not vary and it says nothing."""
    explained = lane["explained_variance"]
    return np.where(explained == 0, np.nan, explained)


def _learned(lane: Lane) -> bool:
    """Whether the critic's error fell to a fifth: its targets may then hardly vary."""
    loss = lane["value_loss"]
    early = np.median(loss[: max(1, lane.length // 4)])
    return bool(np.median(lane.late(loss)) < 0.2 * early)


@finding(
    "warning",
    TRAINING,
    means="Its learning rate is 0 or of another scale, its targets are out of its reach, the loss "
    "compares shapes that broadcast, or the observations do not tell how the future goes.",
    remedy="A larger learning rate or more epochs of the critic; scaled rewards; check that values "
    "and targets are of one shape.",
)
def critic_learns_nothing(lane: Lane) -> Evidence | None:
    """The critic explains nothing of its targets' variance, to the end."""
    lane.need(20)
    explained = _varies(lane)
    late = lane.late(explained)
    if np.isnan(late).mean() > 0.5 or np.nanmax(late) > 0.1 or _learned(lane):
        return None
    return lane.typical("explained_variance", 0.05, np.less, values=explained)


@finding(
    "warning",
    TRAINING,
    means="The critic is worse than a constant: its learning rate is too large, it is trained on "
    "other targets than it is measured by, or the targets' scale moves under it.",
    remedy="A smaller learning rate; targets of the same rewards as the advantages; rewards scaled "
    "by statistics that settle.",
    explains=("critic_learns_nothing",),
)
def critic_worse_than_constant(lane: Lane) -> Evidence | None:
    """The critic's errors vary more than twice as much as its targets."""
    lane.need(10)
    if _learned(lane):
        return None
    return lane.typical("explained_variance", -1.0, np.less, values=_varies(lane))


@finding(
    "note",
    TRAINING,
    means="Rewards are large, or discounting is weak: the critic needs long to get there.",
    remedy="Scale rewards (`normalize_rewards`), or a larger learning rate of the critic.",
)
def critic_targets_large(lane: Lane) -> Evidence | None:
    """The critic's typical error is above 100."""
    error = np.sqrt(2 * np.maximum(lane["value_loss"], 0))
    return lane.typical("sqrt(2 value_loss)", 100.0, np.greater, values=error)


@finding(
    "warning",
    TRAINING,
    means="Beyond its clip the value loss has no gradient: with errors far larger than that, the "
    "critic takes hundreds of updates to get anywhere.",
    remedy="No value clipping (its default here), or rewards scaled to returns of about 1.",
    explains=("critic_learns_nothing", "critic_worse_than_constant"),
)
def value_clip_freezes(lane: Lane) -> Evidence | None:
    """The critic's errors are more than 20 times what value clipping lets it move."""
    clip = lane.claim("value clip")
    error = np.sqrt(2 * np.maximum(lane["value_loss"], 0))
    return lane.typical("sqrt(2 value_loss)", 20 * clip, np.greater, values=error)


@finding(
    "warning",
    TRAINING,
    means="Such rewards push critics and penalties to the edge of their ranges.",
    remedy="Scale the rewards: returns of about 1 to 100 suit the usual learning rates.",
)
def reward_scale(lane: Lane) -> Evidence | None:
    """The mean reward of a step is above 1,000 in size, or returns are below a ten-thousandth."""
    length = lane["length_sum"]
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.abs(np.where(length > 0, lane["return_sum"] / length, np.nan))
    large = lane.typical("abs(return) / length", 1000.0, np.greater, values=size)
    small = np.where(lane["return_sum"] == 0, np.nan, np.abs(lane["return_sum"]))
    return large or lane.typical("abs(return_sum)", 1e-4, np.less, values=small)


@finding(
    "note",
    TRAINING,
    means="The batch is shorter than an episode, so that returns are known rarely or never.",
    remedy="Longer rollouts (`num_steps`), or a time limit; read the evaluations instead.",
)
def no_episode_ends(lane: Lane) -> Evidence | None:
    """No episode ended in the whole run."""
    lane.need(5)
    return lane.when("num_episodes", lane["num_episodes"] == 0, share=0.999)


@finding(
    "note",
    TRAINING,
    means="All environments began together, and only a time limit ends their episodes: batches "
    "hold one part of the episode each.",
    remedy="`stagger_steps`: let each environment begin at a step of its own.",
)
def episodes_in_step(lane: Lane) -> Evidence | None:
    """Episodes end all in the same iterations, and none in between."""
    lane.need(10)
    ended = lane["num_episodes"]
    none = ended == 0
    if none.all() or len(set(ended[~none])) > 1 or np.diff(none.astype(int)).any() == 0:
        return None
    return lane.when("num_episodes", none, share=0.25)


@finding(
    "note",
    TRAINING,
    means="The reward does not depend on what is done, or is never met.",
    remedy="Check the reward; explore more; begin with an easier task.",
)
def return_constant(lane: Lane) -> Evidence | None:
    """Every iteration has the same mean return."""
    lane.need(10)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(lane["num_episodes"] > 0, lane["return_sum"] / lane["num_episodes"], np.nan)
    known = ~np.isnan(mean)
    if known.sum() < 5:
        raise Missing("episodes")
    first = mean[known][0]
    same = np.abs(mean - first) <= 1e-6 * max(1, abs(first))
    share = 0.999 * known.mean()
    return lane.when("return_sum / num_episodes", same, values=mean, share=share)


@finding(
    "warning",
    TRAINING,
    means="One update, or a few, lost what was learned: a step too long, a critic that fell "
    "behind, an entropy that ran out.",
    remedy="A hard bound on the KL; look at the update named: its KL, its ratios, its critic.",
)
def curve_fell(lane: Lane) -> Evidence | None:
    """The return fell by most of what had been learned, and did not come back."""
    lane.need(20)
    returns = lane.returns(10)
    if np.isnan(returns).any():
        raise Missing("episodes in every tenth")
    best = int(np.argmax(returns[:-2]))
    learned = returns[best] - returns[: best + 1].min()
    scatter = np.median(np.abs(np.diff(returns)))
    lost = returns[best] - returns[best + 1 :].max() if best < 8 else 0.0
    after = returns[best] - returns[-2:].mean()
    if learned <= 0 or after < 0.7 * learned or lost <= 0 or after < 4 * scatter:
        return None
    if (returns[best + 2 :] > returns[best] - 0.5 * learned).any():
        return None
    window = lane.length // 10
    begin, end = best * window, min((best + 2) * window, lane.length)
    culprit = begin + int(np.argmax(lane["kl"][begin:end]))
    kl = lane["kl"][culprit]
    return Evidence(
        "return",
        float(returns[-2:].mean()),
        float(returns[best]),
        int(lane.iterations[culprit]),
        detail=f"the largest update there, iteration {lane.iterations[culprit]}, has KL {kl:.3g}",
        limit_name="best",
    )
