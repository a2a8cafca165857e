"""Several hosts: two processes on the loopback address get the bits of one, and end together."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from toys import HEAD, arrays, assert_same, on_devices, parts

from kltrust.experiments import cli
from kltrust.experiments.config import spec
from kltrust.experiments.engine import hosts
from kltrust.experiments.jobs import plan, run
from kltrust.experiments.reading.results import load
from kltrust.experiments.store.record import Record, RunError
from kltrust.experiments.store.run import Run

# Six runs of three iterations: at width 2 three blocks, so that one of four devices has padding.
SPEC = (
    HEAD.replace("[3, 5]", "[3, 5, 8]").replace("= 192", "= 96").replace("evals = 2", "evals = 3")
    + "[[experiments]]\nlearner.num_steps = 8\ngrid.learning_rate = [0.01, 0.3]\n"
)
WIDTH = 2
LIMIT = 300  # seconds; a host that hangs is a failure, not a test that never ends


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "toy.toml"
    path.write_text(SPEC)
    return str(path)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The sweep by one process on one device."""
    assert len(jax.devices()) == 1
    planned = plan.make_plan(spec.parse(SPEC), width=WIDTH)
    return run.start(planned, tmp_path_factory.mktemp("sweeps") / "alone")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def on_two_hosts(fast, script, *arguments, environment=lambda host, port: {}):
    """``script`` in two processes of two devices each; their (status, stdout, stderr)."""
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *(a.format(host=host, port=port) for a in arguments)],
            env={
                **os.environ,
                **on_devices(2),
                **fast,
                **environment(host, port),
            },
            cwd=Path(__file__).parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=LIMIT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    # Gloo, which carries the messages between CPUs, prints by itself, and its threads into each
    # other's lines.
    gloo = re.compile(r"\[Gloo\]|peer rank|ranks is : \d")
    return [
        (
            p.returncode,
            "".join(x for x in out.splitlines(True) if x.strip() and not gloo.search(x)),
            err,
        )
        for p, (out, err) in zip(processes, said, strict=True)
    ]


FLAGS = ("--coordinator", "127.0.0.1:{port}", "--num-hosts", "2", "--host", "{host}")
COMMAND = "import sys; from kltrust.experiments import cli; sys.exit(cli.main(sys.argv[1:]))"


def slurm(host, port):
    """What `srun` tells its tasks, as JAX reads it."""
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(host),
        "SLURM_LOCALID": str(host),
        "JAX_COORDINATOR_PORT": port,
    }


KILLED = """
import os, signal, sys
from kltrust.experiments import cli
from kltrust.experiments.store import run as store
commit = store.Run.commit
def committed_and_killed(self, chunk, *arguments, **keywords):
    commit(self, chunk, *arguments, **keywords)
    if chunk == 1:
        os.kill(os.getpid(), signal.SIGKILL)
store.Run.commit = committed_and_killed
sys.exit(cli.main(sys.argv[1:]))
"""


def test_two_hosts_get_the_bits_of_one_process_though_one_is_killed(
    alone, toy, tmp_path, compile_fast
):
    path = tmp_path / "two"
    arguments = ["sweep", toy, "--width", str(WIDTH), "--out", str(path), *FLAGS]
    (status, out, _), (status1, out1, err1) = on_two_hosts(compile_fast, KILLED, *arguments)
    assert status == -signal.SIGKILL
    assert status1 != 0
    assert err1
    assert out1 == ""
    (part,) = parts(Record(path))
    assert part.last_chunk == 1
    assert not part.finished
    # They go on, and find each other in another way.
    (status, out, err), (status1, out1, err1) = on_two_hosts(
        compile_fast, COMMAND, "sweep", "--resume", str(path), "--distributed", environment=slurm
    )
    assert (status, status1) == (0, 0), err + err1
    assert_same(Record(path), alone)
    (part,) = parts(Record(path))
    assert part.summary["devices"] == 4
    # One of them speaks for both.
    assert "toy: finished" in out
    assert out1 == ""


LARGE = """
train trpo CartPole-v1 --preset none --spread-envs --minibatch-blocks 4 --num-envs 8 --num-steps 16
--total-steps 128 --num-evals 1 --eval-episodes 2 --critic.num-epochs 1 --critic.num-minibatches 4
--hidden 8 --cg-iters 3 --quiet
"""


def test_a_large_run_over_two_hosts(tmp_path, compile_fast):
    paths = tmp_path / "alone", tmp_path / "two"
    assert cli.main([*LARGE.split(), "--out", str(paths[0])]) == 0
    (status, out, err), (status1, out1, err1) = on_two_hosts(
        compile_fast, COMMAND, *LARGE.split(), "--out", str(paths[1]), *FLAGS
    )
    assert (status, status1) == (0, 0), err + err1
    assert "final return" in out
    assert out1 == ""
    one, two = map(Record, paths)
    assert one.config == two.config
    first, second = (load(path) for path in paths)
    assert first.runs.score.tolist() == second.runs.score.tolist()
    numbers = [found.metrics.select_dtypes("number").astype(float) for found in (first, second)]
    difference = numbers[1] - numbers[0]
    assert difference.abs().max().max() < 1e-5
    assert first.metrics.kl[0] > 1e-3


def raising(error):
    raise error


def meet(host, port, folder):
    """What each of two hosts sees; their devices are not asked for more than they must."""
    hosts.join(f"127.0.0.1:{port}", 2, host)
    folder = Path(folder) / str(host)  # no file system in common
    seen = {"several": hosts.are_several(), "first": hosts.is_first()}

    def attempt(name, function):
        try:
            seen[name] = function()
        except Exception as error:
            seen[name] = f"{type(error).__name__}: {error}"

    attempt("answer", lambda: hosts.on_first(lambda: {"from": host, "long": "x" * 5000}))
    for name, error in {
        "run_error": RunError("occupied"),
        "value_error": ValueError("bad"),
        "unforeseen": KeyError("bug"),
    }.items():
        attempt(name, lambda error=error: hosts.on_first(lambda: raising(error)))
    attempt("same", lambda: hosts.check_same("the seed", 7))
    attempt("different", lambda: hosts.check_same("the seed", host))
    text = SPEC if host == 0 else SPEC.replace("0.3", "0.4")
    attempt("specs", lambda: plan.make_plan(spec.parse(text), width=WIDTH) and None)
    attempt("widths", lambda: plan.make_plan(spec.parse(SPEC), width=1 + host) and None)

    # Only the first host finds the folder in use.
    if host == 0:
        (folder / "mine.txt").write_text("mine")
    planned = plan.make_plan(spec.parse(SPEC), width=WIDTH)
    attempt("occupied", lambda: run.start(planned, folder) and None)

    state = {
        "zero": np.asarray([-0.0, np.nan], np.float32),
        "flag": np.asarray([True, False]),
        "none": np.zeros((0, 3), np.int32),
        "key": jax.random.split(jax.random.key(5), 4),
    }
    like = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, state))
    with run.shared_run(lambda: Run.create(folder / "run", {"a": 1})) as folder_of_all:
        folder_of_all.commit(0, {"seed": np.arange(2)}, state)
        restored = folder_of_all.restore(like)
        seen["restored"] = [bytes_of(x).hex() for x in jax.tree.leaves(restored)]
        seen["committed"] = [folder_of_all.last_chunk, folder_of_all.config]
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), "x")
    spread = hosts.put(state["key"], jax.sharding.NamedSharding(mesh, jax.P("x")))
    assert not spread.is_fully_addressable
    seen["spread"] = bytes_of(hosts.to_host(spread)).hex()
    expected = [bytes_of(x).hex() for x in jax.tree.leaves(state)]
    assert seen["restored"] == expected
    assert seen["spread"] == expected[1]  # in the order of the names
    print(json.dumps(seen))


def bytes_of(x):
    return arrays(x)[0].tobytes()


def test_what_one_host_finds_the_other_learns(tmp_path, compile_fast):
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    script = "import sys, test_hosts; test_hosts.meet(int(sys.argv[1]), *sys.argv[2:])"
    said = on_two_hosts(compile_fast, script, "{host}", "{port}", str(tmp_path))
    assert [status for status, *_ in said] == [0, 0], said
    first, second = (json.loads(out) for _, out, _ in said)
    assert (first.pop("first"), second.pop("first")) == (True, False)
    # A host that raises does so by its own kind; the other by the nearest that it knows.
    assert first.pop("unforeseen") == "KeyError: 'bug'"
    assert second.pop("unforeseen") == "RuntimeError: KeyError: 'bug'"
    assert first == second
    assert first["several"] is True
    assert first["answer"] == {"from": 0, "long": "x" * 5000}
    assert first["run_error"] == "RunError: occupied"
    assert first["value_error"] == "ValueError: bad"
    assert first["same"] is None
    assert first["different"].startswith(
        "ValueError: the seed of host 1 differs from that of host 0: "
    )
    for differing in ("specs", "widths"):
        assert first[differing].startswith(
            "ValueError: the sweep of host 1 differs from that of host 0"
        )
    assert "is not empty (it holds mine.txt)" in first["occupied"]
    assert first["committed"] == [0, {"a": 1}]
    assert os.listdir(tmp_path / "1") == []


@pytest.mark.parametrize("host", [0, 1])
def test_one_host_is_missing(host, toy, tmp_path):
    port = free_port()
    flags = f"--coordinator 127.0.0.1:{port} --num-hosts 2 --host {host} --wait 1".split()
    said = subprocess.run(
        [sys.executable, "-c", COMMAND, "sweep", toy, "--out", str(tmp_path / "no"), *flags],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        timeout=LIMIT,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 1
    assert f"the hosts did not all meet at 127.0.0.1:{port} within 1 s" in said.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--host 1", "go together"),
        ("--coordinator 10.0.0.1:80 --num-hosts 2", "go together"),
        ("--coordinator 10.0.0.1:80 --num-hosts 2 --host 2", "--host counts from 0: below"),
        ("--coordinator 10.0.0.1 --num-hosts 2 --host 0", "--coordinator takes HOST:PORT"),
        ("--coordinator 10.0.0.1:80 --num-hosts 2 --host 0 --wait 0", "--wait"),
        ("--distributed --num-hosts 2", "--distributed finds the hosts by itself"),
    ],
)
def test_flags_that_do_not_go_together(flags, message, toy, capsys, monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("it joined"))
    assert cli.main(["sweep", toy, *flags.split()]) == 1
    assert message in capsys.readouterr().err


def test_on_one_host_everything_is_the_plain_thing():
    assert not hosts.are_several()
    assert hosts.is_first()
    assert hosts.on_first(lambda: {"tuple": (1, 2)}) == {"tuple": (1, 2)}
    hosts.check_same("anything", object())
    with pytest.raises(KeyError):
        hosts.on_first(lambda: raising(KeyError()))
