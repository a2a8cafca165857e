"""The table from benchmarks/judge.py."""

from __future__ import annotations

from recorded import Form, Result, table


def judge(result: Result) -> list[str]:
    """Faults that are found, and healthy runs with a false alarm."""
    rows = [
        {"what": f"planted {row['kind']}", "of": row["faults"], "found": _found(row)}
        for row in result["planted"]["rows"]
    ]
    healthy = result["healthy"]
    alarms = len(healthy["alarms"])
    share = alarms / healthy["runs"]
    rows.append(
        {
            "what": f"healthy runs: {healthy['algorithms']} algorithms, "
            f"{healthy['environments']} environments",
            "of": healthy["runs"],
            "found": f"{alarms} with a warning or worse ({share:.1%})",
        }
    )
    columns: dict[str, Form] = {"what": "{what}", "of": "{of}", "judged": "{found}"}
    return table(rows, columns)


def _found(row: Result) -> str:
    found = row["faults"] - len(row["missed"])
    return f"{found} found under their names ({found / row['faults']:.0%})"
