"""Tables from benchmarks/laboratory.py."""

from __future__ import annotations

import numpy as np

from recorded import Form, Result, each, pivot, table


def laboratory_clip(result: Result) -> list[str]:
    """How far PPO-clip leaves TV <= clip_eps / 2."""
    columns: dict[str, Form] = {
        "environment": "{env}",
        "clip_eps": "{clip_eps:g}",
        "updates": "{updates}",
        "some state beyond": "{left_by_some_state:.0%}",
        "mean beyond": "{left_by_the_mean:.0%}",
        "largest TV: median, 95 %, largest": lambda row: each(".2f", row["largest_tv"]),
        "mean TV: median": "{mean_tv[0]:.2f}",
    }
    return table(result["rows"], columns)


def laboratory_search(result: Result) -> list[str]:
    """Share of TRPO's updates whose full step is refused."""
    first = {"environment": "{env}", "batch": "{batch:,}"}
    return pivot(result["rows"], first, "damping {damping:g}", "{needed:.0%} ({region_used:.2f})")


def laboratory_model(result: Result) -> list[str]:
    """Realised over predicted in the thirds of training."""

    def thirds(name: str) -> Form:
        return lambda row: ", ".join(
            "{:.2f} [{:.2f}, {:.2f}]".format(*third)
            for third in row["realised over predicted"][name]["thirds"]
        )

    columns: dict[str, Form] = {
        "environment": "{env}",
        "algorithm": "`{algorithm}`",
        "median KL": "{kl_median:.4f}",
        "KL / undamped": thirds("kl"),
        "KL / damped": thirds("kl damped"),
        "gain / linear": thirds("gain"),
    }
    return table(result["rows"], columns)


def laboratory_hurt(result: Result) -> list[str]:
    """Share of updates that lower the exact J: least to largest step."""
    settings = {"vanilla_pg": "learning_rate {learning_rate:g}", "trpo": "max_kl {max_kl:g}"}
    first: dict[str, Form] = {
        "start": "{start}",
        "update": lambda row: ("`{algorithm}`, " + settings[row["algorithm"]]).format(**row),
    }

    def column(row: Result) -> str:
        return "exact" if row["samples"] == "exact" else f"{row['samples']:,} samples"

    return pivot(result["rows"], first, column, "{hurt:.1%}")


def laboratory_family(result: Result) -> list[str]:
    """Exact updates of every algorithm."""

    def claimed(row: Result) -> str:
        if "bound" not in row:
            return ""
        reached = {"spo": "ratio_change", "fixpo": "kl_max", "trpl": "projected_max"}
        return f"{row[reached[row['update']]]:.3g} of {row['bound']:.3g}"

    columns: dict[str, Form] = {
        "table": "{table}",
        "update": "`{update}`",
        "lower J": "{lowered:.1%}",
        "least change of J": "{worst_change:.1e}",
        "of the way": "{way:.0%}",
        "median KL": "{kl_median:.4f}",
        "largest KL of a state": "{kl_max:.3g}",
        "largest mean abs(r - 1)": "{ratio_change:.3f}",
        "claimed": claimed,
    }
    return table(result["rows"], columns)


def collapse(result: Result) -> list[str]:
    """One line on the unconstrained step."""
    form = (
        "With `learning_rate={learning_rate:g}`, `vanilla_pg` falls below half of its own peak "
        "within {window} updates of one whose KL exceeds {large_kl:g} on "
        "{vanilla_pg[fell_after_a_large_update]} of {number} seeds of CartPole-v1; `trpo`, on the "
        "same seeds, falls so low on {trpo[fell]}."
    )
    return [form.format(**result, number=len(result["seeds"]))]


def memory(result: Result) -> list[str]:
    """Mean score of all seeds, without and with a memory, beside what is known of the task."""
    heads = {"none": "without memory", "gru": '`cell = "gru"`'}
    first: dict[str, Form] = {
        "environment (steps)": lambda row: f"{row['env']} ({row['steps'][-1]:,})",
        "algorithm": "`{algorithm}`",
        "known": lambda row: ", ".join(f"{what} {x:g}" for what, x in row["known"].items()),
    }
    rows = [
        {"env": env, "known": found["known"], **row}
        for env, found in result.items()
        for row in found["rows"]
    ]
    return pivot(
        rows,
        first,
        lambda row: heads[row["cell"]],
        lambda row: f"{np.mean(row['scores']):.2f} ({each('.4g', row['scores'])})",
    )
