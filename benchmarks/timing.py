"""Timing in turns: whatever else the machine does meets all that is compared alike.

    PYTHON benchmarks/timing.py MODULE:FUNCTION

is a process that takes part (`Worker`): it reads FUNCTION's keywords as a line of JSON, calls it,
and does a round, what FUNCTION returned, for every line that follows. Any Python with NumPy does.
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
from typing import Any, NamedTuple

import numpy as np


def in_turns(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round of every function; each must wait for its own results.

    What compiles, or fills a cache, is to be done before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


class Call(NamedTuple):
    """What a process makes ready: ``function(**settings)`` returns the function that does a round.

    Attributes:
        function: "MODULE:FUNCTION", of a module beside this one.
        settings: plain data.
        python: that of another environment, if it is not this one's.
        processes: so many that do their rounds at the same time.
    """

    function: str
    settings: Mapping[str, Any]
    python: str = sys.executable
    processes: int = 1


def processes_in_turns(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """As `in_turns`, each in processes of its own, which sleep while it is another's turn."""
    with contextlib.ExitStack() as stack:
        # One after another: they would compile in each other's way.
        workers = {
            name: [stack.enter_context(worker(call)) for _ in range(call.processes)]
            for name, call in calls.items()
        }

        def turn(those: Sequence[Worker]) -> None:
            for each in those:
                each.send("go")
            for each in those:
                each.receive()

        return in_turns({n: lambda w=w: turn(w) for n, w in workers.items()}, rounds)


@contextlib.contextmanager
def worker(call: Call) -> Iterator[Worker]:
    """A process that is ready; it ends with the context."""
    process = Worker(call)
    try:
        process.send(dict(call.settings))
        process.receive()
        yield process
    finally:
        process.end()


class Worker:
    """A process of this file that is spoken to in lines of JSON."""

    # XLA on a CPU has been seen to wait for ever in batched initialisers of other libraries.
    LIMIT = 1800.0
    """Seconds that a round may take."""

    def __init__(self, call: Call):
        self._name = call.function
        self._process = subprocess.Popen(
            [call.python, __file__, call.function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables(call.python),
        )

    def send(self, message: Any) -> None:
        """A line; `receive` waits for what it brings."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # told by `receive`
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def receive(self) -> Any:
        """What it answers.

        Raises:
            RuntimeError: if it ended, or takes too long.
        """
        answers = self._process.stdout
        assert answers is not None
        if not select.select([answers], [], [], self.LIMIT)[0]:
            raise RuntimeError(f"{self._name}: no answer within {self.LIMIT:.0f} s")
        line = answers.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended ({self._process.wait()}); it says why above")
        return json.loads(line)

    def end(self) -> None:
        """Whatever it does."""
        self._process.kill()
        self._process.communicate()


def variables(python: str) -> dict[str, str]:
    """The environment variables of a process: what PYTHONPATH names is for this Python alone."""
    ours = python == sys.executable
    return {k: v for k, v in os.environ.items() if ours or k != "PYTHONPATH"}


def serve(name: str) -> None:
    """The process of a `Worker`, until its input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print
    module, function = name.split(":")
    make = getattr(importlib.import_module(module), function)
    turn = make(**json.loads(sys.stdin.readline()))
    print(json.dumps("ready"), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), file=answers, flush=True)


def times(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """How many times as much: median and quartiles of the rounds' ratios, then that of the best."""
    ratios = np.divide(of, to)
    spread = np.quantile(ratios, (0.5, 0.25, 0.75))
    return [round(float(x), 4) for x in (*spread, min(of) / min(to))]


def milliseconds(seconds: Mapping[str, Sequence[float]], per: int = 1) -> dict[str, list[float]]:
    """To record: every round's."""
    return {name: [round(1e3 * s / per, 4) for s in rounds] for name, rounds in seconds.items()}


def shown(ratio: Sequence[float]) -> str:
    """As in ``1.71 times (1.65 to 1.78; best of each 1.70)``."""
    median, low, high, best = ratio
    return f"{median:.2f} times ({low:.2f} to {high:.2f}; best of each {best:.2f})"


if __name__ == "__main__":
    serve(sys.argv[1])
