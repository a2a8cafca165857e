"""The parts of benchmarks/accelerator.py, each run in a separate process: see there."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import speed
import textbook
from common import Result, made, rounded, versions
from peers import as_purejaxrl
from timing import at_once, paced
from workers import killed, numerics, ours, profiles

from kltrust.algorithms import algorithm_names
from kltrust.experiments.cli import doctor as checks

SPEC = """
[sweep]
name = "battery"
seeds = {}
algorithms = "ppo_clip"
envs = "CartPole-v1"
preset = "none"
[learner]
num_envs = {}
num_steps = 16
[critic]
num_epochs = 4
num_minibatches = 4
[budget]
total_steps = {}
num_evals = 10
eval_episodes = 2
[[experiments]]
update.num_epochs = 4
update.num_minibatches = 4
"""
"""Of the sweep that is killed: one group, ten chunks."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is run; the defaults are an accelerator's."""

    algorithms: tuple[str, ...] = ()  # Of the parity: all, if none is named
    parity: tuple[int, int] = (64, 32)  # Environments and steps of its batch
    lanes: int = 2048
    lane_steps: int = 500_000
    purejaxrl_steps: int = 100_000
    """Steps of each purejaxrl lane: it trains twice, in one call each; the first call compiles."""
    iterations: int = 61  # Of a round of lanes
    seconds: float = 40.0  # After which no round of lanes begins
    grown: tuple[str, ...] = ("ppo_clip", "trpo")
    envs: tuple[int, ...] = (64, 1024, 8192, 65_536)
    seeds: tuple[int, ...] = (1, 64, 512, 4096)
    rounds: int = 3
    minatar: tuple[int, int] = (256, 10_000_000)  # Lanes, and steps of each
    minatar_envs: int = 64
    audited: tuple[int, int] = (2048, 3)  # Environments of 128 steps, and iterations
    bounds: tuple[float, ...] = (1e-2, 1e-4, 1e-6)
    searched: tuple[int, int, int] = (256, 64, 10)  # Environments, steps, iterations
    kills: int = 2
    killed: tuple[int, int, int] = (64, 256, 40)  # Seeds, environments, iterations
    profiled: tuple[int, int] = (2048, 16)  # Environments and steps
    hidden: tuple[int, ...] = (64, 64)


FULL = Sizes()
TOY = Sizes(
    algorithms=("trpo", "ppo_clip", "vanilla_pg"),
    parity=(4, 8),
    lanes=4,
    lane_steps=512,
    purejaxrl_steps=2048,
    iterations=1,
    seconds=2.0,
    grown=("ppo_clip",),
    envs=(4, 8),
    seeds=(1, 2),
    rounds=1,
    minatar=(2, 256),
    minatar_envs=2,
    audited=(2, 1),
    bounds=(1e-2, 1e-4),
    searched=(4, 16, 2),
    kills=1,
    killed=(2, 4, 10),
    profiled=(8, 8),
    hidden=(8,),
)


def device() -> Result:
    """The device that JAX takes by default."""
    devices = jax.devices()
    memory = (devices[0].memory_stats() or {}).get("bytes_limit", 0)
    of = {"kind": devices[0].device_kind, "platform": devices[0].platform}
    return of | {"number": len(devices), "gigabytes": round(memory / 1e9, 1)}


def doctor(sizes: Sizes) -> Result:
    """The answers of `kltrust doctor` on the installation, canary included."""
    found = [{"name": c.name, "status": c.status, "found": c.value} for c in checks.report()]
    return {"versions": versions(), "checks": found}


def parity(sizes: Sizes) -> Result:
    """The first update of every algorithm on the accelerator, beside that on the CPU."""
    names = [(name, "CartPole-v1") for name in sizes.algorithms or algorithm_names()]
    pairs = [*names, ("trpo", "Pendulum-v1")]
    of = sizes.hidden, *sizes.parity
    jobs = {" ".join(pair): partial(numerics.first_update, *pair, *of) for pair in pairs}
    return {"updates": at_once(jobs)}


# --- speed ----------------------------------------------------------------------------------------


def settings_of(algorithm: str, sizes: Sizes, **changes: Any) -> Result:
    """purejaxrl's settings for `ppo_clip`; other algorithms differ only in their own section."""
    given = textbook.experiment(textbook.Settings(hidden=sizes.hidden, **changes))
    return given if algorithm == "ppo_clip" else {**given, "algorithm": algorithm, "update": {}}


def timed(program: Any, turn: Callable[[], None], steps: int, rounds: int, limit: float) -> Result:
    """Times rounds of ``steps`` environment steps of all runs together."""
    seconds = paced(turn, rounds, limit)
    row = {"steps of a round": steps, "seconds": rounded(seconds)}
    row |= {"steps per second": round(steps / float(np.median(seconds)))}
    told = {"compile seconds": round(program.compile_seconds["chunk"], 1), "width": program.width}
    print(row | told, flush=True)
    return row | told | {"bytes": program.memory["chunk"]}


def lanes(algorithm: str, sizes: Sizes) -> Result:
    """Thousands of runs of 4 x 128 steps, as purejaxrl shows them."""
    given, steps = settings_of(algorithm, sizes), 4 * 128 * sizes.iterations * sizes.lanes
    of = ours.ready(given, sizes.lanes, sizes.iterations)
    rounds = -(-sizes.lanes * sizes.lane_steps // steps)
    row = timed(*of, steps, rounds, sizes.seconds)
    return {"lanes": sizes.lanes, **whole(row, sizes.lanes * sizes.lane_steps)}


def whole(row: Result, steps: int) -> Result:
    """The row with the seconds that ``steps`` take, extrapolated from the measured pace."""
    return row | {"of steps": steps, "seconds in all": round(steps / row["steps per second"], 1)}


def lanes_purejaxrl(sizes: Sizes, checkout: str) -> Result:
    from workers.others import purejaxrl_ppo

    config = as_purejaxrl(textbook.Settings(), sizes.purejaxrl_steps)
    turn, steps = purejaxrl_ppo(checkout, config, sizes.lanes), sizes.lanes * sizes.purejaxrl_steps
    (seconds,) = paced(turn, 1, 0.0)
    row = {"steps of a round": steps, "seconds": rounded([seconds])}
    row |= {"steps per second": round(steps / seconds)}
    return {"lanes": sizes.lanes, **whole(row, sizes.lanes * sizes.lane_steps)}


def environments(sizes: Sizes) -> Result:
    """The pace of one run by its environments, 16 steps each."""
    return grown(sizes, {n: (1, {"num_envs": n, "num_steps": 16}) for n in sizes.envs})


def seeds(sizes: Sizes) -> Result:
    """The pace of one sweep by its seeds, 4 x 128 steps each."""
    return grown(sizes, {n: (n, {}) for n in sizes.seeds})


def grown(sizes: Sizes, cases: dict[int, tuple[int, Result]]) -> Result:
    """Compiles all sizes together, and times them one after another."""
    found: dict[str, list[Result]] = {}
    for algorithm in sizes.grown:
        of = {n: (settings_of(algorithm, sizes, **more), runs) for n, (runs, more) in cases.items()}
        jobs = {n: partial(ours.ready, *case, 8) for n, case in of.items()}
        batches = {n: case[1] * 8 * made(case[0]).batch_size for n, case in of.items()}
        found[algorithm] = [
            {"size": n, **timed(*ready, batches[n], sizes.rounds, sizes.seconds)}
            for n, ready in at_once(jobs).items()
        ]
    return {"algorithms": found}


def minatar(sizes: Sizes) -> Result:
    """Breakout, images flattened, as purejaxrl has it."""
    lanes, steps = sizes.minatar
    given = settings_of("ppo_clip", sizes, env="Breakout-MinAtar", num_envs=sizes.minatar_envs)
    iterations = 1 if sizes.iterations == 1 else 4
    batch = lanes * iterations * made(given).batch_size
    row = timed(*ours.ready(given, lanes, iterations), batch, 4, sizes.seconds / 2)
    return {"lanes": lanes, "env": given["env"], **whole(row, lanes * steps)}


# --- what else ------------------------------------------------------------------------------------


def audit(sizes: Sizes) -> Result:
    """The time that measuring adds to an iteration."""
    num_envs, iterations = sizes.audited
    of = {"num_envs": (num_envs,), "steps_per_round": iterations * num_envs * 128}
    options = speed.Options(algorithms=sizes.grown, levels=("default", "extended"), **of)
    return speed.audit_cost(options, 2 * sizes.rounds + 1)


def precision(sizes: Sizes) -> Result:
    """TRPO with the device's default products, and with full-precision ones."""
    of = sizes.bounds, sizes.hidden, *sizes.searched
    jobs = {
        name: partial(numerics.searched, products, *of)
        for name, products in {"by default": None, "full": "highest"}.items()
    }
    return {"bounds": sizes.bounds, "products": at_once(jobs)}


def kill(sizes: Sizes) -> Result:
    """`killed.survival` of a small sweep."""
    runs, num_envs, iterations = sizes.killed
    text = SPEC.format(runs, num_envs, num_envs * 16 * iterations)
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "battery.toml"
        spec.write_text(text, "utf-8")
        return killed.survival(spec, Path(folder), sizes.kills)


def profile(sizes: Sizes) -> Result:
    """The kernels of an iteration as the profiler sees them, and its phases, timed alone."""
    num_envs, num_steps = sizes.profiled
    of = {"num_envs": num_envs, "num_steps": num_steps}
    kernels = {}
    for algorithm in sizes.grown:
        _, turn = ours.ready(settings_of(algorithm, sizes, **of), 1, 3)
        kernels[algorithm] = profiles.traced(turn, 3)
    settings = textbook.Settings(hidden=sizes.hidden, **of)
    options = speed.Options(calls=1 if sizes.rounds == 1 else 5, warm_up=1)
    return {**of, "kernels": kernels, "milliseconds": speed.timed_case(settings, options, 3)}


PARTS: dict[str, Callable[..., Result]] = {
    "doctor": doctor,
    "parity": parity,
    "lanes_ppo_clip": partial(lanes, "ppo_clip"),
    "lanes_trpo": partial(lanes, "trpo"),
    "lanes_purejaxrl": lanes_purejaxrl,
    "environments": environments,
    "seeds": seeds,
    "minatar": minatar,
    "audit": audit,
    "precision": precision,
    "kill": kill,
    "profile": profile,
}
