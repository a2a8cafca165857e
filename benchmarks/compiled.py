"""What an iteration costs on accelerators, from what their compilers make of it: without a device.

    python benchmarks/compiled.py
    python benchmarks/compiled.py --parts compiled_equal --targets h100 --purejaxrl PATH
    python benchmarks/compiled.py --parts compiled_algorithms --programs chunk --targets h100
    python benchmarks/compiled.py --spec SPEC.toml --targets v5e --out runs

    compiled_equal       PPO at the settings of textbook.py, three sizes, beside purejaxrl's
    compiled_algorithms  eight algorithms at their defaults; a test holds others to these counts
    compiled_memory      agents with memory
    compiled_presets     with the presets for accelerators
    compiled_spread      one run over four TPU chips
    --spec FILE          the experiments of a sweep's specification

Accelerators cost by the number of kernels that wait for each other. Recorded is for every phase of
an iteration: kernels and loop iterations, loops multiplied in; bytes and flops; collectives; on
TPUs the compiler's own estimate of cycles; and of whole programs memory and, on GPUs, how often the
host starts something (a CUDA graph counts once). An H100 that is compiled for without being there
tunes no products and sorts in a slower way.

Programs are init, chunk (an iteration) and evaluate. Targets are h100, v5e (one chip) and cpu.
The compilers are not kltrust's dependencies::

    pip install --no-deps jax-cuda13-plugin==VERSION jax-cuda13-pjrt==VERSION  # jaxlib's version
    pip install --no-deps libtpu  # the version that `pip show jax` names as its extra

``--purejaxrl`` is the path of a checkout of github.com/luchris429/purejaxrl.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# JAX looks for no device, and none is needed.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}

import common
import jax
import numpy as np
import programs
import textbook
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from workers.others import purejaxrl

H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000 device_memory_size: 85017755648 l2_cache_size: 52428800
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
}
platform_name: "CUDA"
"""
"""NVIDIA's H100 with 80 GB, as XLA describes a GPU."""
NEEDED = {"h100": "jax_plugins.xla_cuda13", "v5e": "libtpu", "cpu": "jax"}
"""The module that compiles for a target."""
PHASES = {
    "play": "rollout",
    **dict.fromkeys(("scale_rewards", "values", "gae", "standardize", "make_batch"), "advantages"),
    **dict.fromkeys(("_make_learner.to_units", "normalize"), "advantages"),
    "ValueRegression.update": "critic",
    "count_episodes": "episodes",
    **dict.fromkeys(("audit_by_default", "audit_on_request", "measure_update"), "measurement"),
    **dict.fromkeys(("measure_critic", "count_nonfinite", "update_moments"), "measurement"),
}
"""The functions that `make_learner` calls in turn; the algorithm's is added."""
PUREJAXRL = {"_env_step": "rollout", "_calculate_gae": "advantages", "_update_epoch": "update"}
LOOPS = {"conjugate_gradient": 10}
"""How often loops go round whose end only the values tell: by default once, as searches mostly do.
"""


EIGHT = ("trpo", "npg", "fixpo", "vanilla_pg", "ppo_clip", "ppo_penalty", "mdpo", "spo")


@dataclasses.dataclass(frozen=True)
class Options(common.Parts):
    """What is compiled."""

    targets: tuple[str, ...] = tuple(NEEDED)
    purejaxrl: Path | None = None
    spec: Path | None = None
    programs: tuple[str, ...] = ("init", "chunk", "evaluate")


def main(options: Options) -> None:
    targets = [t for t in common.chosen("targets", options.targets, NEEDED) if installed(t)]
    parts: Mapping[str, Callable] = PARTS
    if options.spec is not None:
        parts = {f"compiled_{options.spec.stem}": specified}
    for name in common.chosen("parts", options.parts, parts):
        rows = [row for target in targets for row in parts[name](options, target)]
        result = {"part": name, "rows": rows, "versions": common.versions()}
        common.write(options.out / f"{name}.json", result)


def installed(target: str) -> bool:
    try:
        found = importlib.util.find_spec(NEEDED[target]) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        print(f"{target}: {NEEDED[target]} is not installed; it is left out", file=sys.stderr)
    return found


def devices(target: str, number: int = 1) -> np.ndarray:
    """Devices of a target, which need not be present: [number]."""
    if target == "cpu":
        return np.asarray(jax.devices("cpu")[:number])
    if target == "h100":
        of = {"platform": "cuda", "topology_name": "h100", "topology": "1x1x1"}
        return np.asarray(topologies.get_topology_desc(**of, target_config=H100).devices)
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    return np.asarray(topology.devices[:number])


# --- what is compiled -----------------------------------------------------------------------------


def equal(options: Options, target: str) -> list[common.Result]:
    rows = []
    for num_envs, num_steps in ((4, 128), (64, 128), (4096, 16)):
        settings = textbook.Settings(num_envs=num_envs, num_steps=num_steps)
        of = {"num_envs": num_envs, "num_steps": num_steps}
        ours = measured(options, textbook.experiment(settings), target)
        rows.append(of | {"of": "kltrust", **ours})
        if options.purejaxrl is not None:
            rows.append(of | {"of": "purejaxrl", **others(options.purejaxrl, settings, target)})
    return rows


def algorithms(options: Options, target: str) -> list[common.Result]:
    each = (common.experiment(name, "CartPole-v1") for name in EIGHT)
    return [measured(options, experiment, target) for experiment in each]


def memory(options: Options, target: str) -> list[common.Result]:
    rows = []
    for cell in ("gru", "mingru"):
        settings = common.experiment(
            "ppo_clip",
            "CartPole-v1",
            update={"num_epochs": 4, "num_minibatches": 4},
            critic={"num_epochs": 4, "num_minibatches": 4},
            network={"cell": cell},
            num_envs=64,
            num_steps=128,
        )
        rows.append({"cell": cell, **measured(options, settings, target)})
    return rows


def presets(options: Options, target: str) -> list[common.Result]:
    from kltrust.experiments.config.presets import ACCELERATOR, preset

    each = (preset(name, "CartPole-v1", ACCELERATOR) for name in ("trpo", "ppo_clip"))
    return [measured(options, experiment.to_dict(), target) for experiment in each]


def spread(options: Options, target: str) -> list[common.Result]:
    if target != "v5e":
        return []
    settings = {"num_envs": 4096, "num_steps": 16, "minibatch_blocks": 4}
    passes = {"num_epochs": 4, "num_minibatches": 4}
    of = {"ppo_clip": passes, "trpo": {}}
    each = (common.experiment(n, "CartPole-v1", u, passes, **settings) for n, u in of.items())
    return [measured(options, experiment, target, 4) for experiment in each]


def specified(options: Options, target: str) -> list[common.Result]:
    return [
        {"label": setting.label, **measured(options, setting.experiment.to_dict(), target)}
        for setting in common.load_spec(options.spec).settings
    ]


PARTS = {
    "compiled_equal": equal,
    "compiled_algorithms": algorithms,
    "compiled_memory": memory,
    "compiled_presets": presets,
    "compiled_spread": spread,
}


# --- how it is measured ---------------------------------------------------------------------------


def measured(
    options: Options, settings: common.Result, target: str, number: int = 1
) -> common.Result:
    """The costs of init, an iteration and an evaluation of an experiment on ``number`` devices."""
    experiment = common.made(settings)
    # A class that inherits its update is not named in the frames.
    phases = {type(experiment.update).update.__qualname__: "policy", **PHASES}
    rounds = {**LOOPS, "conjugate_gradient": getattr(experiment.update, "cg_iters", 10)}
    found = {
        name: costs(lowered, target, phases, rounds)
        for name, lowered in lowered_parts(experiment, devices(target, number)).items()
        if name in options.programs
    }
    row = {"algorithm": experiment.algorithm, "env": experiment.env, "target": target}
    row |= {"devices": number, **found}
    said = {k: v for k, v in found["chunk"].items() if not isinstance(v, dict)}
    print(f"{target}, {experiment.algorithm}: {said}", flush=True)
    return row


def lowered_parts(experiment: Any, of: np.ndarray) -> dict[str, Any]:
    """init, chunk and evaluation, lowered for these devices as `kltrust train` compiles them."""
    from kltrust.experiments.engine import program, spread as one_run
    from kltrust.experiments.engine.lanes import AXIS

    several = len(of) > 1
    mesh = Mesh(of, (one_run.AXIS if several else AXIS,))
    made = (one_run.SpreadProgram if several else program.Program)(experiment, mesh, 1)
    everywhere = NamedSharding(mesh, PartitionSpec())
    of_lanes = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))

    def shapes(x: Any, places: Any) -> Any:
        places = jax.tree.broadcast(places, x)
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=place),
            x,
            places,
        )

    settings = program.traced_settings(experiment)
    own = jax.tree.map(lambda _: None, settings), ()

    def arguments(shared: tuple, given: tuple) -> tuple:
        places = made._shardings(given) if several else of_lanes
        return shapes((settings, shared), everywhere), own, shapes(given, places)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    given = {"init": arguments((), (keys,))}
    state = jax.eval_shape(made._jitted("init"), *given["init"])
    given["chunk"] = arguments((np.int32(1),), (state,))
    deployed = state.policy_params, state.normalizer, state.iteration
    given["evaluate"] = arguments((), (deployed, keys))
    return {name: made._jitted(name).lower(*of) for name, of in given.items()}


def others(path: Path, settings: textbook.Settings, target: str) -> common.Result:
    """An iteration of purejaxrl's PPO."""
    module = purejaxrl(path)
    s = settings
    config = {
        "LR": s.learning_rate,
        "NUM_ENVS": s.num_envs,
        "NUM_STEPS": s.num_steps,
        "TOTAL_TIMESTEPS": 4 * s.num_envs * s.num_steps,
        "UPDATE_EPOCHS": s.num_epochs,
        "NUM_MINIBATCHES": s.num_minibatches,
        "GAMMA": s.gamma,
        "GAE_LAMBDA": s.gae_lambda,
        "CLIP_EPS": s.clip_eps,
        "ENT_COEF": s.entropy_coef,
        "VF_COEF": s.value_coef,
        "MAX_GRAD_NORM": s.max_grad_norm,
        "ACTIVATION": "tanh",
        "ENV_NAME": s.env,
        "ANNEAL_LR": True,
        "DEBUG": False,
    }
    place = NamedSharding(Mesh(devices(target), ("one",)), PartitionSpec())
    key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=place)
    lowered = jax.jit(module.make_train(config)).lower(key)
    return {"target": target, "devices": 1, "chunk": costs(lowered, target, PUREJAXRL, {}, 4)}


def costs(
    lowered: Any,
    target: str,
    phases: Mapping[str, str],
    rounds: Mapping[str, int],
    iterations: int = 1,
) -> common.Result:
    """The costs of one iteration, by phase and in total, from a program of ``iterations``."""
    with tempfile.TemporaryDirectory() as folder:
        plan = {"xla_dump_to": folder} if target == "h100" else {}
        compiled = lowered.compile(compiler_options=plan)
        program = programs.Program(compiled.as_text())
        found = program.costs(phases, rounds)
        started = programs.launches(Path(folder), program, rounds) if plan else None
    names = [field.name for field in dataclasses.fields(programs.Cost)]
    total = {n: sum(getattr(cost, n) for cost in found.values()) // iterations for n in names}
    if started is not None:
        total["launches"] = started // iterations
    sizes = compiled.memory_analysis()
    total["temporary_bytes"] = sizes.temp_size_in_bytes if sizes is not None else 0
    by_phase = {
        phase: {n: x // iterations for n, x in dataclasses.asdict(cost).items() if x}
        for phase, cost in found.items()
    }
    return {**total, "phases": by_phase}


if __name__ == "__main__":
    main(common.options(Options, __doc__))
