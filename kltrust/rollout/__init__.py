"""Acting in environments: rollouts, episodes for evaluation, and batches made from rollouts."""

from kltrust.rollout.loop import (
    count_episodes as count_episodes,
    count_nonfinite as count_nonfinite,
    episode_returns as episode_returns,
    reset_batch as reset_batch,
    rollout as rollout,
    step_all as step_all,
)
