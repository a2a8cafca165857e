"""Where the time goes, and what it is next to others doing the same job.

    python benchmarks/speed.py                             all parts
    python benchmarks/speed.py --parts fisher update       some

    loop        one run of PPO-clip against the textbook loop of benchmarks/textbook.py
    learning    how well both learn at those settings, 20 seeds
    sweep       32 seeds on all cores, against the textbook loop's 32 seeds in one vmap
    default     TRPO against PPO-clip, each at its defaults
    fisher      ten conjugate-gradient iterations by Gauss-Newton products, against those by the
                forward-over-reverse product with the Hessian of the KL
    update      TRPO's whole update with 10 % of the states in its Fisher matrix, in gradients of
                the surrogate
    evaluation  of the policy during training, against the training between two evaluations
    start       compiling; a warm persistent cache; `kltrust --help`; importing the losses

All that is compared takes turns, compiled. Writes speed_PART.json to benchmarks/results/: the
milliseconds of every round, and ratios as median, quartiles, and that of the best rounds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import textbook
import tyro
from timing import Call, in_turns, milliseconds, processes_in_turns, shown, times

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Options:
    """What is timed."""

    parts: tuple[str, ...] = ()
    """All, if none is named."""
    rounds: int = 15
    num_envs: tuple[int, ...] = (4, 64)
    """Of the loops, each of 128 steps."""
    seeds: int = 32
    """Of the sweep."""
    learning_seeds: int = 20
    learning_steps: int = 500_000
    algorithms: tuple[str, ...] = ("trpo", "ppo_clip", "ppo_penalty")
    """That are compiled."""
    rows: tuple[int, ...] = (2048, 16384, 50000)
    """Of the Fisher matrix."""
    steps_per_round: int = 50_000
    """Environment steps, about."""
    out: Path = RESULTS


def main(options: Options) -> None:
    from kltrust.experiments.store.versions import snapshot

    unknown = set(options.parts) - set(PARTS)
    if unknown:
        raise SystemExit(f"no part {', '.join(unknown)}: take some of {', '.join(PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.parts or PARTS:
        result = {"part": name, "rounds": options.rounds, **PARTS[name](options)}
        result["versions"] = snapshot()
        path = options.out / f"speed_{name}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")


def loop(options: Options) -> dict[str, Any]:
    """One run, the same settings, measured or not."""
    cases = []
    for num_envs in options.num_envs:
        settings = textbook.Settings(num_envs=num_envs)
        iterations = max(1, options.steps_per_round // (num_envs * settings.num_steps))
        found = in_turns(
            {
                "textbook": repeated(*textbook.make(settings), iterations),
                "kltrust": repeated(*ours(settings), iterations),
            },
            options.rounds,
        )
        ratio = times(found["textbook"], found["kltrust"])
        print(f"ppo_clip {num_envs} x {settings.num_steps}: {shown(ratio)} the textbook's speed")
        cases.append(
            {
                "num_envs": num_envs,
                "num_steps": settings.num_steps,
                "milliseconds": milliseconds(found, iterations),
                "times as fast": ratio,
            }
        )
    return {"cases": cases}


def ours(settings: textbook.Settings) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """The learner of the textbook's settings."""
    import kltrust

    experiment = textbook_experiment(settings)
    env = kltrust.make(settings.env)
    agent = kltrust.actor_critic(env, **experiment["network"])
    return kltrust.make_learner(env, agent, clipping(settings), **experiment["learner"])


def clipping(settings: textbook.Settings) -> Any:
    """The algorithm of the textbook's settings."""
    import kltrust

    return kltrust.ppo_clip(**textbook_experiment(settings)["update"])


def repeated(init: Any, step: Any, iterations: int, num_seeds: int | None = None) -> Any:
    """A round: so many iterations from the first state, compiled, and run once."""
    import jax

    def chunk(state: Any) -> Any:
        return jax.lax.scan(lambda s, _: step(s), state, length=iterations)

    key = jax.random.key(0)
    if num_seeds is not None:
        init, chunk, key = jax.vmap(init), jax.vmap(chunk), jax.random.split(key, num_seeds)
    compiled = jax.jit(chunk)
    state = jax.jit(init)(key)

    def run() -> None:
        jax.block_until_ready(compiled(state))

    run()
    return run


def learning(options: Options) -> dict[str, Any]:
    """Mean return of the episodes that end in the last tenth of the training, of both loops."""
    import jax

    settings = textbook.Settings(num_envs=options.num_envs[0])
    iterations = options.learning_steps // (settings.num_envs * settings.num_steps)
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
    interval = [round(float(difference + z * error), 2) for z in (-1.96, 1.96)]
    means = ", ".join(f"{name} {x.mean():.1f}" for name, x in scores.items())
    print(f"mean training return: {means}; difference {interval[0]} to {interval[1]} (95 %)")
    return {
        "env": settings.env,
        "num_envs": settings.num_envs,
        "steps": iterations * settings.num_envs * settings.num_steps,
        "scores": {name: [round(float(x), 2) for x in of] for name, of in scores.items()},
        "difference, 95 %": interval,
    }


def sweep(options: Options) -> dict[str, Any]:
    """Each in a process of its own: the number of host devices is chosen before JAX starts."""
    cases = []
    for num_envs in options.num_envs:
        settings = textbook.Settings(num_envs=num_envs)
        iterations = max(1, options.steps_per_round // (num_envs * settings.num_steps * 8))
        size = {"iterations": iterations}
        calls = {
            "textbook": Call(
                "speed:textbook_seeds", size | {"num_envs": num_envs, "seeds": options.seeds}
            ),
            "kltrust": Call(
                "workers.ours:train",
                size | {"experiment": textbook_experiment(settings), "runs": options.seeds},
            ),
        }
        seconds = processes_in_turns(calls, options.rounds)
        ratio = times(seconds["textbook"], seconds["kltrust"])
        print(f"ppo_clip {num_envs} x 128, {options.seeds} seeds: {shown(ratio)} one vmap's speed")
        cases.append(
            {"num_envs": num_envs, "milliseconds": milliseconds(seconds), "times as fast": ratio}
        )
    return {"seeds": options.seeds, "cases": cases}


def textbook_seeds(num_envs: int, iterations: int, seeds: int) -> Callable[[], None]:
    """A worker of the textbook's loop: all seeds in one vmap."""
    return repeated(*textbook.make(textbook.Settings(num_envs=num_envs)), iterations, seeds)


def textbook_experiment(settings: textbook.Settings) -> dict[str, Any]:
    """The textbook's settings as `kltrust` takes them."""
    s = settings
    return {
        "algorithm": "ppo_clip",
        "env": s.env,
        "update": {
            "learning_rate": s.learning_rate,
            "clip_eps": s.clip_eps,
            "num_epochs": s.num_epochs,
            "num_minibatches": s.num_minibatches,
            "entropy_coef": s.entropy_coef,
            "max_grad_norm": s.max_grad_norm,
        },
        "learner": {
            "num_envs": s.num_envs,
            "num_steps": s.num_steps,
            "gamma": s.gamma,
            "gae_lambda": s.gae_lambda,
            "value_learning_rate": s.learning_rate,
            "value_epochs": s.num_epochs,
            "value_minibatches": s.num_minibatches,
            "value_clip_eps": s.clip_eps,
            "value_max_grad_norm": s.max_grad_norm,
        },
        "network": {"hidden": s.hidden, "channels": ()},  # the peers flatten images
    }


def default(options: Options) -> dict[str, Any]:
    """The same rollout, critic and network; nothing set but the environment."""
    import kltrust

    env = kltrust.make("CartPole-v1")
    runs = {}
    for name in ("ppo_clip", "trpo"):
        update = getattr(kltrust, name)()
        learner = kltrust.make_learner(env, kltrust.actor_critic(env), update)
        runs[name] = repeated(*learner, max(1, options.steps_per_round // 2048))
    found = in_turns(runs, options.rounds)
    ratio = times(found["trpo"], found["ppo_clip"])
    print(f"trpo at its defaults takes {shown(ratio)} of ppo_clip's time at its own")
    return {"milliseconds": milliseconds(found), "trpo takes times": ratio}


def gaussian(rows: int) -> tuple[Any, Any, Any]:
    """(policy, params, obs): 17 inputs, two layers of 64 tanh units, a 6-dimensional Gaussian."""
    import jax
    import jax.numpy as jnp

    import kltrust
    from kltrust.types import Box, Env, Outcome

    def reset(key: Any) -> Any:
        return (), jnp.zeros(17)

    def step(key: Any, state: Any, action: Any) -> Any:
        return (), jnp.zeros(17), Outcome(jnp.float32(0), False, False, jnp.zeros(17))

    bounds = np.ones(17, np.float32), np.ones(6, np.float32)
    observations, actions = (Box(-b, b, b.shape) for b in bounds)
    agent = kltrust.actor_critic(Env(reset, step, observations, actions))
    params, _ = agent.init(jax.random.key(0))
    return agent.policy, params, jax.random.normal(jax.random.key(1), (rows, 17))


def against_the_first(
    functions: dict[str, Any], arguments: tuple[Any, ...], rounds: int, of: str
) -> dict[str, Any]:
    """The rounds of compiled functions of the same arguments, and the others' time in the first's.

    Returns:
        What is recorded: "milliseconds", "takes times".
    """
    import jax

    def turn(function: Any) -> Callable[[], object]:
        return lambda: jax.block_until_ready(function(*arguments))

    found = in_turns({name: turn(function) for name, function in functions.items()}, rounds)
    first, *others = functions
    ratios = {name: times(found[name], found[first]) for name in others}
    for name, ratio in ratios.items():
        print(f"{of}, {name}: {shown(ratio)} the time of the {first}", flush=True)
    return {"milliseconds": milliseconds(found), "takes times": ratios}


def fisher(options: Options) -> dict[str, Any]:
    """The same ten iterations: no tolerance ends them."""
    cases = [fisher_case(rows, options.rounds) for rows in options.rows]
    return {"cg_iters": 10, "inputs": 17, "actions": 6, "cases": cases}


def fisher_case(rows: int, rounds: int) -> dict[str, Any]:
    """Of a batch of so many states; the products in one chunk and in more."""
    import jax
    import jax.numpy as jnp

    import kltrust
    from kltrust import tree
    from kltrust.fisher import fitting_chunks

    policy, params, obs = gaussian(rows)
    gradient = jax.grad(lambda p: jnp.mean(policy(p, obs).mode() ** 2))(params)

    def solve(product: Any) -> Any:
        damped = lambda v: tree.add_scaled(product(v), 0.1, v)  # noqa: E731
        return kltrust.conjugate_gradient(damped, gradient, 10, rtol=0.0)[0]

    def gauss_newton(chunks: int) -> Any:
        return lambda params, obs: solve(
            kltrust.fisher_vector_product(policy, params, obs, num_chunks=chunks)
        )

    def hessian(params: Any, obs: Any) -> Any:
        old = policy(params, obs)

        def kl(p: Any) -> Any:
            return jnp.mean(kltrust.kl_divergence(old, policy(p, obs)))

        return solve(lambda v: jax.jvp(jax.grad(kl), (params,), (v,))[1])

    chosen = fitting_chunks(rows, rows)
    fitting = [n for n in (2, 4, 8, 16, 32) if rows % n == 0 and rows // n >= 512]
    chunks = sorted({1, chosen, *fitting})
    solvers = {"hessian": jax.jit(hessian)} | {
        f"gauss-newton, {n} chunks": jax.jit(gauss_newton(n)) for n in chunks
    }
    solutions = {name: solver(params, obs) for name, solver in solvers.items()}
    return {
        "rows": rows,
        "chunks by default": chosen,
        **against_the_first(solvers, (params, obs), rounds, f"{rows} rows"),
        "solutions apart, relative": {
            name: float(tree.norm(tree.add_scaled(x, -1.0, solutions["hessian"])) / tree.norm(x))
            for name, x in solutions.items()
        },
    }


def update(options: Options) -> dict[str, Any]:
    """Alone, on a batch of its own policy's actions."""
    return {"cases": [update_case(rows, options.rounds) for rows in options.rows]}


def update_case(rows: int, rounds: int) -> dict[str, Any]:
    """Of so many rows, with the Fisher matrix on all of them, and on every tenth."""
    import jax
    import jax.numpy as jnp

    import kltrust
    from kltrust.types import PolicyBatch

    policy, params, obs = gaussian(rows)
    old = policy(params, obs)
    action = old.sample(seed=jax.random.key(2))
    advantage = jnp.tanh(action[:, 0] + jax.random.normal(jax.random.key(3), (rows,)))
    batch = PolicyBatch(obs, action, advantage - advantage.mean(), old)

    def surrogate(params: Any, batch: PolicyBatch) -> Any:
        log_ratio = policy(params, batch.obs).log_prob(batch.action)
        log_ratio -= batch.old.log_prob(batch.action)
        return jnp.mean(kltrust.surrogate_loss(log_ratio, batch.advantage))

    def trpo(stride: int) -> Any:
        algorithm = kltrust.trpo(fisher_stride=stride)
        key = jax.random.key(4)
        return lambda params, batch: algorithm.update(policy, params, (), batch, key)

    functions = {"gradient": jax.jit(jax.grad(surrogate))} | {
        f"update, 1/{stride} of the states": jax.jit(trpo(stride)) for stride in (1, 10)
    }
    results = {name: function(params, batch) for name, function in functions.items()}
    return {
        "rows": rows,
        **against_the_first(functions, (params, batch), rounds, f"{rows} rows"),
        "backtracks": {
            name: int(results[name][2]["backtracks"]) for name in results if name != "gradient"
        },
    }


def evaluation(options: Options) -> dict[str, Any]:
    """At the default interval, of a policy that plays whole episodes."""
    import jax

    from kltrust.experiments.config.experiment import Experiment
    from kltrust.experiments.engine import lanes
    from kltrust.experiments.engine.program import Program, traced_settings

    shares = {}
    for algorithm in ("trpo", "ppo_clip"):
        experiment = Experiment.from_dict({"algorithm": algorithm, "env": "CartPole-v1"})
        program = Program(experiment, lanes.make_mesh(1, 1), 1)
        settings = traced_settings(experiment)
        train_key, eval_key = lanes.keys_of(np.arange(1))
        state = program.init(settings, train_key)
        seconds: dict[str, list[float]] = {"training": [], "evaluation": []}
        for _ in range(program.num_chunks):
            begin = time.perf_counter()
            state, _ = program.chunk(settings, state, program.chunk_length)
            middle = time.perf_counter()
            jax.block_until_ready(program.evaluate(settings, state, eval_key))
            seconds["training"].append(middle - begin)
            seconds["evaluation"].append(time.perf_counter() - middle)
        del seconds["training"][0], seconds["evaluation"][0]  # they compile
        share = sum(seconds["evaluation"]) / sum(seconds["training"])
        print(f"{algorithm}: evaluating takes {share:.1%} of the training's time")
        shares[algorithm] = {"share": round(share, 4), "milliseconds": milliseconds(seconds)}
    return {"env": "CartPole-v1", "algorithms": shares}


def start(options: Options) -> dict[str, Any]:
    """Everything in fresh processes, one after the other, in turns."""
    code = "import sys; sys.path.insert(0, {folder!r}); import speed; speed.compile_one({name!r})"
    names = ("textbook", *options.algorithms)
    folder = str(Path(__file__).parent)
    compiling: dict[str, list[float]] = {name: [] for name in names}
    warm: dict[str, list[float]] = {name: [] for name in names[1:]}
    rounds = max(1, options.rounds // 3)
    with tempfile.TemporaryDirectory() as cache:
        caching = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        for i in range(rounds + 1):
            for name in names:
                command = [sys.executable, "-c", code.format(folder=folder, name=name)]
                if i < rounds:
                    compiling[name].append(float(output(command, {})))
                if name != "textbook":
                    seconds = float(output(command, caching))
                    if i > 0:  # the first fills it
                        warm[name].append(seconds)
    ratios = {name: times(compiling[name], compiling["textbook"]) for name in names[1:]}
    for name, ratio in ratios.items():
        print(
            f"{name}: compiling takes {shown(ratio)} the textbook's; "
            f"from a warm cache {np.median(warm[name]):.2f} s"
        )
    commands = {
        "kltrust --help": [sys.executable, "-m", "kltrust.experiments.cli", "--help"],
        "import kltrust.losses": [sys.executable, "-c", "import kltrust.losses"],
        "import jax, chex, distrax": [sys.executable, "-c", "import jax, chex, distrax"],
    }
    found = in_turns({n: lambda c=c: output(c, {}) for n, c in commands.items()}, options.rounds)
    for name, seconds_of in found.items():
        print(f"{name}: {np.median(seconds_of):.2f} s")
    return {
        "compile milliseconds": milliseconds(compiling),
        "takes times the textbook's": ratios,
        "warm cache milliseconds": milliseconds(warm),
        "commands milliseconds": milliseconds(found),
    }


def output(command: list[str], variables: dict[str, str]) -> str:
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=True
    ).stdout.strip()


def compile_one(name: str) -> None:
    """Prints the seconds that tracing and compiling a whole training of default size take."""
    import jax

    import kltrust

    if name == "textbook":
        init, step = textbook.make(textbook.Settings(num_envs=8, num_steps=256))
    else:
        env = kltrust.make("CartPole-v1")
        learner = kltrust.make_learner(env, kltrust.actor_critic(env), getattr(kltrust, name)())
        init, step = learner

    def train(key: Any) -> Any:
        return jax.lax.scan(lambda s, _: step(s), init(key), length=10)

    begin = time.perf_counter()
    jax.jit(train).lower(jax.random.key(0)).compile()
    print(time.perf_counter() - begin)


PARTS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "loop": loop,
    "learning": learning,
    "sweep": sweep,
    "default": default,
    "fisher": fisher,
    "update": update,
    "evaluation": evaluation,
    "start": start,
}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
