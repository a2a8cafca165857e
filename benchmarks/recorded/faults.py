"""Tables from the benchmarks that break something on purpose: kills.py and mutations.py."""

from __future__ import annotations

from collections import Counter

from recorded import Form, Result, lines, table


def kills(result: Result) -> list[str]:
    """Kills and runs of every job, its losses, and how often each moment was hit."""
    jobs = result["jobs"]
    signals = list(dict.fromkeys(name for of in jobs.values() for name in of["signals"]))

    def ended(of: Result) -> str:
        runs, faults = len(of["kills of each run"]), len(of["faults"])
        return f"{runs}, " + (f"{faults} with a fault" if faults else "all as undisturbed")

    columns: dict[str, Form] = {
        "job": "{job}",
        "kills": lambda of: sum(of["kills of each run"]),
        **{name: lambda of, name=name: of["signals"].get(name, 0) for name in signals},
        "in a row": lambda of: f"up to {max(of['kills of each run'])}",
        "runs that ended": ended,
    }
    at: Counter[str] = Counter()
    for of in jobs.values():
        at.update(of["moments"])
    moments = ", ".join(f"{name} {count}" for name, count in at.items())
    missed = sum(of["missed"] for of in jobs.values())
    setting = (
        f"{sum(at.values())} kills, while: {moments}. Of {missed} more moments the run had ended "
        f"before they came. jax {result['versions']['packages']['jax']}. "
        "`python benchmarks/kills.py`"
    )
    return [*table([{"job": job, **of} for job, of in jobs.items()], columns), "", setting]


def mutations(result: Result) -> list[str]:
    """Planted errors, and how many of them tests caught, by part of the library."""
    of: dict[str, list[bool]] = {}
    for row in result["rows"]:
        of.setdefault(row["file"].split("/")[0].removesuffix(".py"), []).append(row["caught"])
    rows = [(f"`{part}`", str(len(caught)), str(sum(caught))) for part, caught in of.items()]
    total = [caught for row in of.values() for caught in row]
    sums = ("all", str(len(total)), str(sum(total)))
    return [
        *lines(["part", "planted", "caught"], [*rows, sums]),
        "",
        "`python benchmarks/mutations.py`",
    ]
