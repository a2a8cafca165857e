"""Lanes: at one width the same bits, whatever the devices, the neighbours and the padding."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import output, tiny

from kltrust.experiments.engine import lanes
from kltrust.experiments.engine.program import build
from kltrust.learner import run

WIDTH = 2


def train_lane(_, key):
    learner = build(tiny(update={"cg_iters": 3})).learner
    state, metrics = run(learner, learner.init(key), 3)
    return state._replace(key=jax.random.key_data(state.key)), metrics


@functools.cache
def compiled(mesh):
    mapped = lanes.map_lanes(train_lane, mesh, WIDTH)
    return jax.jit(mapped, compiler_options=lanes.compiler_options(mesh))


def train_seeds(seeds):
    """A digest of each seed's whole state and metrics after three iterations."""
    mesh = lanes.make_mesh(len(seeds), WIDTH)
    size = lanes.padded_size(len(seeds), WIDTH, mesh)
    keys = jax.vmap(jax.random.key)(np.asarray(seeds))
    results = compiled(mesh)((), lanes.pad(keys, size))
    assert all(leaf.shape[0] == size for leaf in jax.tree.leaves(results))
    results = lanes.to_host(results, len(seeds))
    return {
        seed: hashlib.sha256(
            b"".join(leaf[i].tobytes() for leaf in jax.tree.leaves(results))
        ).hexdigest()
        for i, seed in enumerate(seeds)
    }


@pytest.fixture(scope="module")
def on_one_device():
    assert len(jax.devices()) == 1
    return train_seeds([0, 1, 2, 3])


def test_neighbours_do_not_matter(on_one_device):
    # Every seed has another place in its block, another neighbour and other blocks around it.
    others = train_seeds([7, 2, 1, 9])
    assert others[1] == on_one_device[1]
    assert others[2] == on_one_device[2]
    assert len({*others.values(), *on_one_device.values()}) == 6


def lanes_without_entries(width):
    """A physics engine's state holds some, as do shared numbers and what a function closes over."""
    mesh = lanes.make_mesh(4, width)
    shared = {"bias": np.float32(1), "none": np.zeros((0, 2), np.float32)}
    given = {"contacts": np.zeros((4, 0, 3), np.float32), "place": np.arange(4.0, dtype=np.float32)}

    def double(shared, lane):
        place = lane["place"].at[...].set(2 * lane["place"])  # closes over indices: none
        nothing = jnp.sum(lane["contacts"]) + jnp.sum(shared["none"])
        return lane | {"place": place + shared["bias"] + nothing}

    results = jax.jit(lanes.map_lanes(double, mesh, width))(shared, given)
    assert results["contacts"].shape == (4, 0, 3)
    return mesh.size, results["place"].tolist()


@pytest.mark.fast
@pytest.mark.parametrize("devices", [1, 2])
def test_arrays_without_entries(devices):
    # In a process of its own: jaxlib 0.11 crashed.
    script = "import test_lanes\nprint(*map(test_lanes.lanes_without_entries, (1, 2)))"
    assert output("-c", script, devices=devices) == " ".join(
        [f"({devices}, [1.0, 3.0, 5.0, 7.0])"] * 2
    )


def test_the_number_of_devices_and_padding_do_not_matter(on_one_device):
    script = (
        "import test_lanes\n"
        "import jax\n"
        "assert len(jax.devices()) == 4\n"
        "assert test_lanes.lanes.make_mesh(4, 2).size == 2\n"
        "assert test_lanes.lanes.make_mesh(7, 2).size == 4\n"
        "print(test_lanes.train_seeds([0, 1, 2]))\n"
        "print(test_lanes.train_seeds([8, 3, 7, 6, 5, 1, 2]))\n"
    )
    two_devices, four_devices = map(eval, output("-c", script, devices=4).splitlines())
    assert two_devices == {seed: on_one_device[seed] for seed in (0, 1, 2)}
    assert {seed: four_devices[seed] for seed in (1, 2, 3)} == {
        seed: on_one_device[seed] for seed in (1, 2, 3)
    }


def test_padding_repeats_the_last_lane_and_is_dropped():
    tree = {"x": np.arange(6.0).reshape(3, 2), "key": jax.random.split(jax.random.key(0), 3)}
    padded = lanes.pad(tree, 5)
    assert padded["x"].tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
    assert padded["key"][4] == tree["key"][2]
    back = lanes.to_host(padded, 3)
    assert np.array_equal(back["x"], tree["x"])
    assert np.all(back["key"] == tree["key"])
    assert lanes.pad(tree, 3) is tree  # nothing to do is not done


class Devices:
    """As much of a mesh as sizes need."""

    def __init__(self, size):
        self.size = size


@pytest.mark.parametrize(
    ("number", "width", "devices", "size"),
    [(1, 1, 1, 1), (5, 2, 1, 6), (5, 2, 2, 8), (8, 2, 4, 8), (20, 4, 2, 24), (20, 4, 5, 20)],
)
def test_padded_size_fills_whole_blocks_on_every_device(number, width, devices, size):
    padded = lanes.padded_size(number, width, Devices(devices))
    assert padded == size
    assert padded % (width * devices) == 0
    assert 0 <= padded - number < width * devices


def test_lanes_that_do_not_fill_the_blocks_are_refused():
    double = lanes.map_lanes(lambda shared, x: shared * x, lanes.make_mesh(4, 2), 2)
    assert double(2.0, np.arange(4.0)).tolist() == [0, 2, 4, 6]
    with pytest.raises((ValueError, TypeError)):
        double(2.0, np.arange(3.0))
