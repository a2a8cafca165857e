"""The learner: rollout, advantages, the algorithm's update, the critic's, and the measurement.

Everything but the update is the same for every algorithm, so two runs differ only by their
algorithms.
"""

from kltrust.learner._check import check_agent as check_agent
from kltrust.learner._learner import (
    Learner as Learner,
    make_learner as make_learner,
    run as run,
    train as train,
)
from kltrust.learner._parts import Schedule as Schedule
from kltrust.learner._settings import LearnerSettings as LearnerSettings
from kltrust.learner._state import LearnerState as LearnerState, Metrics as Metrics
from kltrust.rollout.acting import (
    Deployable as Deployable,
    evaluate as evaluate,
    policy_of as policy_of,
    policy_step_of as policy_step_of,
)
from kltrust.rollout.batches import flatten as flatten, make_batch as make_batch

__all__ = [name for name in dir() if name[0] != "_"]
