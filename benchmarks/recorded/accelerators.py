"""Tables from the battery of accelerator.py: what accelerators compute, and how fast."""

from __future__ import annotations

from collections.abc import Iterator

from recorded import Result, lines

COMMAND = "`python benchmarks/accelerator.py`"
ABSENT = f"Not yet measured: no record of an accelerator is here. {COMMAND} makes one."
NAMES = {"ppo_clip": "`ppo_clip`", "trpo": "`trpo`", "purejaxrl": "purejaxrl's PPO"}
Row = tuple[str, str]
"""A measurement, and its result."""


def accelerators(records: dict[str, Result]) -> list[str]:
    """A table for each device; records of a CPU or of toy size say nothing about accelerators."""
    found = [
        record
        for record in records.values()
        if record["size"] == "full" and record.get("device", {}).get("platform", "cpu") != "cpu"
    ]
    tables = [line for record in found for line in ("", *of_device(record))]
    return tables[1:] or [ABSENT]


def of_device(record: Result) -> list[str]:
    device, parts = record["device"], record["parts"]
    done = {name: part for name, part in parts.items() if "failed" not in part}
    jax = done.get("doctor", {}).get("versions", {}).get("packages", {}).get("jax")
    title = f"**{device['number']} x {device['kind']}**, {device['gigabytes']:g} GB for JAX"
    title += f", jax {jax}. {COMMAND}" if jax else f". {COMMAND}"
    rows = [row for make in ROWS for row in make(done)]
    rows += [
        (f"{name}: failed", part["failed"]) for name, part in parts.items() if name not in done
    ]
    return [title, "", *lines(["what", ""], rows)]


def checks(parts: dict[str, Result]) -> Iterator[Row]:
    if "doctor" in parts:
        of = parts["doctor"]["checks"]
        bad = [f"{c['name']}: {c['found']}" for c in of if c["status"] != "ok"]
        yield "`kltrust doctor`, its canary included", "; ".join(bad) or f"{len(of)} checks, all ok"
    if "parity" in parts:
        apart = {n: of["apart, in steps"] for n, of in parts["parity"]["updates"].items()}
        worst = max(apart, key=lambda name: apart[name])
        said = f"{apart[worst]:.1e} of the step's length at most (`{worst}`)"
        yield f"first update of {len(apart)} cases, from the CPU's", said
    if "kill" in parts:
        kill = parts["kill"]
        same, ended = sum(kill["identical"]), kill["sweeps_ended"]
        text = f"{same} of {ended} sweeps have the bits of the one left in peace"
        yield f"killed {len(kill['kills'])} times and gone on with", text


def lanes(parts: dict[str, Result]) -> Iterator[Row]:
    for name, shown in NAMES.items():
        if part := parts.get(f"lanes_{name}"):
            steps = part["of steps"] // part["lanes"]
            what = f"{shown}, {part['lanes']:,} runs of {steps:,} steps, CartPole-v1"
            yield what, paced(part)
    if part := parts.get("minatar"):
        steps = part["of steps"] // part["lanes"]
        yield f"`ppo_clip`, {part['lanes']:,} runs of {steps:,} steps, {part['env']}", paced(part)


def paced(part: Result) -> str:
    done = len(part["seconds"]) * part["steps of a round"] / part["of steps"]
    by = f", by the pace of {done:.0%} of the steps" if done < 1 else ""
    return f"{part['steps per second']:,} steps/s: {part['seconds in all']:,.0f} s{by}"


def grown(parts: dict[str, Result]) -> Iterator[Row]:
    for name, what in {
        "environments": "environments of one run",
        "seeds": "seeds of one sweep",
    }.items():
        for algorithm, rows in parts.get(name, {}).get("algorithms", {}).items():
            each = (f"{row['size']:,}: {row['steps per second']:,}" for row in rows)
            yield f"`{algorithm}`, steps/s by {what}", ", ".join(each)


def audited(parts: dict[str, Result]) -> Iterator[Row]:
    for algorithm, case in parts.get("audit", {}).get("cases", {}).items():
        each = (f"{level} {ratio[0] - 1:.1%}" for level, ratio in case["times"].items())
        yield f"`{algorithm}`, what measuring adds to an iteration", ", ".join(each)


def precision(parts: dict[str, Result]) -> Iterator[Row]:
    part = parts.get("precision", {"bounds": (), "products": {}})
    for name, rows in part["products"].items():
        for bound, row in zip(part["bounds"], rows, strict=True):
            yield (
                f"`trpo`, max_kl {bound:g}, products {name}",
                f"{row['accepted']:.0%} accepted, {row['backtracks']:.2g} backtracks, "
                f"{row['share of the bound']:.0%} of the bound; log-ratio at the start "
                f"{row['log-ratio at the start']:.1e}, by fast products "
                f"{row['by fast products']:.1e}",
            )


def profile(parts: dict[str, Result]) -> Iterator[Row]:
    part = parts.get("profile", {"kernels": {}})
    for algorithm, of in part["kernels"].items():
        most = ", ".join(f"{row['name']} {row['share']:.0%}" for row in of["most"][:4])
        what = f"`{algorithm}`, an iteration of {part['num_envs']:,} x {part['num_steps']}"
        said = f"{of['kernels']:,} kernels in {of['milliseconds']:.3g} ms"
        yield what, f"{said}, of which the device works {of['busy']:.0%}: {most}"


ROWS = (checks, lanes, grown, audited, precision, profile)
