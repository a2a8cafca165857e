"""Tables from compiled.py: the cost of an iteration on accelerators, and whether it has grown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from recorded import Form, Result, table

COLUMNS: dict[str, Form] = {
    "kernels": lambda row: f"{row['chunk']['kernels']:,}",
    "of the rollout, a step": lambda row: f"{_a_step(row):.3g}" if _a_step(row) else "",
    "host launches": lambda row: _known(row["chunk"].get("launches", 0), ","),
    "megabytes": lambda row: f"{row['chunk']['bytes'] / 1e6:,.0f}",
}


def _known(number: float, form: str) -> str:
    """Empty for 0: the other compiler does not tell it."""
    return f"{number:{form}}" if number else ""


def _a_step(row: Result) -> float:
    rollout = row["chunk"]["phases"].get("rollout")
    steps = row.get("num_steps")
    return rollout["kernels"] / steps if rollout and steps else 0.0


def compiled_equal(result: Result) -> list[str]:
    """PPO beside purejaxrl's, by size."""
    columns: dict[str, Form] = {"": "{of}", "for": "{target}"}
    columns |= {"environments x steps": "{num_envs:,} x {num_steps}", **COLUMNS}
    columns["million cycles"] = lambda row: _known(row["chunk"]["cycles"] / 1e6, ".3g")
    return [*table(result["rows"], columns), "", _setting(result, "compiled_equal")]


def compiled_algorithms(result: Result) -> list[str]:
    """Kernels of every algorithm's phases; its update is everything outside the other phases."""
    phases = ("rollout", "advantages", "critic", "episodes", "measurement")

    def of(row: Result, phase: str) -> int:
        return row["chunk"]["phases"].get(phase, {}).get("kernels", 0)

    def own(row: Result) -> str:
        return f"{row['chunk']['kernels'] - sum(of(row, phase) for phase in phases):,}"

    columns: dict[str, Form] = {"": "`{algorithm}`", "all": COLUMNS["kernels"]}
    columns |= {phase: lambda row, phase=phase: f"{of(row, phase):,}" for phase in phases}
    columns |= {"the update, and the rest": own, "host launches": COLUMNS["host launches"]}
    return [*table(result["rows"], columns), "", _setting(result, "compiled_algorithms")]


def grown(found: Iterable[Result], ceilings: Iterable[Result]) -> Iterator[str]:
    """A line for each count of each algorithm that is higher than recorded."""
    before = {(row["algorithm"], row["target"]): row["chunk"] for row in ceilings}
    for row in found:
        was = before[row["algorithm"], row["target"]]
        for count in ("kernels", "launches"):
            if row["chunk"].get(count, 0) > was.get(count, 0):
                more = f"{row['chunk'][count]:,} {count} and not {was.get(count, 0):,}"
                yield f"{row['algorithm']}, {row['target']}: {more}"


def compiled_memory(result: Result) -> list[str]:
    """PPO with agents that remember, by their cell."""
    return _rows(result, {"": "`{cell}`"}, "compiled_memory")


def compiled_presets(result: Result) -> list[str]:
    """Algorithms with their presets for accelerators."""
    return _rows(result, {"": "`{algorithm}`"}, "compiled_presets")


def _rows(result: Result, first: dict[str, Form], part: str) -> list[str]:
    def beyond(row: Result) -> str:
        return f"{row['chunk']['kernels'] - row['chunk']['phases']['rollout']['kernels']:,}"

    columns = first | {"kernels": COLUMNS["kernels"], "beyond the rollout": beyond}
    columns |= {name: COLUMNS[name] for name in ("host launches", "megabytes")}
    return [*table(result["rows"], columns), "", _setting(result, part)]


def _setting(result: Result, part: str) -> str:
    targets = ", ".join(dict.fromkeys(row["target"] for row in result["rows"]))
    jax = result["versions"]["packages"]["jax"]
    return (
        f"CartPole-v1, one iteration, {targets}, jax {jax}. `benchmarks/compiled.py --parts {part}`"
    )
