"""Any state, back bit for bit; anything else, an error that says what to do."""

import logging
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from toys import assert_same_bits, python

from kltrust.experiments.store import checkpoint, files
from kltrust.experiments.store.checkpoint import CheckpointError


class State(NamedTuple):
    policy_params: dict
    opt_state: optax.OptState
    key: jax.Array
    step: jax.Array
    carry: tuple = ()


def make_state(width=4):
    params = {"Dense_0": {"kernel": jnp.arange(width * 64.0).reshape(width, 64)}}
    return State(
        params,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)).init(params),
        jax.random.key(7),
        jnp.asarray(3, jnp.int32),
    )


def roundtrip(path, state, like=None):
    checkpoint.save(path, state)
    return checkpoint.restore(path, state if like is None else like)


def test_a_training_state_comes_back_bit_for_bit(tmp_path):
    """Into a state, or what `jax.eval_shape` says of one."""
    state = make_state()
    path = tmp_path / "parents" / "are made"
    assert_same_bits(roundtrip(path, state), state)
    restored = checkpoint.restore(path, jax.eval_shape(make_state))
    assert_same_bits(restored, state)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored))


@pytest.mark.parametrize(
    "leaf",
    [
        np.array([np.nan, -np.nan, 0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf], np.float32),
        np.array([0x7FC00001, 0xFF800001], np.uint32).view(np.float32),  # NaNs with payloads
        np.full((3, 5), -0.0, np.float32),  # equal to a fill value, not the same bits
        np.zeros((0, 3), np.float32),
        np.array(True),
        np.array([[True], [False]]),
        np.array(-5, np.int8),
        np.arange(3, dtype=np.uint32),
        np.ones((2, 2), ml_dtypes.bfloat16),
        np.array([1 + 2j], np.complex64),
        np.asfortranarray(np.arange(6.0, dtype=np.float32).reshape(2, 3)),
        np.float64(1e-320),
        3,
        -0.0,
        True,
    ],
    ids=repr,
)
def test_every_kind_of_leaf(tmp_path, leaf):
    restored = roundtrip(tmp_path / "c", {"leaf": leaf})["leaf"]
    assert_same_bits(restored, leaf)
    assert type(restored) is type(leaf)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_typed_keys_keep_their_implementation_and_their_stream(tmp_path, impl):
    keys = jax.random.split(jax.random.key(1, impl=impl), 3)
    for name, like in (("a", keys), ("b", jax.eval_shape(lambda: keys))):
        restored = roundtrip(tmp_path / name, keys, like)
        assert_same_bits(restored, keys)
        assert restored.dtype == keys.dtype
        assert jax.random.bits(restored[1]) == jax.random.bits(keys[1])


def test_float64_survives_and_is_not_narrowed_in_silence(tmp_path):
    with jax.enable_x64(True):
        state = {"x": jnp.asarray([1 / 3])}
        assert_same_bits(roundtrip(tmp_path / "c", state), state)
    with pytest.raises(CheckpointError, match=r"x.*saved float64\[1\], expected float32\[1\]"):
        checkpoint.restore(tmp_path / "c", {"x": jnp.zeros(1)})
    like = {"x": jax.ShapeDtypeStruct((1,), np.float64)}
    with pytest.raises(CheckpointError, match="JAX_ENABLE_X64=1"):
        checkpoint.restore(tmp_path / "c", like)


def test_a_donated_state_is_copied_before_and_named_after(tmp_path):
    state = {"w": jnp.ones(1000)}
    checkpoint.save(tmp_path / "before", state)
    double = jax.jit(lambda s: jax.tree.map(lambda x: 2 * x, s), donate_argnums=0)
    double(state)["w"].block_until_ready()
    assert np.all(checkpoint.restore(tmp_path / "before", {"w": np.ones(1000, "f4")})["w"] == 1)
    with pytest.raises(CheckpointError, match=r"\['w'\] was donated"):
        checkpoint.save(tmp_path / "after", state)
    assert not (tmp_path / "after").exists()


def test_a_wrong_shape_is_named_with_both(tmp_path):
    checkpoint.save(tmp_path / "c", make_state(4))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.restore(tmp_path / "c", make_state(6))
    message = str(caught.value)
    assert "policy_params['Dense_0']['kernel']: saved float32[4,64], expected float32[6,64]" in (
        message
    )
    assert "settings that it was saved with" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(carry=(jnp.zeros(2),)), r"carry\[0\]: saved nothing, expected float"),
        (lambda s: s._replace(step=()), r"step: saved int32\[\], expected nothing"),
        (lambda s: s._replace(step=jnp.zeros(())), r"saved int32\[\], expected float32\[\]"),
        (lambda s: s._replace(key=jax.random.key(0, impl="rbg")), r"key<threefry2x32>\[2\]"),
        (lambda s: s._replace(key=jax.random.key_data(s.key)), r"expected uint32\[2\]"),
    ],
)
def test_every_difference_of_structure_is_caught(tmp_path, change, message):
    checkpoint.save(tmp_path / "c", make_state())
    with pytest.raises(CheckpointError, match=message):
        checkpoint.restore(tmp_path / "c", change(make_state()))


def test_missing_foreign_and_newer_checkpoints(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*: check the path"):
        checkpoint.restore(tmp_path / "nowhere", make_state())
    with pytest.raises(CheckpointError, match="not a kltrust checkpoint"):
        checkpoint.restore(tmp_path, make_state())
    checkpoint.save(tmp_path / "c", make_state())
    manifest = tmp_path / "c" / "kltrust.json"
    manifest.write_text(manifest.read_text().replace("checkpoint 1", "checkpoint 9"))
    with pytest.raises(CheckpointError, match="use the version of kltrust that wrote it"):
        checkpoint.restore(tmp_path / "c", make_state())


def contents(path):
    return [p for p in sorted(path.rglob("*")) if p.is_file() and p.stat().st_size]


def attempt(path, like):
    try:
        return checkpoint.restore(path, like), ""
    except CheckpointError as error:
        return None, str(error)


def test_no_damage_goes_unnoticed(tmp_path):
    """Every file in turn: truncated, a byte flipped, gone."""
    state = make_state()
    checkpoint.save(tmp_path / "c", state)
    for file in contents(tmp_path / "c"):
        good = file.read_bytes()
        middle = len(good) // 2
        flipped = good[:middle] + bytes([good[middle] ^ 0x40]) + good[middle + 1 :]
        for bad in (good[:middle], b"", flipped, None):
            file.unlink() if bad is None else file.write_bytes(bad)
            restored, message = attempt(tmp_path / "c", state)
            assert restored is None
            assert "damaged file" in message or "not a kltrust checkpoint" in message
            file.write_bytes(good)
    assert_same_bits(checkpoint.restore(tmp_path / "c", state), state)


def test_an_edited_manifest_is_noticed(tmp_path):
    checkpoint.save(tmp_path / "c", {"w": jnp.zeros(3)})
    manifest = tmp_path / "c" / "kltrust.json"
    manifest.write_text(manifest.read_text().replace("float32", "uint32"))
    with pytest.raises(CheckpointError, match=r"damaged file: kltrust.json is damaged"):
        checkpoint.restore(tmp_path / "c", {"w": jnp.zeros(3, jnp.uint32)})


def test_nothing_is_overwritten(tmp_path):
    checkpoint.save(tmp_path / "c", {"w": jnp.zeros(3)})
    with pytest.raises(CheckpointError, match="exists: remove it first"):
        checkpoint.save(tmp_path / "c", {"w": jnp.ones(3)})
    assert np.all(checkpoint.restore(tmp_path / "c", {"w": jnp.zeros(3)})["w"] == 0)


def test_debris_of_an_interrupted_save_is_no_obstacle(tmp_path):
    (tmp_path / ("c" + files.DEBRIS)).mkdir()
    (tmp_path / ("c" + files.DEBRIS) / "arrays").mkdir()
    state = {"w": jnp.zeros(3)}
    assert_same_bits(roundtrip(tmp_path / "c", state), state)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("leaf", [np.array(["a"]), np.array([object()]), "text"])
def test_what_is_no_array_is_refused(tmp_path, leaf):
    with pytest.raises(CheckpointError, match=r"\['name'\] is .*no array of numbers"):
        checkpoint.save(tmp_path / "c", {"name": leaf})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path, monkeypatch, caplog):
    def full(path, arrays):
        path.mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: ... No space left on device [os_error_code='28']")

    monkeypatch.setattr(checkpoint, "_save_arrays", full)
    with pytest.raises(CheckpointError, match="the disk is full: free some space"):
        checkpoint.save(tmp_path / "c", {"w": jnp.zeros(3)})
    assert not list(tmp_path.iterdir())


def test_a_real_failure_to_write_is_one_clear_error_and_no_traceback_of_orbax(tmp_path):
    """A limit on file sizes acts like a disk that fills up: in tensorstore, deep below.

    Of several arrays, some are still being written when the first has failed.
    """
    code = f"""
import resource, time, numpy as np
from kltrust.experiments.store import checkpoint
state = {{f"w{{i}}": np.random.default_rng(i).random(300) for i in range(12)}}
checkpoint.save({str(tmp_path / "whole")!r}, state)
for limit in (200, 500, 1000, 1500, 2000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpoint.save({str(tmp_path / "c")!r}, state)
    except checkpoint.CheckpointError as error:
        print(error)
time.sleep(0.1)
"""
    done = python("-c", code)
    assert done.stdout.count("ulimit -f") == 5
    assert done.stderr == ""
    assert [file.name for file in tmp_path.iterdir()] == ["whole"]


def test_a_later_failure_of_orbax_is_silent_and_one_of_others_is_not(tmp_path, caplog):
    """Whether a write ends after the first error is a race: here, its complaint is told."""
    checkpoint.save(tmp_path / "c", {"w": jnp.zeros(3)})
    complaint = "Task exception was never retrieved\nfuture: <Task coro=<write() defined at %s:1>>"
    orbax_file = os.path.join("lib", "orbax", "checkpoint", "_src", "handlers.py")
    logging.getLogger("asyncio").error(complaint, orbax_file)
    logging.getLogger("asyncio").error(complaint, "mine.py")
    (record,) = caplog.records
    assert "mine.py" in record.getMessage()


def test_after_an_interrupt_orbax_is_silent_and_others_are_not(caplog):
    """Its threads, interrupted in a save, fail when Python ends: they would log tracebacks."""
    absl = logging.getLogger("absl")
    before = list(absl.filters)
    absl.filters.clear()  # of an earlier interrupt in this process

    def told(*folders):
        caplog.clear()
        place = os.path.join(*folders, "future.py")
        absl.handle(absl.makeRecord("absl", logging.ERROR, place, 1, "it failed", (), None))
        return len(caplog.records)

    try:
        with checkpoint._orbax():
            assert told("orbax", "checkpoint", "_src")
        assert told("orbax", "checkpoint", "_src")
        with pytest.raises(KeyboardInterrupt), checkpoint._orbax():
            raise KeyboardInterrupt
        assert not told("orbax", "checkpoint", "_src")
        assert told("mine")
    finally:
        absl.filters[:] = before


def test_orbax_alone_can_read_the_arrays(tmp_path):
    """No captive format: every array lies under its path in the state."""
    import orbax.checkpoint as ocp

    checkpoint.save(tmp_path / "c", make_state())
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        arrays = checkpointer.restore(tmp_path / "c" / "arrays")
    kernel = np.asarray(arrays["policy_params['Dense_0']['kernel']"])
    np.testing.assert_array_equal(kernel, make_state().policy_params["Dense_0"]["kernel"])


def test_saving_leaves_no_thread_and_no_word_behind(tmp_path):
    """Sharded over two devices, in a process of its own, with every warning an error."""
    code = f"""
import threading, jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from kltrust.experiments.store import checkpoint
mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
sharding = NamedSharding(mesh, PartitionSpec("devices"))
state = {{"w": jax.device_put(jnp.arange(8.0), sharding), "b": jnp.ones(2)}}
checkpoint.save({str(tmp_path / "c")!r}, state)
restored = checkpoint.restore({str(tmp_path / "c")!r}, state)
assert restored["w"].sharding == sharding and (restored["w"] == state["w"]).all()
assert len(restored["b"].sharding.device_set) == 1
assert threading.active_count() == 1, threading.enumerate()
"""
    done = python("-W", "error", "-W", "ignore::DeprecationWarning", "-c", code, devices=2)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
