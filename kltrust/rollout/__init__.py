"""Acting in environments: the rollout loop, episodes for evaluation, and from acting to a batch."""

from kltrust.rollout.loop import (
    count_episodes,
    count_nonfinite,
    episode_returns,
    reset_batch,
    rollout,
    step_all,
)

__all__ = [
    "count_episodes",
    "count_nonfinite",
    "episode_returns",
    "reset_batch",
    "rollout",
    "step_all",
]
