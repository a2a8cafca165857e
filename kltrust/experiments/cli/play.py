"""The commands ``kltrust evaluate`` and ``kltrust play``."""

from __future__ import annotations

import ctypes.util
import dataclasses
import itertools
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from kltrust.experiments.cli import typed
from kltrust.experiments.cli.launch import Switch, check_flag
from kltrust.experiments.cli.surroundings import text
from kltrust.experiments.engine import devices
from kltrust.lazy import import_extra

_MOST_EPISODES = 10**6
_LARGEST_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class _Policy:
    """Which policies of a run folder, and how they act."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The run folder."""
    env: str | None = None
    """The environment, if the sweep has several."""
    label: str | None = None
    """The setting of a sweep, as its report names it. Default: the best one there."""
    seed: int = 0
    """The seed of the episodes: of start states and of sampled actions."""
    sampled: Switch = False
    """Sample actions instead of taking the distribution's mode."""
    best: Switch = False
    """The best checkpoint instead of the last."""

    @property
    def acting(self) -> Any:
        """These flags as arguments of `evaluate_runs` and `NumpyPolicy`."""
        return {"which": "best" if self.best else "latest", "deterministic": not self.sampled}


@dataclasses.dataclass(frozen=True)
class _Evaluate(_Policy):
    """Play fresh episodes with the policies of all seeds of a run folder.

    In a sweep, those of one setting: the one that is named, or the one with the best mean over
    seeds.

    Example: kltrust evaluate runs/quick --env CartPole-v1 --episodes 200
    """

    episodes: int = 100
    """Episodes of each seed."""


@dataclasses.dataclass(frozen=True)
class _Play(_Policy):
    """Play a trained policy in gymnasium's own environment, which it was not trained in.

    The returns are what the outside world sees of it. With --out, one episode becomes a film: there
    too or, where gymnasium has no such environment, where the policy was trained.

    Example: kltrust play runs/quick --env CartPole-v1 --out best.gif
    """

    episodes: int | None = None
    """Episodes to play. Default: 100 if gymnasium has the environment. With --out, 0 plays only the
    film's."""
    trained_seed: int | None = None
    """The training seed whose policy plays. Default: the best one of the setting."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Film one episode: NAME.gif or NAME.mp4."""
    fps: int = 30
    """Steps of the film per second."""
    max_frames: int = 1000
    """The film ends after so many steps."""


def evaluate(arguments: list[str]) -> int:
    """``kltrust evaluate``."""
    options = typed.cli(_Evaluate, prog="kltrust evaluate", args=arguments)
    check_flag("episodes", options.episodes, 1, _MOST_EPISODES)
    check_flag("seed", options.seed, 0, _LARGEST_SEED)
    from kltrust.experiments.store.record import Record

    record = Record(options.run)
    devices.use_all_cores(1)
    devices.found()
    from kltrust.experiments.reading import statistics, trained

    chosen, why = trained.choose(record, env=options.env, label=text(options.label))
    runs = trained.find_runs(record, env=chosen.experiment.env, label=chosen.label)
    if len(record.config["settings"]) > 1:
        print(f"{chosen.label} in {chosen.experiment.env} ({why.partition('; seed ')[0]})")
    returns = trained.evaluate_runs(
        runs, num_episodes=options.episodes, seed=options.seed, **options.acting
    )
    for run, row in zip(runs, returns, strict=True):
        print(f"seed {run.seed}: mean {row.mean():.2f}, std {row.std():.2f}, min {row.min():.2f}")
    if len(runs) > 1:
        mean, iqm = statistics.mean_and_iqm(returns.mean(axis=1))
        print(f"over {len(runs)} seeds: mean {mean}, IQM {iqm}")
    return 0


def play(arguments: list[str]) -> int:
    """``kltrust play``."""
    options = typed.cli(_Play, prog="kltrust play", args=arguments)
    if options.episodes is not None:
        check_flag("episodes", options.episodes, int(options.out is None), _MOST_EPISODES)
    check_flag("seed", options.seed, 0, _LARGEST_SEED)
    from kltrust.checks import check_count
    from kltrust.experiments.store.record import Record

    check_count(fps=options.fps, max_frames=options.max_frames)
    record = Record(options.run)
    devices.use_all_cores(1)
    devices.found()
    _draw_without_a_screen()
    _keep_pygame_silent()
    from kltrust.experiments.engine.program import build
    from kltrust.experiments.reading import deploy, films
    from kltrust.experiments.reading.trained import choose

    run, why = choose(record, seed=options.trained_seed, env=options.env, label=text(options.label))
    env_name = run.experiment.env
    outside = deploy.in_gymnasium(env_name)
    episodes = options.episodes
    if episodes is None:
        episodes = 100 if outside or options.out is None else 0
    env = None
    if options.out is not None:
        films.check_film(options.out)
        for module in ("imageio", "pygame") if outside else ("imageio",):
            import_extra(module, "play", "a film")
        if not outside:
            env = build(run.experiment).env
            films.check_drawn(env)
    print(f"{run.label}, seed {run.seed}, plays {env_name} ({why})")
    act = deploy.NumpyPolicy(run, native=env is None, **options.acting)
    if episodes:
        returns = deploy.gymnasium_returns(act, env_name, episodes, seed=options.seed)
        print(
            f"gymnasium's {env_name}, {len(returns)} episodes: mean {returns.mean():.2f}, "
            f"std {returns.std():.2f}, min {returns.min():.2f}"
        )
    if options.out is not None:
        if env is None:
            frames = films.gymnasium_frames(act, env_name, seed=options.seed)
            frames = itertools.islice(frames, options.max_frames)
        else:
            print(f"gymnasium has no {env_name}: filmed where it was trained")
            most = options.max_frames
            frames = films.trained_frames(act, env, seed=options.seed, most=most)
        print(f"wrote {options.out}: {films.write_film(options.out, frames, options.fps)} frames")
    return 0


def _draw_without_a_screen() -> None:
    """Sets the OpenGL that MuJoCo chooses at its import, for machines without a screen."""
    screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform == "linux" and not screen and ctypes.util.find_library("EGL"):
        os.environ.setdefault("MUJOCO_GL", "egl")


def _keep_pygame_silent() -> None:
    """Silences pygame's greeting, and its errors about a missing or unusable sound card."""
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
