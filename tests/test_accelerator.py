"""The battery for accelerators: its parts run at toy size, and its page says what was recorded."""

import copy
import json
import os
import sys
import time
from dataclasses import replace

import accelerator
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timing
from recorded import accelerators
from workers import battery, numerics, profiles

TOY = replace(
    battery.TOY, algorithms=("vanilla_pg",), grown=("vanilla_pg",), seconds=0.0, envs=(4,)
)


def rows(found):
    """A battery's worth of made-up numbers."""
    pace = {"steps per second": 2_000_000, "of steps": 1_000_000, "seconds in all": 0.5}
    pace |= {"steps of a round": 250_000, "seconds": [0.1, 0.1, 0.1]}
    control = {"accepted": 0.9, "backtracks": 1.5, "share of the bound": 0.8}
    control |= {"log-ratio at the start": 0.0, "by fast products": 2e-4}
    apart = {"step": 1.0, "largest difference": 1e-6}
    parts = {
        "doctor": {
            "versions": {"packages": {"jax": "1.2.3"}},
            "checks": [{"name": "canary", "status": "ok", "found": "right"}],
        },
        "parity": {
            "updates": {
                "trpo": apart | {"apart, in steps": 2e-5},
                "npg": apart | {"apart, in steps": 1e-6},
            }
        },
        "lanes_ppo_clip": {"lanes": 10, **pace},
        "lanes_purejaxrl": {"lanes": 10, **pace, "seconds in all": 98.0, "seconds": [1.0] * 4},
        "minatar": {"lanes": 5, "env": "Breakout-MinAtar", **pace},
        "environments": {"algorithms": {"trpo": [{"size": 64, **pace}, {"size": 65_536, **pace}]}},
        "audit": {"cases": {"trpo": {"times": {"default": [1.04, 1.03, 1.05, 1.0]}}}},
        "precision": {"bounds": [0.01], "products": {"full": [control]}},
        "kill": {"kills": [{}, {}], "identical": [True], "sweeps_ended": 1},
        "profile": {
            "num_envs": 2048,
            "num_steps": 16,
            "kernels": {
                "trpo": {
                    "kernels": 900,
                    "milliseconds": 3.5,
                    "busy": 0.25,
                    "most": [{"name": "gemm", "calls": 7, "share": 0.2}],
                }
            },
        },
        "seeds": {"failed": "ValueError: too many"},
    }
    device = {"kind": "H1", "platform": "gpu", "number": 1, "gigabytes": 60.0}
    return {"size": "full", "device": device, "parts": parts} | found


def test_nothing_is_said_of_accelerators_until_one_is_recorded():
    assert accelerators.accelerators({}) == [accelerators.ABSENT]
    cpu = rows({"device": {**rows({})["device"], "platform": "cpu"}})
    for record in (cpu, rows({"size": "toy"}), {"size": "full", "parts": {}}):
        assert accelerators.accelerators({"": record}) == [accelerators.ABSENT]


def test_the_page_says_what_was_recorded():
    text = "\n".join(accelerators.accelerators({"": rows({}), "_toy": rows({"size": "toy"})}))
    assert text.count("**1 x H1**, 60 GB for JAX, jax 1.2.3.") == 1
    for line in (
        "| `kltrust doctor`, its canary included | 1 checks, all ok |",
        "| first update of 2 cases, from the CPU's | 2.0e-05 of the step's length at most"
        " (`trpo`) |",
        "| killed 2 times and gone on with | 1 of 1 sweeps have the bits of the one"
        " left in peace |",
        "| `ppo_clip`, 10 runs of 100,000 steps, CartPole-v1 | 2,000,000 steps/s: 0 s, by the"
        " pace of 75% of the steps |",
        "| purejaxrl's PPO, 10 runs of 100,000 steps, CartPole-v1 | 2,000,000 steps/s: 98 s |",
        "| `trpo`, steps/s by environments of one run | 64: 2,000,000, 65,536: 2,000,000 |",
        "| `trpo`, what measuring adds to an iteration | default 4.0% |",
        "| seeds: failed | ValueError: too many |",
    ):
        assert line in text
    assert "90% accepted, 1.5 backtracks, 80% of the bound; log-ratio at the start 0.0e+00" in text
    assert "900 kernels in 3.5 ms, of which the device works 25%: gemm 20%" in text
    # A part that failed, or has not run, has no line of its own.
    assert "by seeds" not in text
    without = copy.deepcopy(rows({}))
    del without["parts"]["doctor"]
    assert "jax" not in accelerators.accelerators({"": without})[0].split(". `python")[0]


# --- going on -------------------------------------------------------------------------------------


DEVICE = {"kind": "toy", "platform": "cpu"}
FOREVER = time.monotonic() + 1e6


def test_a_battery_goes_on_where_it_was(tmp_path, monkeypatch):
    path, asked = tmp_path / "new" / "record.json", []

    def attempt(part, limit):
        asked.append((part, limit))
        assert part != "minatar" or json.loads(path.read_text())["parts"].keys() == {
            "doctor",
            "kill",
        }
        return {"failed": "x"} if part == "kill" else {"device": DEVICE, "found": part}

    def once(*wanted, end=FOREVER):
        asked.clear()
        record = accelerator.opened(path, "toy")
        return accelerator.go_on(record, list(wanted), attempt, end, path)

    assert once("doctor", "kill", "minatar") == []
    record = json.loads(path.read_text())
    assert record["device"] == DEVICE
    assert record["parts"]["kill"]["failed"] == "x"
    assert record["parts"]["minatar"]["found"] == "minatar"
    assert "device" not in record["parts"]["minatar"]
    # What is done is done; what has not run comes before what failed.
    assert once("doctor", "kill", "minatar", "audit") == []
    assert asked == [(name, 10 * accelerator.LIMITS[name]) for name in ("audit", "kill")]
    assert (
        once("seeds", "parity", end=time.monotonic() + 1)
        == [
            "seeds",
            "parity",
        ][:2]
    )
    assert asked == []
    # A part that the end cuts off is left, too, and not called failed.
    almost = time.monotonic() + accelerator.LEAST + 0.5
    monkeypatch.setattr(time, "monotonic", iter([almost - accelerator.LEAST, almost]).__next__)
    assert once("kill", end=almost) == ["kill"]
    ((_, limit),) = asked
    assert limit == pytest.approx(accelerator.LEAST)
    with pytest.raises(SystemExit, match="is of the toy battery: take another --out"):
        accelerator.opened(path, "full")
    with pytest.raises(SystemExit, match="is of toy, and here is another: take another --out"):
        accelerator.same_device(record, {"device": {**DEVICE, "kind": "another"}}, path)


def test_a_part_that_fails_or_never_ends_is_said(tmp_path):
    def answer(code, limit=60.0):
        return accelerator.answer_of([sys.executable, "-c", code], limit, os.environ)

    assert answer("import sys; open(sys.argv[-1], 'w').write('{\"found\": 1}')") == {"found": 1}
    assert answer("import sys; sys.exit(3)")["failed"].startswith("it ended with status 3")
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(2); open({str(alive)!r}, 'w')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert answer(code, 0.5) == {"failed": "it took more than 0.5 s"}
    time.sleep(2.5)
    assert not alive.exists()  # what the part had started ended with it


def test_every_part_has_its_limit_and_its_page():
    assert list(accelerator.LIMITS) == list(battery.PARTS)
    with pytest.raises(SystemExit, match="--parts: no sed; take some of doctor, "):
        accelerator.main(accelerator.parser().parse_args(["--parts", "sed"]))


def test_a_part_writes_its_error(tmp_path, monkeypatch, capsys):
    answer = tmp_path / "answer.json"
    options = accelerator.parser().parse_args(["--run", "doctor", "--answer", str(answer)])
    assert accelerator.main(options) == 0
    found = json.loads(answer.read_text())
    assert found == {
        "failed": "RuntimeError: JAX finds no accelerator: --toy runs the battery on a CPU"
    }
    monkeypatch.setitem(battery.PARTS, "doctor", lambda sizes: {"envs": sizes.envs})
    accelerator.main(
        accelerator.parser().parse_args(["--toy", "--run", "doctor", "--answer", str(answer)])
    )
    found = json.loads(answer.read_text())
    assert found["envs"] == list(battery.TOY.envs)
    assert found["device"]["platform"] == "cpu"


# --- the parts ------------------------------------------------------------------------------------


def test_first_updates_agree_with_themselves():
    found = battery.parity(TOY)["updates"]
    assert set(found) == {"vanilla_pg CartPole-v1", "trpo Pendulum-v1"}
    for of in found.values():  # here both devices are the CPU
        assert of["step"] > 0
        assert of["apart, in steps"] == 0


def test_updates_that_differ_are_told_apart():
    old = {"w": np.zeros((2, 2), np.float32), "b": np.zeros(2, np.float32)}
    here = {"w": np.ones((2, 2), np.float32), "b": np.zeros(2, np.float32)}
    there = {"w": np.ones((2, 2), np.float32), "b": np.array([0, 0.5], np.float32)}
    of = numerics.apart(old, here, there)
    assert of == {"step": 2, "apart, in steps": 0.25, "largest difference": 0.5}


def test_runs_have_a_pace():
    (row,) = battery.environments(TOY)["algorithms"]["vanilla_pg"]
    assert (row["size"], row["steps of a round"]) == (4, 8 * 4 * 16)
    assert row["steps per second"] == pytest.approx(8 * 4 * 16 / row["seconds"][0], rel=0.01)
    assert row["bytes"] > 0
    assert battery.whole({"steps per second": 400}, 1000)["seconds in all"] == 2.5


def test_rounds_end_with_their_number_or_their_time():
    calls = []
    assert len(timing.paced(lambda: calls.append(1), 3, 60.0)) == len(calls) == 3
    assert len(timing.paced(lambda: time.sleep(0.01), 3, 0.0)) == 1
    assert timing.at_once({n: lambda n=n: n * n for n in range(20)}) == {
        n: n * n for n in range(20)
    }


def test_what_products_cost_trpo_is_measured():
    wide, none = numerics.searched("highest", (1e-2, 1e-30), TOY.hidden, *TOY.searched)
    assert wide["accepted"] == 1
    assert 0.1 < wide["share of the bound"] <= 1
    assert wide["log-ratio at the start"] < 1e-5
    assert none["accepted"] == 0  # no step of a float is so short


def test_a_profile_is_of_kernels():
    function = jax.jit(lambda x: jnp.sin(x @ x).sum())
    x = jnp.ones((64, 64))
    function(x).block_until_ready()
    found = profiles.traced(lambda: function(x).block_until_ready(), 1)
    assert found["kernels"] > 0
    assert 0 < found["busy"] <= 1

    def event(name, begin, length, stream):
        return {"ph": "X", "pid": 1, "tid": stream, "ts": begin, "dur": length, "name": name}

    names = {1: "Stream #1", 2: "Stream #2", 3: "XLA Ops"}
    events = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": t, "args": {"name": n}}
        for t, n in names.items()
    ]
    events += [event("a", 0, 10, 1), event("b", 5, 10, 2), event("a", 30, 10, 1)]
    events += [event("the same once more", 0, 100, 3)]
    found = profiles.summary(events, 2)
    assert found["kernels"] == 2  # 1.5 of an iteration
    assert found["milliseconds"] == 0.02
    assert found["busy"] == 0.625
    assert [(row["name"], row["share"]) for row in found["most"]] == [("a", 0.5), ("b", 0.25)]
