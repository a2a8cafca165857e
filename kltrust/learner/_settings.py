"""The settings of a learner: the same for every algorithm."""

from __future__ import annotations

from kltrust.audit import AUDITS
from kltrust.settings import setting, settings
from kltrust.types import Number


@settings
class LearnerSettings:
    """Rollout, advantages and measurement: the same for every algorithm."""

    num_envs: int = setting(
        8,
        "Environments in parallel.",
        at_least=1,
        at_most=2**24,
        usual="8 to 4096; what the device has room for",
        common=True,
    )
    num_steps: int = setting(
        256,
        "Steps of each environment in an iteration.",
        at_least=1,
        at_most=2**24,
        usual="16 to 2048; 2048 with one environment (Schulman et al. 2017, MuJoCo)",
        common=True,
    )
    gamma: Number = setting(
        0.99,
        "Discount.",
        at_least=0,
        at_most=1,
        usual="0.9 to 0.999; 0.99 (Schulman et al. 2015, 2017)",
        common=True,
    )
    gae_lambda: Number = setting(
        0.95,
        "Lambda of the advantage estimator (Schulman et al. 2016).",
        at_least=0,
        at_most=1,
        usual="0.9 to 1; 0.95 (Schulman et al. 2017), 0.92 to 0.98 (Schulman et al. 2016)",
        common=True,
    )
    normalize_advantages: bool = setting(
        True, "Standardise advantages over the whole batch.", usual="on"
    )
    normalize_observations: bool = setting(
        False,
        "Standardise observations by running moments, frozen within an iteration.",
        usual="on for continuous control (Engstrom et al. 2020), off for images",
        common=True,
    )
    normalize_rewards: bool = setting(
        False,
        "Divide rewards by the deviation of the running discounted return.",
        usual="on where returns are large (Engstrom et al. 2020)",
        common=True,
    )
    minibatch_blocks: int = setting(
        1,
        "Splits the environments into this many equal blocks. Every minibatch takes the same "
        "number of rows from each.",
        at_least=1,
        usual="1; the number of devices where one run is spread over them",
    )
    stagger_steps: int = setting(
        0,
        "Each environment first plays a random number of steps below this. Otherwise "
        "episodes that only a time limit ends would all end together.",
        at_least=0,
        at_most=2**24,
        usual="0; the time limit, where only that ends episodes",
    )
    audit: str = setting(
        "default",
        "What is measured of every update: default, extended (also fresh states, the "
        "path and a reference) or full (also the curvature). The training has the "
        "same bits, at a higher cost.",
        choices=AUDITS,
        usual="default; extended or full to study updates",
        common=True,
    )

    def check(self) -> None:
        """Refuses blocks that do not divide the environments."""
        if self.num_envs % self.minibatch_blocks:
            raise ValueError(
                f"minibatch_blocks={self.minibatch_blocks} does not divide "
                f"num_envs={self.num_envs}: make num_envs a multiple of it"
            )
