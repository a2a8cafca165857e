"""The learner: rollout, advantages, the algorithm's update, the critic's, and the measurement.

Everything but the update is the same for every algorithm, so that what differs between two runs
is what differs between two algorithms.
"""

from kltrust.learner._learner import Learner, make_learner, run, train
from kltrust.learner._parts import Schedule
from kltrust.learner._settings import LearnerSettings
from kltrust.learner._state import LearnerState, Metrics
from kltrust.rollout.acting import Deployable, evaluate, policy_of, policy_step_of
from kltrust.rollout.batches import flatten, make_batch

__all__ = [
    "Deployable",
    "Learner",
    "LearnerSettings",
    "LearnerState",
    "Metrics",
    "Schedule",
    "evaluate",
    "flatten",
    "make_batch",
    "make_learner",
    "policy_of",
    "policy_step_of",
    "run",
    "train",
]
