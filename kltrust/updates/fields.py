"""Descriptions of settings that several algorithms share: ``setting(3e-4, **LEARNING_RATE)``."""

from __future__ import annotations

from typing import Any

Said = dict[str, Any]
"""Keyword arguments of `kltrust.settings.setting`."""

LEARNING_RATE: Said = {
    "meaning": "The optimiser's learning rate.",
    "at_least": 0,
    "schedules": True,
    "usual": "1e-5 to 3e-3; 3e-4 (Schulman et al. 2017, MuJoCo)",
    "common": True,
}
OPTIMIZER: Said = {"meaning": "The optimiser, by optax's name.", "usual": "adam"}
NUM_EPOCHS: Said = {
    "meaning": "Passes over the batch.",
    "at_least": 1,
    "at_most": 10**4,
    "usual": "3 to 20; 10 on MuJoCo, 3 on Atari (Schulman et al. 2017), 5 (rsl_rl)",
    "common": True,
}
NUM_MINIBATCHES: Said = {
    "meaning": "Parts of each pass. They must divide num_envs * num_steps; with a cell, num_envs.",
    "at_least": 1,
    "role": "minibatches",
    "usual": "4 (rsl_rl) to 64, rows of 32 to 4096 each; 1, the whole batch (Tomar et al. 2020)",
    "common": True,
}
STOP_KL: Said = {
    "meaning": "An epoch that ends at a larger mean KL (nats) is undone and is the last.",
    "above": 0,
    "infinite": True,
    "role": "bound",
    "usual": "0.003 to 0.1; inf never stops",
}
ENTROPY_COEF: Said = {
    "meaning": "Weight of the mean entropy, nats.",
    "at_least": 0,
    "usual": "0 (MuJoCo) to 0.01 (Atari; Schulman et al. 2017)",
    "common": True,
}
MAX_GRAD_NORM: Said = {
    "meaning": "Bound on the gradient's global norm.",
    "above": 0,
    "infinite": True,
    "role": "gradient bound",
    "usual": "0.5 (the PPO authors' code), 1 (rsl_rl), inf",
}
CLIP_EPS: Said = {
    "meaning": "Half-width of the interval of ratios outside of which there is no incentive.",
    "above": 0,
    "infinite": True,
    "role": "clip",
    "usual": "0.1 to 0.3; 0.2 (Schulman et al. 2017); inf never clips",
}
TARGET_KL: Said = {
    "meaning": "Set point of the mean KL(old || new) of an iteration, nats.",
    "above": 0,
    "infinite": True,
    "role": "set point",
    "usual": "0.003 to 0.03 (Schulman et al. 2017, table 1); or clip_eps² / 2",
}
