"""kltrust beside other libraries doing the same job, each in an environment of its own.

    python benchmarks/peers.py                                         all parts
    python benchmarks/peers.py --parts peers_trpo --envs runs/peers    environments that are kept
    python benchmarks/peers.py --parts peers_ppo --purejaxrl CHECKOUT  with one of purejaxrl, too

    peers_ppo    PPO-clip at purejaxrl's settings for CartPole, beside rejax's and purejaxrl's: one
                 run, 32 seeds on all cores beside their one vmap, and one run on MinAtar's
                 Breakout, flattened
    peers_trpo   TRPO at sb3-contrib's defaults beside sb3-contrib's
    peers_solve  time to solve CartPole-v1, compilation and evaluation included, beside
                 sb3-contrib's TRPO with the settings that RL Zoo tuned for it

A peer is installed by pip, at the versions below, into a virtual environment: some minutes, and a
network. Every contender is a process; they take turns on the same machine, compiled but in
peers_solve. Writes PART.json to benchmarks/results/: environment steps per second of every round,
and ratios as median, quartiles, and that of the best rounds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import textbook
from common import Parts, Result, chosen, experiment, options, preset, record_parts
from timing import Call, once, processes_in_turns, take, times, variables

# gymnax 1.0 changed what `step` returns; these call it as it was before. On the same JAX as ours.
_JAX = "jax==0.10.1 jaxlib==0.10.1 gymnax==0.0.9 flax==0.12.8 optax==0.2.8 distrax==0.1.9"
_JAX += " chex==0.1.92 tfp-nightly==0.26.0.dev20261027 numpy==2.4.6"
_TORCH = "torch==2.13.0 stable-baselines3==2.9.2 sb3-contrib==2.9.2 gymnasium==1.3.0 numpy==2.4.6"
REQUIREMENTS = {
    "rejax": (*_JAX.split(), "rejax==0.1.3"),
    "purejaxrl": (*_JAX.split(), "brax==0.14.2", "navix==0.7.4"),  # which its wrappers import
    "sb3-contrib": tuple(_TORCH.split()),
}
"""By peer. purejaxrl itself is no package: `Options.purejaxrl`."""

ENV, IMAGES = "CartPole-v1", "Breakout-MinAtar"
CORES = os.cpu_count() or 1
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
_TUNED = {"n_steps": 512, "batch_size": 512, "cg_damping": 1e-3}
ZOO = SB3_DEFAULTS | _TUNED | {"gae_lambda": 0.98, "n_critic_updates": 20}
"""rl-baselines3-zoo, hyperparams/trpo.yml, CartPole-v1 at commit 13a3fe7."""
ZOO_ENVS, ZOO_STEPS = 2, 100_000
Pythons = dict[str, str]
"""The Python of each peer's environment."""


@dataclasses.dataclass(frozen=True)
class Options(Parts):
    """What is run."""

    peers: tuple[str, ...] = ()
    """Those beside which: all, if none is named, purejaxrl only with a checkout."""
    purejaxrl: Path | None = None  # A checkout of its repository, of which ppo.py is run as it is
    envs: Path | None = None
    """Folder of the environments, which are kept there; default: made anew, removed at the end."""
    rounds: int = 11
    seeds: int = 32  # Of the sweeps
    ppo_envs: tuple[int, ...] = (4, 64)  # Of 128 steps
    trpo_envs: tuple[int, ...] = (1, 8)  # Of 2,048 steps
    steps_per_round: int = 50_000  # Environment steps of a run, about
    torch_threads: int = 1  # Of a lone process of sb3-contrib: whatever is fastest there
    solve_seeds: int = 5  # Of each lone training
    target: float = 475.0
    """Mean return, acting by the mode, over 100 episodes, at which CartPole-v1 is solved."""


def main(options: Options) -> None:
    parts = chosen("parts", options.parts, PARTS)
    wanted = chosen("peers", options.peers, REQUIREMENTS)
    checkout = options.purejaxrl
    if checkout is not None and not (checkout / "purejaxrl" / "ppo.py").is_file():
        raise SystemExit(f"{checkout} is no checkout of purejaxrl: it has no purejaxrl/ppo.py")
    if "peers_solve" in parts and "JAX_COMPILATION_CACHE_DIR" in os.environ:
        raise SystemExit("unset JAX_COMPILATION_CACHE_DIR: compiling is part of what is timed")
    with contextlib.ExitStack() as stack:
        folder = options.envs or Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def beside(part: Part, peers: tuple[str, ...], options: Options, rounds: int) -> Result:
            peers = tuple(p for p in peers if p in wanted and (p != "purejaxrl" or checkout))
            pythons = {peer: environment(peer, folder) for peer in peers}
            installed = {p: dict(of.split("==") for of in REQUIREMENTS[p]) for p in pythons}
            return part(options, pythons) | {"peers": installed}

        of = {n: (functools.partial(beside, *PARTS[n]), options.rounds) for n in parts}
        record_parts(of, options)


def environment(peer: str, folder: Path) -> str:
    """The Python of a peer's environment, which is made unless it is in the folder already."""
    path = folder.absolute() / peer
    python = str(path / "bin" / "python")
    wanted = "\n".join(REQUIREMENTS[peer])
    made = path / "installed"
    if not made.exists() or made.read_text("utf-8") != wanted:
        print(f"installing {peer}", flush=True)
        venv.create(path, clear=True, with_pip=True)
        command = [python, "-m", "pip", "install", "-q", "--no-compile", *REQUIREMENTS[peer]]
        subprocess.run(command, check=True, env=variables(python))
        made.write_text(wanted, "utf-8")
    return python


class Contender(NamedTuple):
    """A process, or several at once, and the environment steps of its round."""

    call: Call
    steps: int


def compare(contenders: dict[str, Contender], rounds: int, what: str) -> Result:
    """Times the contenders in turns.

    Args:
        contenders: by name; kltrust's names begin with "kltrust".
        rounds: the number of rounds of each.
        what: printed before every ratio.

    Returns:
        "steps_per_second" of every round, and "times as fast" by the names of kltrust's contender
        and the peer's.
    """
    seconds, _ = processes_in_turns({n: c.call for n, c in contenders.items()}, rounds)
    per_step = {n: np.divide(seconds[n], c.steps).tolist() for n, c in contenders.items()}
    peers = {n: of for n, of in per_step.items() if not n.startswith("kltrust")}
    return {
        "steps_per_second": {n: [round(1 / s) for s in each] for n, each in per_step.items()},
        "times as fast": {
            name: take({name: of, **peers}, name, what)
            for name, of in per_step.items()
            if name not in peers
        },
    }


# --- ppo ------------------------------------------------------------------------------------------


def ppo(options: Options, pythons: Pythons) -> Result:
    """One run, a sweep, and one run that spends most of its time in the environment."""
    sizes = [(ENV, n, seeds) for seeds in (1, options.seeds) for n in options.ppo_envs]
    sizes.append((IMAGES, options.ppo_envs[-1], 1))
    return {"cases": [ppo_case(*size, options, pythons) for size in sizes]}


def ppo_case(env: str, num_envs: int, seeds: int, options: Options, pythons: Pythons) -> Result:
    """The textbook loop's settings are purejaxrl's, where the learning rate falls."""
    s = textbook.Settings(env=env, num_envs=num_envs)
    batch = num_envs * s.num_steps
    iterations = max(1, options.steps_per_round // batch)
    if seeds > 1:  # of each run: a round has more steps
        iterations = max(2, iterations // 8)  # 2: the peers begin each round anew
    steps = iterations * batch
    annealed = {**textbook.experiment(s), "budget": {"anneal": 1.0}}
    ours = {"experiment": annealed, "runs": seeds, "iterations": iterations}
    calls = {"kltrust": Call("workers.ours:train", ours)}
    if "rejax" in pythons:
        of = {"settings": as_rejax(s, steps), "seeds": seeds}
        calls["rejax"] = Call("workers.others:rejax_ppo", of, pythons["rejax"])
    if "purejaxrl" in pythons:
        checkout = str(Path(options.purejaxrl or "").absolute())
        of = {"checkout": checkout, "config": as_purejaxrl(s, steps), "seeds": seeds}
        calls["purejaxrl"] = Call("workers.others:purejaxrl_ppo", of, pythons["purejaxrl"])
    contenders = {name: Contender(call, steps * seeds) for name, call in calls.items()}
    size = {"env": env, "num_envs": num_envs, "num_steps": s.num_steps, "seeds": seeds}
    return {**size, **compare(contenders, options.rounds, f"ppo_clip {size}")}


def as_rejax(settings: textbook.Settings, steps: int) -> dict[str, Any]:
    """The textbook's settings as rejax takes them."""
    names = {"entropy_coef": "ent_coef", "value_coef": "vf_coef"}
    same = {names.get(name, name): value for name, value in vars(settings).items()}
    network = {"hidden_layer_sizes": same.pop("hidden"), "activation": "tanh"}
    return {**same, "agent_kwargs": network, "total_timesteps": steps}


def as_purejaxrl(settings: textbook.Settings, steps: int) -> dict[str, Any]:
    """The textbook's settings as purejaxrl takes them; its layers have 64 tanh units."""
    names = {
        "env": "ENV_NAME",
        "num_epochs": "UPDATE_EPOCHS",
        "learning_rate": "LR",
        "entropy_coef": "ENT_COEF",
        "value_coef": "VF_COEF",
    }
    config = {names.get(name, name.upper()): value for name, value in vars(settings).items()}
    return {**config, "TOTAL_TIMESTEPS": steps, "ANNEAL_LR": True, "ACTIVATION": "tanh"}


# --- trpo -----------------------------------------------------------------------------------------


def same_as_sb3(settings: dict[str, Any], num_envs: int, **update: Any) -> dict[str, Any]:
    """The settings of sb3-contrib's TRPO as `kltrust` takes them, and others of its own."""
    s = settings
    update |= {
        "max_kl": s["target_kl"],
        "damping": s["cg_damping"],
        "cg_iters": s["cg_max_steps"],
        "cg_rtol": 0.0,  # sb3-contrib's, on the squared residual, is absolute
        "shrink": s["line_search_shrinking_factor"],
        "max_backtracks": s["line_search_max_iter"],
    }
    critic = {
        "learning_rate": s["learning_rate"],
        "num_epochs": s["n_critic_updates"],
        "num_minibatches": num_envs * s["n_steps"] // s["batch_size"],
        "max_grad_norm": "inf",
    }
    network = {"hidden": (64, 64), "activation": "tanh"}
    rollout = {"num_envs": num_envs, "num_steps": s["n_steps"]}
    returns = {name: s[name] for name in ("gamma", "gae_lambda")}
    return experiment("trpo", ENV, update, critic, network, **rollout, **returns)


def trpo(options: Options, pythons: Pythons) -> Result:
    """At sb3-contrib's defaults."""
    cases = [trpo_case(num_envs, options, pythons) for num_envs in options.trpo_envs]
    return {"num_steps": SB3_DEFAULTS["n_steps"], "seeds": options.seeds, "cases": cases}


def trpo_case(num_envs: int, options: Options, pythons: Pythons) -> Result:
    """One run, the same with 10 % of the states in F, and a sweep; the peer on every core, too."""
    batch = num_envs * SB3_DEFAULTS["n_steps"]

    def ours(runs: int, iterations: int, **update: Any) -> Contender:
        same = same_as_sb3(SB3_DEFAULTS, num_envs, **update)
        of = {"experiment": same, "runs": runs, "iterations": iterations}
        return Contender(Call("workers.ours:train", of), runs * iterations * batch)

    iterations = max(1, options.steps_per_round // batch)
    contenders = {
        "kltrust": ours(1, iterations),
        "kltrust, 10 % in F": ours(1, iterations, fisher_stride=10),
        f"kltrust, {options.seeds} seeds": ours(options.seeds, 1),
    }
    if "sb3-contrib" in pythons:
        of = {"env": ENV, "num_envs": num_envs, "settings": SB3_DEFAULTS, "threads": 1}
        each = Call("workers.others:sb3_trpo", of, pythons["sb3-contrib"], CORES)
        lone = each._replace(settings=of | {"threads": options.torch_threads}, processes=1)
        contenders["sb3-contrib"] = Contender(lone, batch)
        contenders["sb3-contrib, a run per core"] = Contender(each, CORES * batch)
    return {"num_envs": num_envs, **compare(contenders, options.rounds, f"trpo {batch} steps")}


# --- solve ----------------------------------------------------------------------------------------


def solve(options: Options, pythons: Pythons) -> Result:
    """Runs every training in a fresh process that has its imports done.

    After every 4,096 steps it plays 20 episodes by the mode in 20 environments. If their mean
    return reaches the target, it plays 100 more. kltrust trains with its own preset and with RL
    Zoo's settings.
    """
    episodes, many = 20, f"kltrust, {options.seeds} seeds"
    protocol = {"every": 4096, "target": options.target, "confirm": 5}
    budget = {"total_steps": ZOO_STEPS, "eval_episodes": episodes}
    own = preset("trpo", ENV).to_dict()
    own["budget"] |= budget
    zoo = {**same_as_sb3(ZOO, ZOO_ENVS), "budget": budget}
    theirs = {"env": ENV, "num_envs": ZOO_ENVS, "settings": ZOO, "total_steps": ZOO_STEPS}
    theirs |= {"threads": options.torch_threads, "episodes": episodes, **protocol}

    def ours(settings: dict[str, Any], *seeds: int) -> Call:
        return Call("workers.ours:solve", {"experiment": settings, "seeds": seeds, **protocol})

    def round_of(i: int) -> dict[str, Call]:
        seeds = range(i * options.seeds, (i + 1) * options.seeds)
        calls = {"kltrust": ours(own, i), "kltrust, RL Zoo's settings": ours(zoo, i)}
        calls[many] = ours(own, *seeds)
        if python := pythons.get("sb3-contrib"):
            calls["sb3-contrib"] = Call("workers.others:sb3_solve", theirs | {"seed": i}, python)
        return calls

    runs: dict[str, list[Result]] = {}
    for i in range(options.solve_seeds):
        for name, call in round_of(i).items():
            run = once(call)
            runs.setdefault(name, []).append(run)
            clock = f"{max(run['seconds']):.1f} s"
            print(f"{name}: {clock}, solved {np.mean(run['solved']):.0%}", flush=True)
    found = {"target": options.target, "seeds": options.seeds, "runs": runs, "times as fast": {}}
    if "sb3-contrib" in runs:
        alone = [max(run["seconds"]) for run in runs["sb3-contrib"]]
        # For this many seeds, from the average of those that were run.
        all_of_them = np.full(len(alone), options.seeds * np.mean(alone))
        of_many = {
            "sb3-contrib, one after another": all_of_them.tolist(),
            f"sb3-contrib, {CORES} at once at best": (all_of_them / CORES).tolist(),
        }
        for name in [name for name in runs if name != "sb3-contrib"]:
            # An unsolved run of the peer counts with its spent budget, one of ours as infinite.
            of = [max(run["seconds"]) if all(run["solved"]) else np.inf for run in runs[name]]
            against = of_many if name == many else {"sb3-contrib": alone}
            found["times as fast"][name] = {p: times(takes, of) for p, takes in against.items()}
        print(found["times as fast"], flush=True)
    return found


Part = Callable[[Options, Pythons], Result]
PARTS: dict[str, tuple[Part, tuple[str, ...]]] = {
    "peers_ppo": (ppo, ("rejax", "purejaxrl")),
    "peers_trpo": (trpo, ("sb3-contrib",)),
    "peers_solve": (solve, ("sb3-contrib",)),
}
"""The parts, each with the peers that take part."""


if __name__ == "__main__":
    sys.exit(main(options(Options, __doc__)))
