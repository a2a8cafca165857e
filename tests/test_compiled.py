"""What the benchmark of compiled programs reads from a program's text."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import programs
import pytest
from recorded import compiled as recorded

BENCHMARKS = Path(programs.__file__).parent

SHAPE = "f32[4,8]{1,0:T(8,128)}"


def test_a_shape_is_read():
    assert programs.dimensions(SHAPE) == [4, 8]
    assert programs.size_in_bytes(f"(s32[], {SHAPE}, pred[3])") == 4 + 4 * 32 + 3


def test_a_function_is_known_by_the_last_parts_of_its_name():
    stack = ("<module>", "PPOClip.update", "gae")
    assert programs.named(stack, {"gae": 2, "PPOClip.update": 1}, 0) == 1
    assert programs.named(stack, {"Clip.update": 1}, 0) == 0


def test_loops_are_multiplied_and_put_into_phases():
    def inner(x):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ c), None), x, length=7)[0]

    def outer(x):
        return jax.lax.scan(lambda c, _: (inner(c), None), x, length=3)[0]

    text = jax.jit(outer).lower(jnp.ones((8, 8))).compile().as_text()
    found = programs.Program(text).costs({"inner": "products"}, {})
    assert found["products"].flops == 3 * 7 * 2 * 8**3
    assert found["products"].iterations == 3 * 7
    assert sum(cost.iterations for cost in found.values()) == 3 * 7 + 3


LOWERED = """
import jax
jax.config.update("jax_num_cpu_devices", {number})
import common, compiled
settings = common.experiment("trpo", "CartPole-v1", network={{"hidden": (4,)}}, num_steps=8)
of = compiled.devices("cpu", {number})
assert len(of) == {number}
parts = compiled.lowered_parts(common.made(settings), of)
assert set(parts) == {{"init", "chunk", "evaluate"}}
assert all("func.func public @main" in part.as_text() for part in parts.values())
"""


@pytest.mark.parametrize("number", [1, 2])
def test_the_programs_are_those_of_a_training(number):
    """Lowered, not compiled: where no compiler is installed, a changed engine shows here.

    With two devices it is one run that is spread over them.
    """
    command = [sys.executable, "-c", LOWERED.format(number=number)]
    subprocess.run(command, check=True, cwd=BENCHMARKS)


def row(algorithm, **counts):
    return {"algorithm": algorithm, "target": "h100", "chunk": counts}


def test_what_costs_more_than_was_recorded_is_named():
    before = [row("trpo", kernels=10, launches=2), row("npg", kernels=10, launches=2)]
    now = [row("trpo", kernels=9, launches=3), row("npg", kernels=10, launches=2)]
    assert list(recorded.grown(now, before)) == ["trpo, h100: 3 launches and not 2"]
    assert not list(recorded.grown(before, before))


def test_no_algorithm_costs_more_than_was_recorded(tmp_path):
    """On an H100, by its compiler; a minute's work for each, where that is installed."""
    ceilings = json.loads((BENCHMARKS / "results/compiled_algorithms.json").read_text("utf-8"))
    packages = ceilings["versions"]["packages"]
    if importlib.util.find_spec("jax_plugins") is None or not has_compiler():
        pytest.skip("needs the compiler for GPUs: benchmarks/compiled.py says how to install it")
    if jax.__version__ != packages["jax"]:
        pytest.skip(f"recorded with jax {packages['jax']}, whose compiler is another")
    command = [sys.executable, str(BENCHMARKS / "compiled.py"), "--out", str(tmp_path)]
    command += ["--parts", "compiled_algorithms", "--programs", "chunk", "--targets", "h100"]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads((tmp_path / "compiled_algorithms.json").read_text("utf-8"))
    assert [r["algorithm"] for r in found["rows"]] == [r["algorithm"] for r in ceilings["rows"]]
    assert not list(recorded.grown(found["rows"], ceilings["rows"]))


def has_compiler():
    return importlib.util.find_spec("jax_plugins.xla_cuda13") is not None
