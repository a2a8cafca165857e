"""What the benchmark of compiled programs reads from a program's text."""

import jax
import jax.numpy as jnp
import programs

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
