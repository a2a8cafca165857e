"""The command ``kltrust play``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from kltrust.experiments import devices
from kltrust.experiments.cli_common import Switch


@dataclasses.dataclass(frozen=True)
class _Play:
    """Play a trained policy in gymnasium's own environment, which it was not trained in.

    The returns are what the outside world sees of it. With --out, one episode becomes a film.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The run folder."""
    episodes: int = 100
    """Episodes to play; with --out, 0 plays none beside the film."""
    seed: int = 0
    """Of the episodes' start states and of sampled actions."""
    trained_seed: int | None = None
    """Which of the folder's seeds plays; without it, the best at the last evaluation."""
    sampled: Switch = False
    """Sample actions instead of taking the distribution's mode."""
    best: Switch = False
    """The best checkpoint instead of the last."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Film one episode: NAME.gif or NAME.mp4."""


def play(arguments: list[str]) -> int:
    """``kltrust play``."""
    options = tyro.cli(_Play, prog="kltrust play", args=arguments)
    if options.episodes < (1 if options.out is None else 0):
        raise ValueError(f"--episodes must be at least 1, got {options.episodes}")
    from kltrust.experiments.record import Record

    record = Record(options.run)
    devices.use_all_cores(1)
    from kltrust.experiments import deploy
    from kltrust.experiments.training import experiment_of

    if options.out is not None:
        deploy.check_film(options.out)
        for module in ("imageio", "pygame"):
            deploy.extra(module)
    env_name = experiment_of(record).env
    act = deploy.numpy_policy(
        record,
        seed=options.trained_seed,
        which="best" if options.best else "latest",
        deterministic=not options.sampled,
    )
    if options.episodes:
        returns = deploy.gymnasium_returns(act, env_name, options.episodes, seed=options.seed)
        print(
            f"gymnasium's {env_name}, {len(returns)} episodes: mean {returns.mean():.2f}, "
            f"std {returns.std():.2f}, min {returns.min():.2f}"
        )
    if options.out is not None:
        frames = deploy.gymnasium_frames(act, env_name, seed=options.seed)
        print(f"wrote {options.out}: {deploy.write_film(options.out, frames)} frames")
    return 0
