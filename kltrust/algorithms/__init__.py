"""The algorithms: each a `PolicyUpdate`, each assembled from the same parts.

They never see an environment, a value function or a clock: a batch in, new parameters out.
"""

from kltrust.algorithms._mdpo import mdpo
from kltrust.algorithms._npg import npg
from kltrust.algorithms._ppo_adaptive_lr import ppo_adaptive_lr
from kltrust.algorithms._ppo_clip import ppo_clip
from kltrust.algorithms._ppo_penalty import ppo_penalty
from kltrust.algorithms._ppo_reverse_kl import ppo_reverse_kl
from kltrust.algorithms._trpo import trpo
from kltrust.algorithms._vanilla_pg import vanilla_pg

__all__ = [
    "mdpo",
    "npg",
    "ppo_adaptive_lr",
    "ppo_clip",
    "ppo_penalty",
    "ppo_reverse_kl",
    "trpo",
    "vanilla_pg",
]
