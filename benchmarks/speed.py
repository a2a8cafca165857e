"""Where the time goes, and what it is next to others doing the same job.

    python benchmarks/speed.py                                       all parts
    python benchmarks/speed.py --parts speed_fisher phases           some

    speed_loop        one run of PPO-clip against the textbook loop of benchmarks/textbook.py
    speed_learning    how well both learn at those settings, 20 seeds
    speed_sweep       32 seeds on all cores, against the textbook loop's 32 seeds in one vmap
    speed_default     TRPO against PPO-clip, each at its defaults
    speed_fisher      ten conjugate-gradient iterations by Gauss-Newton products, against those by
                      the forward-over-reverse product with the Hessian of the KL
    speed_update      TRPO's whole update with 10 % of the states in its Fisher matrix, in gradients
                      of the surrogate
    speed_evaluation  of the policy during training, against the training between two evaluations
    speed_start       compiling; a warm persistent cache; `kltrust --help`; importing the losses
    audit_cost        iterations that measure nothing against those of every level of the audit
    phases            of an iteration, each compiled and timed alone: see benchmarks/phases.py
    sweep_speed       the same runs one after another, in one vmap, and spread over the devices

All that is compared takes turns, compiled: in one process, or in one each where the number of host
devices matters, which is chosen before JAX starts. Writes PART.json to benchmarks/results/: the
milliseconds of every round, or steps per second, and ratios as median, quartiles, and that of the
best rounds.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import phases
import solvers
import textbook
from common import Parts, Result, built, chosen, experiment, options, record_parts, rounded
from timing import (
    Call,
    Rounds,
    at_once,
    compare,
    in_turns,
    milliseconds,
    once,
    processes_in_turns,
    ready,
    take,
)
from workers.ours import WAYS


@dataclasses.dataclass(frozen=True)
class Options(Parts):
    """What is timed."""

    rounds: int | None = None  # Of each part; those that are recorded have as many as `PARTS` says
    num_envs: tuple[int, ...] = (4, 64)
    """Of the loops and sweeps, each of 128 steps; the audit's iteration has the last."""
    seeds: int = 32  # Of speed_sweep
    runs: int = 16  # Of sweep_speed
    learning_seeds: int = 20
    learning_steps: int = 500_000
    algorithms: tuple[str, ...] = ("ppo_clip", "trpo")
    """Of speed_evaluation, audit_cost and sweep_speed."""
    compiled: tuple[str, ...] = ("trpo", "ppo_clip", "ppo_penalty")  # By speed_start
    levels: tuple[str, ...] = ("default", "extended", "full")  # Of the audit
    rows: tuple[int, ...] = (2048, 16384, 50000)  # Of the Fisher matrix
    steps_per_round: int = 50_000  # Environment steps, about
    cases: tuple[str, ...] = ()  # Of the phases; all, if none is named
    calls: int = 10  # Of each phase in a round
    warm_up: int = 20  # Iterations before the state whose phases are timed

    def iterations(self, *sizes: int) -> int:
        return max(1, self.steps_per_round // int(np.prod(sizes)))


# --- the textbook's loop --------------------------------------------------------------------------


def loop(options: Options, rounds: int) -> Result:
    """One run, the same settings."""
    cases = []
    for num_envs in options.num_envs:
        settings = textbook.Settings(num_envs=num_envs)
        size = {"num_envs": num_envs, "num_steps": settings.num_steps}
        iterations = options.iterations(*size.values())
        loops = {"textbook": textbook.make(settings), "kltrust": ours(settings)}
        turns = {name: repeated(*of, iterations) for name, of in loops.items()}
        each, ratios = compare(turns, "kltrust", rounds, f"ppo_clip {size}", iterations)
        cases.append({**size, "milliseconds": each, "times as fast": ratios["textbook"]})
    return {"cases": cases}


def ours(settings: textbook.Settings) -> Any:
    """The learner of the textbook's settings."""
    return built(textbook.experiment(settings)).learner


def repeated(
    init: Any, step: Any, iterations: int, num_seeds: int | None = None, measured: bool = True
) -> Callable[[], None]:
    """A round: ``iterations`` from the first state, compiled.

    If only the states are used, nothing is measured: the compiler removes it as dead code.
    """
    import jax

    def one(state: Any, _: None) -> Any:
        new, metrics = step(state)
        return new, metrics if measured else None

    def chunk(state: Any) -> Any:
        return jax.lax.scan(one, state, length=iterations)

    key = jax.random.key(0)
    if num_seeds is not None:
        init, chunk, key = jax.vmap(init), jax.vmap(chunk), jax.random.split(key, num_seeds)
    return ready(chunk, jax.jit(init)(key))


def learning(options: Options, rounds: int) -> Result:
    """Mean return of the episodes that end in the last tenth of the training, of both loops."""
    import jax

    settings = textbook.Settings(num_envs=options.num_envs[0])
    batch = settings.num_envs * settings.num_steps
    iterations = options.learning_steps // batch
    keys = jax.random.split(jax.random.key(1), options.learning_seeds)
    loops = {
        "textbook": (*textbook.make(settings), lambda ended: (ended[:, 0], ended[:, 1])),
        "kltrust": (*ours(settings), lambda m: (m.return_sum, m.num_episodes)),
    }
    scores = {}
    for name, (init, step, sums) in loops.items():

        def train(key: Any, init: Any = init, step: Any = step, sums: Any = sums) -> Any:
            _, out = jax.lax.scan(lambda s, _: step(s), init(key), length=iterations)
            total, number = (x[-(iterations // 10 or 1) :].sum() for x in sums(out))
            return total / number

        scores[name] = np.asarray(jax.jit(jax.vmap(train))(keys), np.float64)
    difference = scores["kltrust"].mean() - scores["textbook"].mean()
    error = np.sqrt(sum(x.var(ddof=1) / len(x) for x in scores.values()))
    interval = rounded([difference - 1.96 * error, difference + 1.96 * error], 2)
    means = ", ".join(f"{name} {x.mean():.1f}" for name, x in scores.items())
    print(f"mean training return: {means}; difference {interval} (95 %)", flush=True)
    return {
        "env": settings.env,
        "num_envs": settings.num_envs,
        "steps": iterations * batch,
        "scores": {name: rounded(x, 2) for name, x in scores.items()},
        "difference, 95 %": interval,
    }


def sweep(options: Options, rounds: int) -> Result:
    """All seeds of the textbook's loop are in one vmap."""
    cases = []
    for num_envs in options.num_envs:
        settings = textbook.Settings(num_envs=num_envs)
        size = {"iterations": options.iterations(num_envs, settings.num_steps, 8)}
        of = size | {"num_envs": num_envs, "seeds": options.seeds}
        same = size | {"experiment": textbook.experiment(settings), "runs": options.seeds}
        loop, ours = Call("speed:textbook_seeds", of), Call("workers.ours:train", same)
        seconds, _ = processes_in_turns({"textbook": loop, "kltrust": ours}, rounds)
        ratio = take(seconds, "kltrust", f"{options.seeds} seeds of {num_envs} x 128")["textbook"]
        case = {"num_envs": num_envs, "milliseconds": milliseconds(seconds)}
        cases.append({**case, "times as fast": ratio})
    return {"seeds": options.seeds, "cases": cases}


def textbook_seeds(num_envs: int, iterations: int, seeds: int) -> Callable[[], None]:
    """A worker's round: the textbook loop with all seeds in one vmap."""
    return repeated(*textbook.make(textbook.Settings(num_envs=num_envs)), iterations, seeds)


# --- kltrust alone --------------------------------------------------------------------------------


def default(options: Options, rounds: int) -> Result:
    """The same rollout, critic and network; nothing set but the environment."""
    iterations = options.iterations(2048)
    turns = {name: repeated(*defaults(name).learner, iterations) for name in ("ppo_clip", "trpo")}
    each, ratios = compare(turns, "ppo_clip", rounds, "at their defaults")
    return {"milliseconds": each, "trpo takes times": ratios["trpo"]}


def defaults(algorithm: str, **learner: Any) -> Any:
    return built(experiment(algorithm, "CartPole-v1", **learner))


def audit_cost(options: Options, rounds: int) -> Result:
    """Times of an iteration that measures nothing."""
    size = {"num_envs": options.num_envs[-1], "num_steps": 128}
    iterations = options.iterations(*size.values())
    cases = {}
    for name in options.algorithms:

        def at(level: str, measured: bool = True, name: str = name) -> Callable[[], None]:
            learner = defaults(name, audit=level, **size).learner
            return repeated(*learner, iterations, measured=measured)

        jobs = {"nothing": partial(at, "default", False)}
        runs = at_once(jobs | {level: partial(at, level) for level in options.levels})
        each, ratios = compare(runs, "nothing", rounds, name, iterations)
        cases[name] = {"milliseconds": each, "times": ratios}
    return {"env": "CartPole-v1", **size, "iterations": iterations, "cases": cases}


def timed_phases(options: Options, rounds: int) -> Result:
    cases = {}
    for name in chosen("cases", options.cases, phases.CASES):
        cases[name] = timed_case(phases.CASES[name], options, rounds)
        print(name, {n: float(np.median(x)) for n, x in cases[name].items()}, flush=True)
    return {"cases": cases}


def timed_case(settings: textbook.Settings, options: Options, rounds: int) -> Rounds:
    wholes = {"iteration": repeated(*ours(settings), options.calls)}
    if "MinAtar" not in settings.env:  # it knows no images
        loop = textbook.make(settings)
        wholes["the textbook's iteration"] = repeated(*loop, options.calls)
    parts = phases.phases(settings, options.warm_up, options.calls)
    return milliseconds(in_turns(wholes | parts, rounds), options.calls)


def sweep_speed(options: Options, rounds: int) -> Result:
    """Steps per second of all three ways, and the ratios to the first."""
    cases = []
    for algorithm in options.algorithms:
        for num_envs in options.num_envs:
            same = experiment(algorithm, "CartPole-v1", num_envs=num_envs, num_steps=128)
            # Four times as much as of a lone run.
            iterations = max(1, 4 * options.steps_per_round // (num_envs * 128 * options.runs))
            size = {"experiment": same, "runs": options.runs, "iterations": iterations}
            calls = {way: Call("workers.ours:train", size | {"way": way}) for way in WAYS}
            seconds, _ = processes_in_turns(calls, rounds)
            steps = options.runs * iterations * num_envs * 128
            ratios = {way: np.divide(seconds[WAYS[0]], seconds[way]) for way in WAYS[1:]}
            take(seconds, WAYS[0], f"{algorithm} {num_envs} x 128")
            speeds = {way: [round(steps / s) for s in of] for way, of in seconds.items()}
            # Median, smallest and largest of the rounds.
            fast = {way: rounded([np.median(r), r.min(), r.max()], 3) for way, r in ratios.items()}
            case = {"algorithm": algorithm, "num_envs": num_envs, "steps_per_second": speeds}
            cases.append({**case, "times as fast": fast})
    return {"env": "CartPole-v1", "num_steps": 128, "runs": options.runs, "cases": cases}


def evaluation(options: Options, rounds: int) -> Result:
    """At the default interval, of a policy that plays whole episodes."""
    shares = {}
    for algorithm in options.algorithms:
        same = experiment(algorithm, "CartPole-v1")
        seconds = once(Call("workers.ours:evaluating", {"experiment": same}))
        share = sum(seconds["evaluation"]) / sum(seconds["training"])
        print(f"{algorithm}: evaluating takes {share:.1%} of the training's time", flush=True)
        shares[algorithm] = {"share": round(share, 4), "milliseconds": milliseconds(seconds)}
    return {"env": "CartPole-v1", "algorithms": shares}


def start(options: Options, rounds: int) -> Result:
    """Everything in fresh processes, one after the other, in turns."""
    names = ("textbook", *options.compiled)
    compiling: dict[str, list[float]] = {name: [] for name in names}
    warm: dict[str, list[float]] = {name: [] for name in options.compiled}
    with tempfile.TemporaryDirectory() as cache:
        caching = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        for i in range(max(1, rounds // 3) + 1):
            for name in names:
                call = Call("speed:compiling", {"name": name})
                if i > 0:
                    compiling[name].append(once(call))
                if name in warm:
                    seconds = once(call._replace(variables=caching))
                    if i > 0:  # the first fills it
                        warm[name].append(seconds)
    ratios = take(compiling, "textbook", "compiling")
    commands = {
        "kltrust --help": ["-m", "kltrust.experiments.cli", "--help"],
        "import kltrust.losses": ["-c", "import kltrust.losses"],
        "import jax, chex, distrax": ["-c", "import jax, chex, distrax"],
    }

    def run(arguments: list[str]) -> object:
        return subprocess.run([sys.executable, *arguments], capture_output=True, check=True)

    found = in_turns({name: lambda a=a: run(a) for name, a in commands.items()}, rounds)
    for name, of in (warm | found).items():
        print(f"{name}, from a warm cache: {np.median(of):.2f} s", flush=True)
    return {
        "compile milliseconds": milliseconds(compiling),
        "takes times the textbook's": ratios,
        "warm cache milliseconds": milliseconds(warm),
        "commands milliseconds": milliseconds(found),
    }


def compiling(name: str) -> Callable[[], float]:
    """A worker: the seconds that tracing and compiling a training of default size take."""
    import jax

    if name == "textbook":
        init, step = textbook.make(textbook.Settings(num_envs=8, num_steps=256))
    else:
        init, step = defaults(name).learner

    def train(key: Any) -> Any:
        return jax.lax.scan(lambda s, _: step(s), init(key), length=10)

    def turn() -> float:
        begin = time.perf_counter()
        jax.jit(train).lower(jax.random.key(0)).compile()
        return time.perf_counter() - begin

    return turn


def each_of(case: Callable[[int, int], Result]) -> Callable[[Options, int], Result]:
    return lambda options, rounds: {"cases": [case(rows, rounds) for rows in options.rows]}


PARTS: dict[str, tuple[Callable[[Options, int], Result], int]] = {
    "speed_loop": (loop, 15),
    "speed_learning": (learning, 1),
    "speed_sweep": (sweep, 15),
    "speed_default": (default, 15),
    "speed_fisher": (each_of(solvers.fisher), 15),
    "speed_update": (each_of(solvers.update), 15),
    "speed_evaluation": (evaluation, 1),
    "speed_start": (start, 15),
    "audit_cost": (audit_cost, 21),
    "phases": (timed_phases, 31),
    "sweep_speed": (sweep_speed, 9),
}


def main(options: Options) -> None:
    record_parts(PARTS, options)


if __name__ == "__main__":
    sys.exit(main(options(Options, __doc__)))
