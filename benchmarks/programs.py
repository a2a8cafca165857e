"""Counts the work of a compiled program from its text: XLA's optimised HLO, and a GPU's plan.

A program is a tree of computations. Each kernel counts once per iteration of the loops around it.
The text gives the number of iterations if the compiler knew it. If it did not, as in a search that
ends with its first success, the caller gives the number.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
FREE |= {"partition-id", "replica-id", "opt-barrier", "domain", "add-dependency"}
"""Opcodes that need no work at run time."""
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
_BYTES = {"pred": 1, "token": 0}
_HEAD = re.compile(r"^(ENTRY )?%?([\w.<>-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_CALLED = re.compile(r"([a-z_]+)=\{?(%[\w.<>-]+(?:, %[\w.<>-]+)*)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation."""

    name: str
    shape: str
    opcode: str
    rest: str
    """Operands and attributes, as in the text."""

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.-]+)", self.rest.split("), ")[0])

    def called(self, how: str) -> list[str]:
        found = (names for key, names in _CALLED.findall(self.rest) if re.fullmatch(how, key))
        return re.findall(r"[^%, ]+", " ".join(found))

    @property
    def frame(self) -> int:
        found = re.search(r"stack_frame_id=(\d+)", self.rest)
        return int(found[1]) if found else 0


@dataclasses.dataclass
class Cost:
    """The cost of a part of a program, multiplied by the iterations of the loops around it.

    Attributes:
        kernels: instructions that need work: fusions, products, copies, calls.
        iterations: iterations of loops.
        bytes: bytes that kernels read and write, if each fetches all of its operands.
        flops: flops of matrix products and convolutions.
        collectives: collectives between devices.
        cycles: cycles, as a TPU's compiler estimates them.
        waits: loops and conditions that depend on computed values.
    """

    kernels: int = 0
    iterations: int = 0
    bytes: int = 0
    flops: int = 0
    collectives: int = 0
    cycles: int = 0
    waits: int = 0

    def add(self, times: int, **counts: int) -> None:
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + times * count)


class Program:
    """The text of an optimised program (``compiled.as_text()``)."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if head := _HEAD.match(line):
                current = self.computations.setdefault(head[2], {})
                self.entry = head[2] if head[1] else self.entry
            elif found := _LINE.match(line):
                current[found[1]] = Instruction(*found.groups())
        self.stacks = _stacks(text)

    def costs(self, phases: Mapping[str, str], rounds: Mapping[str, int]) -> dict[str, Cost]:
        """The cost of each phase, from the names of the Python functions around each instruction.

        Args:
            phases: the phase of each named function. The outermost named function decides; an
                instruction outside all of them is in "other".
            rounds: by a function around it, the iterations of a loop if the compiler does not know
                them; 1 if no function is named.
        """
        found: dict[str, Cost] = collections.defaultdict(Cost)

        def walk(computation: str, times: int, around: str) -> None:
            for x in self.computations[computation].values():
                of = named(self.stacks.get(x.frame, ()), phases, around)
                if x.opcode == "while":
                    trips = self.rounds(x, rounds)
                    found[of].add(times, iterations=trips, waits=int(self.trips(x) is None))
                    for name in x.called("body"):
                        walk(name, times * trips, of)
                elif x.opcode == "conditional":
                    found[of].add(times, waits=1)
                    # The largest possible cost: the branch with the most instructions.
                    branches = x.called("(branch|true|false)_computations?")
                    walk(max(branches, key=lambda name: len(self.computations[name])), times, of)
                elif x.opcode in ("call", "async-start") and x.called("to_apply"):
                    walk(x.called("to_apply")[0], times, of)
                elif x.opcode not in FREE and not x.opcode.endswith("-done"):
                    found[of].add(times, **self._cost(computation, x))

        walk(self.entry, 1, "other")
        return found

    def _cost(self, computation: str, x: Instruction) -> dict[str, int]:
        if '"AllocateBuffer"' in x.rest:
            return {}
        shapes = [self.computations[computation][name].shape for name in x.operands]
        cycles = _CYCLES.search(x.rest)
        collective = any(x.opcode.startswith(name) for name in COLLECTIVES)
        return {
            "kernels": 1,
            "bytes": sum(map(size_in_bytes, [x.shape, *shapes])),
            "flops": sum(self._flops(*inner) for inner in self._inside(computation, x)),
            "collectives": int(collective),
            "cycles": int(cycles[1]) if cycles else 0,
        }

    def _inside(self, computation: str, x: Instruction) -> Iterator[tuple[str, Instruction]]:
        yield computation, x
        for name in x.called("calls"):
            for inner in self.computations[name].values():
                yield from self._inside(name, inner)

    def _flops(self, computation: str, x: Instruction) -> int:
        """Two flops for each product of two numbers, in dots, convolutions and GEMM calls."""
        if x.opcode == "dot" or "__cublas" in x.rest:
            left = dimensions(self.computations[computation][x.operands[0]].shape)
            of = re.search(r'lhs_contracting_dim(?:ension)?s"?[=:][{\["]*([\d,"]*)', x.rest)
            summed = [left[int(i)] for i in re.findall(r"\d+", of[1])] if of else []
            return 2 * math.prod(dimensions(x.shape)) * math.prod(summed)
        if x.opcode == "convolution":
            kernel = dimensions(self.computations[computation][x.operands[1]].shape)
            labels = re.search(r"dim_labels=\w+_(\w+)->", x.rest)
            features = kernel[labels[1].index("o")] if labels else 1
            return 2 * math.prod(dimensions(x.shape)) * math.prod(kernel) // max(features, 1)
        return 0

    def rounds(self, loop: Instruction, rounds: Mapping[str, int]) -> int:
        """The number of a loop's iterations, from the text or else from the caller."""
        trips, stack = self.trips(loop), self.stacks.get(loop.frame, ())
        if trips is not None:
            return trips
        return named(stack, rounds, 1)

    def trips(self, loop: Instruction) -> int | None:
        """The number of a loop's iterations, if the text gives it."""
        if known := _TRIPS.search(loop.rest):
            return int(known[1])
        # JAX's scans count from 0 up to a constant.
        (condition,) = loop.called("condition")
        inside = self.computations[condition]
        names = [name for x in inside.values() for name in x.called("calls")]
        lines = [*inside.values(), *(x for n in names for x in self.computations[n].values())]
        compared = [x for x in lines if x.opcode == "compare" and "direction=LT" in x.rest]
        bounds = [x for x in lines if x.opcode == "constant" and x.shape.startswith("s32[]")]
        others = any(x.opcode in ("and", "or") for x in lines)
        if others or len(compared) != 1 or len(bounds) != 1:
            return None
        return int(re.match(r"-?\d+", bounds[0].rest)[0])


def named(stack: tuple[str, ...], names: Mapping[str, Any], otherwise: Any) -> Any:
    """The meaning of the outermost named function, found by the last parts of its full name."""
    for function in stack:
        parts = function.split(".")
        for i in range(len(parts)):
            if (found := ".".join(parts[i:])) in names:
                return names[found]
    return otherwise


def _stacks(text: str) -> dict[int, tuple[str, ...]]:
    """The names of the Python functions of each stack frame, outermost first."""

    def section(title: str) -> dict[int, str]:
        found = re.search(rf"^{title}\n((?:\d+ .*\n)*)", text, re.MULTILINE)
        pairs = (line.split(" ", 1) for line in (found[1].splitlines() if found else ()))
        return {int(number): rest for number, rest in pairs}

    def number(name: str, line: str) -> int:
        return int(re.search(rf"{name}=(\d+)", line)[1])

    functions = {
        i: x.strip('"').replace(".<locals>", "") for i, x in section("FunctionNames").items()
    }
    locations = {i: number("function_name_id", x) for i, x in section("FileLocations").items()}
    frames = section("StackFrames")

    @functools.cache
    def stack(i: int) -> tuple[str, ...]:
        parent = number("parent_frame_id", frames[i]) - 1  # XLA writes one more
        own = functions[locations[number("file_location_id", frames[i])]]
        return (*(stack(parent) if parent else ()), own)

    return {i: stack(i) for i in frames}


def dimensions(shape: str) -> list[int]:
    """The dimensions of the first array in a shape's text: 4 and 8 for ``f32[4,8]{1,0}``."""
    found = _ARRAY.search(shape)
    return [int(n) for n in found[2].split(",") if n] if found else []


def size_in_bytes(shape: str) -> int:
    """The bytes of all arrays in a shape's text, without a layout's padding."""
    total = 0
    for kind, sides in _ARRAY.findall(shape):
        bits = re.search(r"\d+", kind)
        width = _BYTES.get(kind, int(bits[0]) // 8 if bits else 0)
        total += width * math.prod(int(n) for n in sides.split(",") if n)
    return total


def launches(folder: Path, program: Program, rounds: Mapping[str, int]) -> int:
    """The number of launches by a GPU's host; a CUDA graph launches its kernels together.

    ``folder`` is where the compiler wrote its plan (``xla_dump_to``) of the same ``program``.
    ``rounds`` is as in `Program.costs`; all branches of a condition count.
    """
    (plan,) = folder.glob("*thunk_sequence_after_thunk_passes.txt")
    (named,) = folder.glob("*thunk_metadata.txt")
    pairs = re.findall(r'profile_annotation: "(.*)"\s+thunk_id: (\d+)', named.read_text("utf-8"))
    names = {int(number): name for name, number in pairs}
    loops = {x.name: x for c in program.computations.values() for x in c.values()}
    total, in_condition = 0, False
    around = [(-1, 1)]  # of what a line stands in: its indentation, and how often it is run
    for line in plan.read_text("utf-8").splitlines():
        if found := re.match(r"( *)(\d+): (k\w+)", line):
            depth, kind = len(found[1]), found[3]
            if in_condition:
                continue
            while around[-1][0] >= depth:
                around.pop()
            times = around[-1][1]
            total += 0 if kind == "kWhile" else times
            if kind == "kWhile":
                around.append((depth, times * program.rounds(loops[names[int(found[2])]], rounds)))
            elif kind == "kCommandBuffer":
                around.append((depth, 0))
        else:
            in_condition = line.strip() == "condition:"
    return total
