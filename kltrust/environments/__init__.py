"""Environments: `make` one by name, or bring your own.

An environment is a `kltrust.types.Env`: two pure functions and two spaces, nothing to inherit
from. `from_functions` adds auto-reset, a time limit and steady dtypes to the plain pair; here is
a walk on the line that ends at +3 and pays 1 there::

    import jax.numpy as jnp
    import numpy as np
    from kltrust import environments
    from kltrust.types import Box, Discrete

    def reset(key):
        position = jnp.zeros((1,))
        return position, position                                   # state, observation

    def transition(key, position, action):
        position = position + 2 * action - 1
        arrived = position[0] >= 3
        return position, position, arrived, arrived, False          # reward, terminated, truncated

    def walk(max_steps=50):
        line = Box(np.full(1, -np.inf), np.full(1, np.inf), (1,))
        spaces = line, Discrete(2)
        return environments.from_functions(reset, transition, *spaces, max_steps=max_steps)

    environments.check_env(walk())                                  # does it keep the contract?
    environments.register("walk", walk)                             # kltrust train trpo walk

An episode that ends in a state without a future is ``terminated``; one that a clock cut off is
``truncated``, and its last state still has a value. Importing this package does not import
gymnax; the first name that is not a registered one does. The environments of other libraries have
a prefix, as in "brax/hopper", and each prefix is an extra: `adapters` says which are installed.
"""

from kltrust.environments._build import from_functions as from_functions
from kltrust.environments._check import check_env as check_env, sample_action as sample_action
from kltrust.environments._episodes import (
    stack_frames as stack_frames,
    sticky_actions as sticky_actions,
    time_limit as time_limit,
)
from kltrust.environments._parameters import UnknownParameterError as UnknownParameterError
from kltrust.environments._registry import (
    EnvInfo as EnvInfo,
    adapters as adapters,
    available as available,
    describe as describe,
    make as make,
    register as register,
    static_parameters as static_parameters,
)
from kltrust.environments._schedules import (
    SCHEDULE_EXAMPLE as SCHEDULE_EXAMPLE,
    LinearSchedule as LinearSchedule,
    is_schedule as is_schedule,
)
from kltrust.environments._wrappers import (
    ActionBound as ActionBound,
    bound_actions as bound_actions,
    clip_rewards as clip_rewards,
    hide_observations as hide_observations,
    scale_rewards as scale_rewards,
    transform_observations as transform_observations,
    transform_rewards as transform_rewards,
)

__all__ = [name for name in dir() if name[0] != "_"]
