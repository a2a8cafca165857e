"""One large run spread by its environments: the numbers of one device, and no row ever moves."""

import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

import kltrust
from kltrust.experiments import cli
from kltrust.experiments.engine import spread
from kltrust.experiments.jobs import run
from kltrust.experiments.store.record import Record
from kltrust.types import Blocks, PolicyBatch
from kltrust.updates.minibatches import minibatch_epoch

DEVICES = 4
EPOCHS = {"learning_rate": 1e-3, "num_epochs": 2, "num_minibatches": 4, "max_kl": 1.0}
UPDATES = {
    "trpo": lambda: kltrust.trpo(cg_iters=3),
    "ppo_clip": lambda: kltrust.ppo_clip(**EPOCHS),
    "ppo_penalty": lambda: kltrust.ppo_penalty(**EPOCHS),
}
HIDDEN = 8
ROWS = 8 * 16

# What the programs become is what is tested: no `compile_fast`, but no polished machine code.
QUICK = {"xla_backend_optimization_level": 0}


def learner_of(update, num_blocks=DEVICES):
    env = kltrust.make("CartPole-v1")
    return kltrust.make_learner(
        env,
        kltrust.actor_critic(env, hidden=(HIDDEN,)),
        update,
        num_envs=8,
        num_steps=16,
        critic=kltrust.value_regression(num_epochs=2, num_minibatches=4),
        normalize_observations=True,
        normalize_rewards=True,
        minibatch_blocks=num_blocks,
    )


WHOLE = ("policy_params", "value_state", "normalizer")
SPREAD = ("env_state", "obs", "episode_return", "episode_length")


def num_parts(tree):
    """Into how many parts, on devices of their own, every leaf falls."""
    (number,) = {
        len({str(index) for index in x.sharding.devices_indices_map(x.shape).values()})
        for x in jax.tree.leaves(tree)
    }
    return number


@functools.cache
def first_state():
    """The same for all algorithms, but for their own."""
    learner, key = learner_of(kltrust.trpo()), jax.random.key(0)
    large = spread.over_devices(learner, spread.make_mesh(DEVICES))
    return large.init.lower(key).compile(compiler_options=QUICK)(key)


def one_iteration(name, num_blocks=DEVICES):
    """All floats of the state and the metrics after an iteration, by name; and the program."""
    update = UPDATES[name]()
    large = spread.over_devices(learner_of(update, num_blocks), spread.make_mesh(DEVICES))
    state = first_state()
    state = state._replace(update_state=update.init(state.policy_params))
    step = large.step.lower(state).compile(compiler_options=QUICK)
    after = step(state)
    leaves, _ = jax.tree_util.tree_flatten_with_path((after[0]._replace(key=()), after[1]))
    numbers = {jax.tree_util.keystr(k): np.asarray(x).astype(float).tolist() for k, x in leaves}
    placed = {part: num_parts(getattr(after[0], part)) for part in (*WHOLE, *SPREAD)}
    return {"numbers": numbers, "placed": placed, "program": step.as_text()}


@pytest.fixture(scope="module")
def on_four_devices():
    """What another process with four devices finds."""
    script = (
        "import json, sys, jax, test_spread\n"
        f"assert len(jax.devices()) == {DEVICES}\n"
        "found = {name: test_spread.one_iteration(name) for name in test_spread.UPDATES}\n"
        "found['whole batch'] = test_spread.one_iteration('ppo_clip', 1)\n"
        "json.dump(found, sys.stdout)\n"
    )
    return json.loads(toys.output("-c", script, devices=DEVICES))


def furthest(one, other):
    """The largest difference, relative to what is compared where that is above 1."""
    assert one.keys() == other.keys()
    pairs = [(np.asarray(one[name]), np.asarray(other[name])) for name in one]
    return max(float((abs(a - b) / np.maximum(1, abs(b))).max(initial=0)) for a, b in pairs)


@pytest.mark.parametrize("name", UPDATES)
def test_four_devices_compute_what_one_computes(name, on_four_devices):
    assert len(jax.devices()) == 1
    alone, four = one_iteration(name), on_four_devices[name]
    assert furthest(four["numbers"], alone["numbers"]) < 1e-5
    assert set(alone["placed"].values()) == {1}
    assert four["placed"] == {
        **dict.fromkeys(WHOLE, 1),
        **dict.fromkeys(SPREAD, DEVICES),
    }
    if name == "ppo_clip":  # another draw of minibatches is far beyond the bound
        others = on_four_devices["whole batch"]["numbers"]
        assert furthest(others, alone["numbers"]) > 1e-4


# What the devices say to each other.

COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)
POLICY, VALUE = ([2, HIDDEN, 4 * HIDDEN, HIDDEN, HIDDEN], [1, HIDDEN, 4 * HIDDEN, HIDDEN])
"""The sizes of a gradient's leaves, that of a narrow head's kernel column by column."""
QUANTILES = [("all-reduce", [4 * 3])]
"""Of the audit, by bisection: how many rows of four quantities lie below three bounds each."""


def said_in_loops(program):
    """What each loop sends, but those of the quantiles: [(kind, sizes), ...] where it sends."""
    bodies = set(re.findall(r"body=%?([\w.-]+)", program))
    said, computation = {}, None
    for line in program.splitlines():
        if opening := re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{$", line):
            computation = opening[1]
        if (sent := COLLECTIVE.search(line)) and computation in bodies:
            shapes = re.findall(r"\w+\[([\d,]*)\]", sent[1])
            sizes = [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]
            said.setdefault(computation, []).append((sent[2], sorted(sizes)))
    return sorted(loop for loop in said.values() if loop != QUANTILES)


def test_a_fisher_product_is_one_sum_over_devices(on_four_devices):
    # Conjugate gradients, the line search (surrogate and KL; no entropy, whose weight is 0), the
    # critic's minibatches; and no word in the rollout's loop, nor in that of the advantages.
    assert said_in_loops(on_four_devices["trpo"]["program"]) == [
        [("all-reduce", [1, 1])],
        [("all-reduce", sorted(VALUE))],
        [("all-reduce", sorted(POLICY))],
    ]


@pytest.mark.parametrize("name", ["ppo_clip", "ppo_penalty"])
def test_a_minibatch_sends_its_gradient_and_no_row(name, on_four_devices):
    said = said_in_loops(on_four_devices[name]["program"])
    assert [("all-reduce", sorted(VALUE))] in said
    assert [("all-reduce", sorted(POLICY))] in said
    assert len(said) == 2


def test_minibatches_of_the_whole_batch_would_send_rows(on_four_devices):
    """The control: without blocks, what the loops send is rows of a minibatch, all of them.

    And at every step of the rollout whether an episode has ended anywhere.
    """
    ended, *said = said_in_loops(on_four_devices["whole batch"]["program"])
    assert ended == [("all-reduce", [1])]
    assert len(said) == 2
    for loop in said:
        assert max(size for _, sizes in loop for size in sizes) == ROWS // 4 * 4
    gathered = "\n".join(f"%x = f32[{ROWS},4]{{1,0}} all-gather(%y), dim" for _ in range(2))
    program = f"%b (p: f32[]) -> f32[] {{\n{gathered}\n}}\nwhile(%s), condition=%c, body=%b"
    assert said_in_loops(program) == [[("all-gather", [4 * ROWS])] * 2]


def test_all_communication_is_sums(on_four_devices):
    for found in on_four_devices.values():
        kinds = {match[2] for match in COLLECTIVE.finditer(found["program"])}
        # The environments' keys are cut from a row that holds one more: once an iteration.
        assert kinds == {"all-reduce", "collective-permute"}


def test_every_minibatch_takes_as_many_rows_of_each_block():
    def step(carry, part):
        return carry, part

    rows = jnp.arange(24)
    draw = jax.jit(lambda key: minibatch_epoch(step, (), rows, key, 4, num_blocks=3)[1])
    drawn = np.asarray(draw(jax.random.key(0)))
    assert sorted(drawn.ravel()) == list(range(24))
    assert (drawn // 8 == [[0, 0, 1, 1, 2, 2]] * 4).all()  # which block; in order
    within = (drawn % 8).reshape(4, 3, 2).swapaxes(0, 1).reshape(3, 8)
    assert len({tuple(order) for order in within}) == 3  # each block by an order of its own
    assert (np.asarray(draw(jax.random.key(1))) != drawn).any()


def test_a_batch_says_how_its_rows_lie():
    batch = PolicyBatch(np.zeros(4), np.zeros(4), np.zeros(4), np.zeros(4))
    assert batch.blocks == Blocks(1)
    spread_batch = batch._replace(blocks=Blocks(2))
    assert jax.tree.map(lambda x: x + 1, spread_batch).blocks == Blocks(2)
    assert jax.tree.structure(batch) != jax.tree.structure(spread_batch)  # it is static


# With a run folder.

TINY = toys.tiny(
    "ppo_clip",
    learner={"num_envs": 8, "num_steps": 8, "minibatch_blocks": 4, "normalize_rewards": True},
    budget={"total_steps": 128, "num_evals": 2, "eval_episodes": 2},
)


def test_a_spread_run_goes_on_to_the_bit(compile_fast, tmp_path):
    whole = run.train(TINY, [3], tmp_path / "whole", spread=True)
    with pytest.raises(InterruptedError):
        run.train(TINY, [3], tmp_path / "part", spread=True, progress=toys.Stop(1))
    assert Record(tmp_path / "part").config == whole.config
    (group,) = run.plan_of(whole).groups
    assert group.spread
    toys.assert_same(run.resume(tmp_path / "part"), whole)


@pytest.mark.parametrize(
    ("arguments", "devices", "message"),
    [
        (
            "--num-envs 6",
            4,
            "num_envs=6 does not divide evenly over 4 devices: take a multiple of 4",
        ),
        ("--seeds 2", 1, "a run is spread alone"),
        ("--width 1", 1, "a run is spread alone"),
        ("--num-envs 8 --minibatch-blocks 3", 1, "minibatch_blocks=3 does not divide num_envs=8"),
        (
            "--num-envs 8 --num-steps 1 --num-minibatches 4 --minibatch-blocks 8"
            " --critic.num-minibatches 1",
            1,
            "num_minibatches=4 does not divide each of 8 blocks of 1 rows (num_envs * num_steps)",
        ),
    ],
)
def test_errors_of_the_command(arguments, devices, message, tmp_path, capsys, monkeypatch):
    found = jax.devices() * devices
    monkeypatch.setattr(jax, "devices", lambda *_: found)
    monkeypatch.setattr(jax, "jit", lambda *_, **__: pytest.fail("something was compiled"))
    line = f"train ppo_clip CartPole-v1 --preset none --spread-envs {arguments}"
    assert cli.main([*line.split(), "--out", str(tmp_path / "run")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_as_many_devices_as_divide_the_blocks(monkeypatch):
    found = jax.devices() * 8
    monkeypatch.setattr(jax, "devices", lambda *_: found)
    monkeypatch.setattr(spread, "Mesh", lambda devices, axes: len(devices))
    assert [spread.make_mesh(n) for n in (1, 6, 8, 12, 16)] == [1, 6, 8, 6, 8]
    monkeypatch.setattr(spread.hosts, "are_several", lambda: True)
    assert spread.make_mesh(16) == 8
    with pytest.raises(
        ValueError, match="minibatch_blocks=12 does not divide evenly over the 8 devices"
    ):
        spread.make_mesh(12)
