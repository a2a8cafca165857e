"""Timing in turns, so that other work on the machine slows all functions alike.

    PYTHON benchmarks/timing.py MODULE:FUNCTION

is a process that takes part (see `worker`). It reads FUNCTION's keywords as a line of JSON and
calls it. FUNCTION returns a function that does a round; every further line starts one. Any Python
with NumPy will do.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

LIMIT = 1800.0
"""Seconds that a round of a process may take: XLA on a CPU has been seen to wait for ever in
batched initialisers of other libraries."""
Rounds = dict[str, list[float]]
"""Seconds of every round, by what was timed."""


def in_turns(functions: Mapping[str, Callable[[], object]], rounds: int) -> Rounds:
    """Times every function in every round; each must wait for its own results.

    Compile, and fill caches, before the call.
    """
    seconds: Rounds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def paced(function: Callable[[], object], rounds: int, limit: float) -> list[float]:
    """The seconds of rounds; after ``limit`` seconds no more begin, but the first always does."""
    seconds: list[float] = []
    while len(seconds) < rounds and (not seconds or sum(seconds) < limit):
        seconds += in_turns({"": function}, 1)[""]
    return seconds


def at_once(jobs: Mapping[Any, Callable[[], Any]]) -> dict[Any, Any]:
    """Runs jobs in threads; returns their results by name. While one compiles, others trace."""
    with ThreadPoolExecutor(8) as pool:
        futures = {name: pool.submit(job) for name, job in jobs.items()}
        return {name: future.result() for name, future in futures.items()}


def ready(function: Callable, *arguments: Any, calls: int = 1) -> Callable[[], None]:
    """A round of ``calls`` of a compiled JAX function; waits for each call."""
    import jax

    compiled = jax.jit(function)

    def run() -> None:
        for _ in range(calls):
            jax.block_until_ready(compiled(*arguments))

    run()
    return run


class Call(NamedTuple):
    """A process's work: ``function(**settings)`` returns the function that does a round.

    Attributes:
        function: "MODULE:FUNCTION", of a module beside this one.
        settings: plain data.
        python: the Python of another environment, if not this one's.
        processes: the number of processes that do their rounds at the same time.
        variables: environment variables of the process, in addition to this one's.
    """

    function: str
    settings: Mapping[str, Any]
    python: str = sys.executable
    processes: int = 1
    variables: Mapping[str, str] = {}


def processes_in_turns(
    calls: Mapping[str, Call], rounds: int
) -> tuple[Rounds, dict[str, list[Any]]]:
    """Like `in_turns`, with separate processes for each call; they sleep between their turns.

    Returns:
        Seconds, and the result of every round of each call's first process.
    """
    answers: dict[str, list[Any]] = {name: [] for name in calls}
    with contextlib.ExitStack() as stack:
        # One after another: they would compile in each other's way.
        workers = {
            name: [stack.enter_context(worker(call)) for _ in range(call.processes)]
            for name, call in calls.items()
        }

        def turn(name: str) -> None:
            waiting = [begin("go") for begin in workers[name]]
            first, *_ = [wait() for wait in waiting]
            answers[name].append(first)

        return in_turns({name: lambda n=name: turn(n) for name in calls}, rounds), answers


def once(call: Call) -> Any:
    """The result of a round in a fresh process."""
    with worker(call) as begin:
        return begin("go")()


@contextlib.contextmanager
def worker(call: Call) -> Iterator[Callable[[Any], Callable[[], Any]]]:
    """Starts a process; it ends with the context.

    Yields a function that sends a line of JSON ("go" for a round) and returns a function that waits
    for the answer. The latter raises RuntimeError if the process ended, or takes too long.
    """
    process = subprocess.Popen(
        [call.python, __file__, call.function],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=variables(call.python) | call.variables,
    )

    def begin(message: Any) -> Callable[[], Any]:
        with contextlib.suppress(BrokenPipeError):  # told by `wait`
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
        return wait

    def wait() -> Any:
        if not select.select([process.stdout], [], [], LIMIT)[0]:
            raise RuntimeError(f"{call.function}: no answer within {LIMIT:.0f} s")
        if line := process.stdout.readline():
            return json.loads(line)
        raise RuntimeError(f"{call.function} ended ({process.wait()}); it says why above")

    try:
        begin(dict(call.settings))()
        yield begin
    finally:
        process.kill()
        process.communicate()


def variables(python: str) -> dict[str, str]:
    """The environment variables of a process: PYTHONPATH is kept for this Python only."""
    ours = python == sys.executable
    return {k: v for k, v in os.environ.items() if ours or k != "PYTHONPATH"}


def serve(name: str) -> None:
    """The process of a `worker`, until its input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print
    module, function = name.split(":")
    make = getattr(importlib.import_module(module), function)
    turn = make(**json.loads(sys.stdin.readline()))
    print(json.dumps("ready"), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), file=answers, flush=True)


def times(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """Ratios: median and quartiles over the rounds, then the ratio of the best rounds."""
    ratios = np.divide(of, to)
    spread = np.quantile(ratios, (0.5, 0.25, 0.75))
    return [round(float(x), 4) for x in (*spread, min(of) / min(to))]


def take(seconds: Rounds, than: str, what: str) -> dict[str, list[float]]:
    """Prints and returns how many `times` as long as ``than`` the others take."""
    found = {name: times(of, seconds[than]) for name, of in seconds.items() if name != than}
    for name, (median, low, high, best) in found.items():
        ratio = f"{median:.3f} times ({low:.3f} to {high:.3f}; best of each {best:.3f})"
        print(f"{what}: {name} takes {ratio} the time of {than}", flush=True)
    return found


def compare(
    functions: Mapping[str, Callable[[], object]], than: str, rounds: int, what: str, per: int = 1
) -> tuple[Rounds, dict[str, list[float]]]:
    """`milliseconds` of rounds `in_turns`, of which each is so many, and what they `take`."""
    seconds = in_turns(functions, rounds)
    return milliseconds(seconds, per), take(seconds, than, what)


def milliseconds(seconds: Rounds, per: int = 1) -> Rounds:
    """The milliseconds of every round, to record."""
    return {name: [round(1e3 * s / per, 4) for s in rounds] for name, rounds in seconds.items()}


if __name__ == "__main__":
    serve(sys.argv[1])
