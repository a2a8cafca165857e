"""Trainings, judged from their metrics."""

from __future__ import annotations

import dataclasses
import inspect
import numbers
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kltrust.findings import _controls, _learning, _region, _seeds  # noqa: F401
from kltrust.findings._arrays import as_array
from kltrust.findings._declare import GROUP, TRAINING, look, unknown_name
from kltrust.findings._found import Finding, Findings
from kltrust.findings._lane import Lane
from kltrust.findings._scalars import columns_of

ROLES = ("bound", "set point", "clip", "floor", "ceiling", "value clip", "gradient bound")
"""The roles of settings that conditions use."""

_KNOWN = ("kl", "entropy", "explained_variance", "value_loss", "clip_fraction", "return_mean")


def judge(
    metrics: Any,
    *,
    update: Any = None,
    critic: Any = None,
    claims: Mapping[str, float] | None = None,
    names: str | Mapping[str, Any] | None = None,
) -> Findings:
    """Says what is wrong with trainings, from their metrics alone.

    Nothing is compiled; a hundred runs take about a second. A finding whose columns are missing is
    neither made nor ruled out.

    Args:
        metrics: from `train` or `run` (a leading axis [runs] of a vmap counts as runs); the result
            of `kltrust.load`; a pandas frame, with a column run if it holds several; or a dict of
            columns.
        update: the algorithm; its settings are the limits that it claims to keep:
            ``trpo(max_kl=0.02)``. Results of `load` know theirs.
        critic: likewise.
        claims: these limits by role, if there is no algorithm: ``{"bound": 0.02}``. The roles are
            bound and set point (of the mean KL, nats), clip (of ratios), floor and ceiling (of the
            setting that a controller moves), value clip and gradient bound.
        names: the library that named the columns: "stable-baselines3", "cleanrl", "rsl_rl" or
            "trl", or a dict from columns to their names here, as in ``{"train/my_kl": "kl"}``.

    Returns:
        `Findings`, worst first.

    Raises:
        ValueError: if no column is of use to any finding, a name or role is unknown, or a limit
            is no number.

    Example:
        >>> state, metrics = train(learner, key, 50)               # doctest: +SKIP
        >>> kltrust.judge(metrics, update=kltrust.trpo())          # doctest: +SKIP
    """
    given = {**_claims_of(update), **_claims_of(critic), **checked(claims)}
    lanes = list(_lanes(metrics, given, names))
    if not lanes or not any(_is_known(lane) for lane in lanes):
        raise ValueError(_no_column(metrics, lanes))
    found = [
        Finding(entry.name, entry.severity, evidence, lane.where)
        for lane in lanes
        if lane.length
        for entry, evidence in look((TRAINING, lane))
    ]
    if len(lanes) > 1:
        beside = look((GROUP, lanes))
        found += [Finding(entry.name, entry.severity, evidence, {}) for entry, evidence in beside]
    return Findings(found, len(lanes))


def checked(claims: Mapping[str, float] | None) -> dict[str, float]:
    """Claims by role, after a check that all roles exist and all limits are numbers.

    Raises:
        ValueError: names the role that is unknown, or whose limit is no number of at least 0.
    """
    if claims is not None and not isinstance(claims, Mapping):
        raise ValueError(f'claims must be a dict such as {{"bound": 0.02}}, got {claims!r}')
    for role, limit in (claims or {}).items():
        if role not in ROLES:
            raise ValueError(unknown_name("role in claims", role, ROLES))
        if limit is not None and not (isinstance(limit, numbers.Real) and limit >= 0):
            raise ValueError(f"the claim {role} must be a number of at least 0, got {limit!r}")
    return dict(claims or {})


def _is_known(lane: Lane) -> bool:
    return any(name in lane.columns for name in _KNOWN)


def _no_column(metrics: Any, lanes: list[Lane]) -> str:
    """The error message for metrics that no finding can use."""
    from kltrust.checks import nearest  # loads JAX, which findings do without

    if isinstance(metrics, str) or hasattr(metrics, "__fspath__"):
        return f"metrics is a path: kltrust.judge(kltrust.load({str(metrics)!r})) judges a folder"
    has = [name for name in (lanes[0].columns if lanes else ()) if name]
    near = list(dict.fromkeys(good for name in has for good in nearest(name, _KNOWN, 0.7)))
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    told = ", ".join(has[:8]) + (", ..." if len(has) > 8 else "")
    return (
        f"these metrics have no column that is known here (kl, entropy, ...), they have "
        f"{told or 'none'}{hint}: give those of a training, or say by names whose they are"
    )


def _claims_of(owner: Any) -> dict[str, float]:
    """The settings of an object that have a role, by role; leaves out NaN and tracers."""
    if owner is None:
        return {}
    if isinstance(owner, str | type) or inspect.isroutine(owner):
        raise ValueError(
            f"update and critic are values, such as kltrust.trpo(max_kl=0.02), got {owner!r}: call "
            "it first, or give the limits as claims"
        )
    from kltrust.settings import with_role

    found: dict[str, float] = {}
    for role in ROLES:
        for name in with_role(owner, role):
            found.setdefault(role, float(getattr(owner, name)))
    return found


def _claims_of_row(
    algorithm: str, row: Mapping[str, Any], stand_ins: Mapping[str, type]
) -> dict[str, float]:
    """The same as `_claims_of`, from a run's settings by dotted names."""
    from kltrust.algorithms import algorithm_names, find_algorithm
    from kltrust.critic import ValueRegression
    from kltrust.settings import declared

    found: dict[str, float] = {}
    cls = stand_ins.get(algorithm)
    if cls is None and algorithm in algorithm_names():
        cls = find_algorithm(algorithm)
    own = [] if cls is None else [("update", cls)]
    for section, cls in (*own, ("critic", ValueRegression)):
        for field in dataclasses.fields(cls):
            said, value = declared(field), row.get(f"{section}.{field.name}")
            on = not said.needs or bool(row.get(f"{section}.{said.needs}", True))
            if said.role in ROLES and on and isinstance(value, int | float):
                found.setdefault(said.role, float(value))
    return found


def _lanes(metrics: Any, claims: Mapping[str, float], names: Any) -> Iterator[Lane]:
    if hasattr(metrics, "runs") and hasattr(metrics, "metrics"):
        stand_ins = getattr(metrics, "stand_ins", {})
        runs = {row["run"]: row for row in metrics.runs.to_dict("records")}
        table = metrics.metrics
        columns = {name: column.to_numpy() for name, column in table.items()}
        for run, rows in table.groupby("run", sort=True).indices.items() if len(table) else ():
            row = runs[run]
            own = {**_claims_of_row(row["algorithm"], row, stand_ins), **claims}
            part = {name: column[rows] for name, column in columns.items()}
            yield Lane(part, own, {key: row[key] for key in ("label", "env", "seed", "run")})
        return
    columns = columns_of(_flat(metrics), names)
    if not columns:
        return
    if "run" in columns:
        run = np.asarray(columns["run"])
        for number in dict.fromkeys(run.tolist()):
            part = {name: np.asarray(x)[run == number] for name, x in columns.items()}
            seed = part["seed"][0] if "seed" in part else None
            yield Lane(part, claims, {"run": number, "seed": seed})
        return
    first = np.asarray(next(iter(columns.values())))
    if first.ndim == 2 and hasattr(metrics, "_fields"):
        for i in range(len(first)):
            yield Lane({name: x[i] for name, x in columns.items()}, claims, {"run": i, "seed": i})
        return
    yield Lane(columns, claims)


def _flat(x: Any, prefix: str = "") -> dict[str, Any]:
    """Nested named tuples and dicts as columns by dotted names, without None."""
    if hasattr(x, "to_dict") and hasattr(x, "columns"):
        return {name: column.to_numpy() for name, column in x.items()}
    if hasattr(x, "_asdict"):
        x = x._asdict()
    if isinstance(x, Mapping):
        found: dict[str, Any] = {}
        for name, value in x.items():
            found |= _flat(value, f"{prefix}.{name}" if prefix else str(name))
        return found
    if x is None:
        return {}
    array = np.atleast_1d(as_array(x))  # a number alone is one iteration
    return {prefix: array.astype(np.float64) if array.dtype.kind in "fVbiu" else array}
