"""kltrust beside other libraries doing the same job, each in an environment of its own.

    python benchmarks/peers.py                                   all parts
    python benchmarks/peers.py --parts trpo --envs runs/peers    environments that are kept
    python benchmarks/peers.py --parts ppo --purejaxrl CHECKOUT  with a checkout of purejaxrl, too

    ppo    PPO-clip at purejaxrl's settings for CartPole, beside rejax's and purejaxrl's: one run,
           32 seeds on all cores beside their one vmap, and one run on MinAtar's Breakout, flattened
    trpo   TRPO at sb3-contrib's defaults beside sb3-contrib's
    solve  time to solve CartPole-v1, compilation and evaluation included, beside sb3-contrib's TRPO
           with the settings that RL Zoo tuned for it

A peer is installed by pip, at the versions below, into a virtual environment: some minutes, and a
network. Every contender is a process; they take turns on the same machine, compiled but in `solve`.
Writes peers_PART.json to benchmarks/results/: environment steps per second of every round, and
ratios as median, quartiles, and that of the best rounds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tyro
from timing import Call, processes_in_turns, shown, times, variables, worker

if TYPE_CHECKING:
    import textbook

RESULTS = Path(__file__).parent / "results"

# gymnax 1.0 changed what `step` returns; these call it as it was before. On the same JAX as ours.
_JAX = (
    "jax==0.10.1",
    "jaxlib==0.10.1",
    "gymnax==0.0.9",
    "flax==0.12.8",
    "optax==0.2.8",
    "distrax==0.1.9",
    "chex==0.1.92",
    "tfp-nightly==0.26.0.dev20261027",
    "numpy==2.4.6",
)
REQUIREMENTS = {
    "rejax": (*_JAX, "rejax==0.1.3"),
    "purejaxrl": (*_JAX, "brax==0.14.2", "navix==0.7.4"),  # which its wrappers import
    "sb3-contrib": (
        "torch==2.13.0",
        "stable-baselines3==2.9.2",
        "sb3-contrib==2.9.2",
        "gymnasium==1.3.0",
        "numpy==2.4.6",
    ),
}
"""By peer. purejaxrl itself is no package: `Options.purejaxrl`."""

ENV = "CartPole-v1"
IMAGES = "Breakout-MinAtar"
SB3_DEFAULTS = {
    "n_steps": 2048,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "cg_max_steps": 15,
    "cg_damping": 0.1,
    "line_search_shrinking_factor": 0.8,
    "line_search_max_iter": 10,
    "n_critic_updates": 10,
    "target_kl": 0.01,
}
"""sb3-contrib 2.9.2, ``TRPO.__init__``; "MlpPolicy" has two layers of 64 tanh units."""
ZOO = SB3_DEFAULTS | {
    "n_steps": 512,
    "batch_size": 512,
    "cg_damping": 1e-3,
    "gae_lambda": 0.98,
    "n_critic_updates": 20,
}
"""rl-baselines3-zoo, hyperparams/trpo.yml, CartPole-v1 at commit 13a3fe7."""
ZOO_ENVS = 2
ZOO_STEPS = 100_000


@dataclasses.dataclass(frozen=True)
class Options:
    """What is run."""

    parts: tuple[str, ...] = ()
    """All, if none is named."""
    peers: tuple[str, ...] = tuple(REQUIREMENTS)
    """Those beside which; purejaxrl only with a checkout."""
    purejaxrl: Path | None = None
    """A checkout of its repository, of which ppo.py is run as it is."""
    envs: Path | None = None
    """Folder of the environments, which are kept there; default: made anew, removed at the end."""
    rounds: int = 11
    seeds: int = 32
    """Of the sweeps."""
    ppo_envs: tuple[int, ...] = (4, 64)
    """Of 128 steps."""
    trpo_envs: tuple[int, ...] = (1, 8)
    """Of 2,048 steps."""
    steps_per_round: int = 50_000
    """Environment steps of a run, about."""
    torch_threads: int = 1
    """Of a lone process of sb3-contrib: whatever is fastest there."""
    solve_seeds: int = 5
    """Of each lone training."""
    target: float = 475.0
    """Mean return, acting by the mode, over 100 episodes, at which CartPole-v1 is solved."""
    out: Path = RESULTS


def main(options: Options) -> None:
    from kltrust.experiments.store.versions import snapshot

    if unknown := set(options.parts) - set(PARTS):
        raise SystemExit(f"no part {', '.join(unknown)}: take some of {', '.join(PARTS)}")
    if unknown := set(options.peers) - set(REQUIREMENTS):
        raise SystemExit(f"no peer {', '.join(unknown)}: take some of {', '.join(REQUIREMENTS)}")
    checkout = options.purejaxrl
    if checkout is not None and not (checkout / "purejaxrl" / "ppo.py").is_file():
        raise SystemExit(f"{checkout} is no checkout of purejaxrl: it has no purejaxrl/ppo.py")
    parts = options.parts or tuple(PARTS)
    if "solve" in parts and "JAX_COMPILATION_CACHE_DIR" in os.environ:
        raise SystemExit("unset JAX_COMPILATION_CACHE_DIR: compiling is part of what is timed")
    options.out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = options.envs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in parts:
            part, wanted = PARTS[name]
            peers = [p for p in wanted if p in options.peers and (p != "purejaxrl" or checkout)]
            pythons = {peer: environment(peer, folder) for peer in peers}
            result = {"part": name, **part(options, pythons), "versions": snapshot()}
            result["peers"] = {p: installed(p, python) for p, python in pythons.items()}
            path = options.out / f"peers_{name}.json"
            path.write_text(json.dumps(result, indent=1) + "\n")


def environment(peer: str, folder: Path) -> str:
    """The Python of a peer's environment, which is made unless the folder has it already."""
    path = folder.absolute() / peer
    python = str(path / "bin" / "python")
    wanted = "\n".join(REQUIREMENTS[peer])
    made = path / "installed"
    if not made.exists() or made.read_text() != wanted:
        print(f"installing {peer}", flush=True)
        venv.create(path, clear=True, with_pip=True)
        command = [python, "-m", "pip", "install", "-q", "--no-compile", *REQUIREMENTS[peer]]
        subprocess.run(command, check=True, env=variables(python))
        made.write_text(wanted)
    return python


def installed(peer: str, python: str) -> dict[str, str]:
    """The versions of what a peer needs, as its environment tells them."""
    names = [requirement.split("==")[0] for requirement in REQUIREMENTS[peer]]
    code = (
        "import importlib.metadata as m, json, sys; "
        "print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
    )
    command = [python, "-c", code, *names]
    found = subprocess.run(command, check=True, capture_output=True, env=variables(python))
    return json.loads(found.stdout)


class Contender(NamedTuple):
    """A process, or several at once, and the environment steps of its round."""

    call: Call
    steps: int


def compare(contenders: dict[str, Contender], rounds: int, what: str) -> dict[str, Any]:
    """Takes turns.

    Args:
        contenders: by name; those of kltrust begin with it.
        rounds: of each.
        what: is said before every ratio.

    Returns:
        "steps_per_second" of every round, and "times as fast" by the name of kltrust's and the
        peer's.
    """
    seconds = processes_in_turns({n: c.call for n, c in contenders.items()}, rounds)
    per_step = {n: np.divide(seconds[n], c.steps).tolist() for n, c in contenders.items()}
    ours = [n for n in contenders if n.startswith("kltrust")]
    ratios = {
        name: {n: times(per_step[n], per_step[name]) for n in contenders if n not in ours}
        for name in ours
    }
    say(what, ratios)
    return {
        "steps_per_second": {n: [round(1 / s) for s in each] for n, each in per_step.items()},
        "times as fast": ratios,
    }


def say(what: str, ratios: dict[str, dict[str, list[float]]]) -> None:
    for name, of in ratios.items():
        for peer, ratio in of.items():
            print(f"{what}: {name} {shown(ratio)} {peer}'s speed", flush=True)


def ppo(options: Options, pythons: dict[str, str]) -> dict[str, Any]:
    """One run, a sweep, and one run whose environment is most of the work."""
    sizes = [
        (env, num_envs, seeds)
        for env, runs in ((ENV, (1, options.seeds)), (IMAGES, (1,)))
        for seeds in runs
        for num_envs in (options.ppo_envs if env == ENV else options.ppo_envs[-1:])
    ]
    return {"cases": [ppo_case(*size, options, pythons) for size in sizes]}


def ppo_case(
    env: str, num_envs: int, seeds: int, options: Options, pythons: dict[str, str]
) -> dict[str, Any]:
    """The settings of the textbook's loop are purejaxrl's, which lets the learning rate fall."""
    import textbook
    from speed import textbook_experiment

    s = textbook.Settings(env=env, num_envs=num_envs)
    batch = num_envs * s.num_steps
    iterations = max(1, options.steps_per_round // batch)
    if seeds > 1:  # of each run: a round has more steps
        iterations = max(2, iterations // 8)  # 2: the peers begin each round anew
    steps = iterations * batch
    ours = {
        "experiment": {**textbook_experiment(s), "budget": {"anneal": 1.0}},
        "runs": seeds,
        "iterations": iterations,
    }
    calls = {"kltrust": Call("workers.ours:train", ours)}
    if "rejax" in pythons:
        settings = {"settings": as_rejax(s, steps), "seeds": seeds}
        calls["rejax"] = Call("workers.rejax_ppo:train", settings, pythons["rejax"])
    if "purejaxrl" in pythons:
        checkout = str(Path(options.purejaxrl or "").absolute())
        settings = {"checkout": checkout, "config": as_purejaxrl(s, steps), "seeds": seeds}
        calls["purejaxrl"] = Call("workers.purejaxrl_ppo:train", settings, pythons["purejaxrl"])
    contenders = {name: Contender(call, steps * seeds) for name, call in calls.items()}
    what = f"ppo_clip {env} {num_envs} x {s.num_steps}, {seeds} seeds"
    return {
        "env": env,
        "num_envs": num_envs,
        "num_steps": s.num_steps,
        "seeds": seeds,
        **compare(contenders, options.rounds, what),
    }


def as_rejax(settings: textbook.Settings, steps: int) -> dict[str, Any]:
    """The textbook's settings as rejax takes them."""
    s = settings
    return {
        "env": s.env,
        "num_envs": s.num_envs,
        "num_steps": s.num_steps,
        "num_epochs": s.num_epochs,
        "num_minibatches": s.num_minibatches,
        "learning_rate": s.learning_rate,
        "gamma": s.gamma,
        "gae_lambda": s.gae_lambda,
        "clip_eps": s.clip_eps,
        "ent_coef": s.entropy_coef,
        "vf_coef": s.value_coef,
        "max_grad_norm": s.max_grad_norm,
        "agent_kwargs": {"hidden_layer_sizes": s.hidden, "activation": "tanh"},
        "total_timesteps": steps,
    }


def as_purejaxrl(settings: textbook.Settings, steps: int) -> dict[str, Any]:
    """The textbook's settings as purejaxrl takes them; its layers have 64 tanh units."""
    s = settings
    return {
        "ENV_NAME": s.env,
        "NUM_ENVS": s.num_envs,
        "NUM_STEPS": s.num_steps,
        "TOTAL_TIMESTEPS": steps,
        "UPDATE_EPOCHS": s.num_epochs,
        "NUM_MINIBATCHES": s.num_minibatches,
        "LR": s.learning_rate,
        "ANNEAL_LR": True,
        "GAMMA": s.gamma,
        "GAE_LAMBDA": s.gae_lambda,
        "CLIP_EPS": s.clip_eps,
        "ENT_COEF": s.entropy_coef,
        "VF_COEF": s.value_coef,
        "MAX_GRAD_NORM": s.max_grad_norm,
        "ACTIVATION": "tanh",
    }


def same_as_sb3(settings: dict[str, Any], num_envs: int, **update: Any) -> dict[str, Any]:
    """The settings of sb3-contrib's TRPO as `kltrust` takes them, and others of its own."""
    s = settings
    return {
        "algorithm": "trpo",
        "env": ENV,
        "update": {
            "max_kl": s["target_kl"],
            "damping": s["cg_damping"],
            "cg_iters": s["cg_max_steps"],
            "cg_rtol": 0.0,  # sb3-contrib's, on the squared residual, is absolute
            "shrink": s["line_search_shrinking_factor"],
            "max_backtracks": s["line_search_max_iter"],
            **update,
        },
        "learner": {
            "num_envs": num_envs,
            "num_steps": s["n_steps"],
            "gamma": s["gamma"],
            "gae_lambda": s["gae_lambda"],
            "value_learning_rate": s["learning_rate"],
            "value_epochs": s["n_critic_updates"],
            "value_minibatches": num_envs * s["n_steps"] // s["batch_size"],
            "value_max_grad_norm": "inf",
        },
        "network": {"hidden": (64, 64), "activation": "tanh"},
    }


def trpo(options: Options, pythons: dict[str, str]) -> dict[str, Any]:
    """At sb3-contrib's defaults."""
    cases = [trpo_case(num_envs, options, pythons) for num_envs in options.trpo_envs]
    return {"num_steps": SB3_DEFAULTS["n_steps"], "seeds": options.seeds, "cases": cases}


def trpo_case(num_envs: int, options: Options, pythons: dict[str, str]) -> dict[str, Any]:
    """One run, the same with 10 % of the states in F, and a sweep; the peer on every core, too."""
    batch = num_envs * SB3_DEFAULTS["n_steps"]

    def ours(runs: int, iterations: int, **update: Any) -> Contender:
        settings = {
            "experiment": same_as_sb3(SB3_DEFAULTS, num_envs, **update),
            "runs": runs,
            "iterations": iterations,
        }
        return Contender(Call("workers.ours:train", settings), runs * iterations * batch)

    iterations = max(1, options.steps_per_round // batch)
    contenders = {
        "kltrust": ours(1, iterations),
        "kltrust, 10 % in F": ours(1, iterations, fisher_stride=10),
        f"kltrust, {options.seeds} seeds": ours(options.seeds, 1),
    }
    if "sb3-contrib" in pythons:
        settings = {"env": ENV, "num_envs": num_envs, "settings": SB3_DEFAULTS, "threads": 1}
        each = Call("workers.sb3_trpo:train", settings, pythons["sb3-contrib"])
        lone = each._replace(settings=settings | {"threads": options.torch_threads})
        cores = os.cpu_count() or 1
        contenders["sb3-contrib"] = Contender(lone, batch)
        contenders["sb3-contrib, a run per core"] = Contender(
            each._replace(processes=cores), cores * batch
        )
    what = f"trpo {num_envs} x {SB3_DEFAULTS['n_steps']}"
    return {"num_envs": num_envs, **compare(contenders, options.rounds, what)}


def solve(options: Options, pythons: dict[str, str]) -> dict[str, Any]:
    """Every training in a fresh process that has imported what it needs.

    After every 4,096 steps it plays 20 episodes by the mode in 20 environments, and where their
    mean return reaches the target, 100 more. kltrust trains by its own preset, and by RL Zoo's
    settings as well.
    """
    from kltrust.experiments.config.presets import preset

    episodes, confirm = 20, 5
    protocol = {"every": 4096, "target": options.target, "confirm": confirm}
    budget = {"total_steps": ZOO_STEPS, "eval_episodes": episodes}
    own = preset("trpo", ENV).to_dict()
    experiments = {
        "kltrust": {**own, "budget": {**own["budget"], **budget}},
        "kltrust, RL Zoo's settings": {**same_as_sb3(ZOO, ZOO_ENVS), "budget": budget},
    }

    def ours(name: str, seeds: list[int]) -> Call:
        settings = {"experiment": experiments[name], "seeds": seeds, **protocol}
        return Call("workers.ours:solve", settings)

    def round_of(i: int) -> dict[str, Call]:
        calls = {name: ours(name, [i]) for name in experiments}
        many = [i * options.seeds + j for j in range(options.seeds)]
        calls[f"kltrust, {options.seeds} seeds"] = ours("kltrust", many)
        if "sb3-contrib" in pythons:
            settings = {"env": ENV, "num_envs": ZOO_ENVS, "settings": ZOO, "seed": i}
            settings |= {
                "threads": options.torch_threads,
                "total_steps": ZOO_STEPS,
                "episodes": episodes,
                **protocol,
            }
            peer = Call("workers.sb3_trpo:solve", settings, pythons["sb3-contrib"])
            calls["sb3-contrib"] = peer
        return calls

    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in round_of(0)}
    for i in range(options.solve_seeds):
        for name, call in round_of(i).items():
            with worker(call) as process:
                process.send("go")
                runs[name].append(run := process.receive())
            clock = f"{max(run['seconds']):.1f} s"
            print(f"{name}: {clock}, solved {np.mean(run['solved']):.0%}", flush=True)
    found = {"target": options.target, "seeds": options.seeds, "runs": runs, "times as fast": {}}
    if "sb3-contrib" in runs:
        alone = [max(run["seconds"]) for run in runs["sb3-contrib"]]
        # A budget that ended is less than it takes: that is for the peer, and never for us.
        seconds = {
            name: [max(run["seconds"]) if all(run["solved"]) else np.inf for run in of]
            for name, of in runs.items()
            if name != "sb3-contrib"
        }
        # Of so many seeds, as those that were run take on average.
        all_of_them = np.full(len(alone), options.seeds * np.mean(alone))
        cores = os.cpu_count() or 1
        many = {
            "sb3-contrib, one after another": all_of_them.tolist(),
            f"sb3-contrib, {cores} at once at best": (all_of_them / cores).tolist(),
        }
        found["times as fast"] = {
            name: {peer: times(theirs, of) for peer, theirs in against.items()}
            for name, of in seconds.items()
            for against in [many if "seeds" in name else {"sb3-contrib": alone}]
        }
        say("solved", found["times as fast"])
    return found


Part = Callable[[Options, dict[str, str]], dict[str, Any]]
PARTS: dict[str, tuple[Part, tuple[str, ...]]] = {
    "ppo": (ppo, ("rejax", "purejaxrl")),
    "trpo": (trpo, ("sb3-contrib",)),
    "solve": (solve, ("sb3-contrib",)),
}
"""Each with the peers that take part."""


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
