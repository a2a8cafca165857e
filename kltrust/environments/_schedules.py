"""Curricula: a number of an environment as a function of the training's progress."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from kltrust.checks import check_names, require
from kltrust.tree import fusion_barrier
from kltrust.types import Array, Number
from kltrust.values import number_from_plain

_LARGEST = 1e38
"""A difference of two numbers below it is finite in float32."""


@dataclasses.dataclass(frozen=True)
class LinearSchedule:
    """A number that goes linearly from ``start`` to ``end``, and is constant afterwards.

    After a fraction f of the training, in [0, 1], it is start + (end - start) min(f / until, 1).
    All three numbers may be traced. In a specification it is the table
    ``{ from = 5.0, to = 9.8, until = 0.5 }``.

    Args:
        start: the value at first.
        end: the value from the fraction ``until`` on.
        until: this fraction of the training, in (0, 1].

    Raises:
        ValueError: if a known number is not finite, too large, or ``until`` lies outside (0, 1].

    Example:
        >>> gravity = LinearSchedule(5.0, 9.0, until=0.5)
        >>> [float(gravity(fraction)) for fraction in (0.0, 0.25, 0.5, 1.0)]
        [5.0, 7.0, 9.0, 9.0]
    """

    start: Number
    end: Number
    until: Number = 1.0

    KEYS: ClassVar[tuple[str, ...]] = ("from", "to", "until")
    """The names of the numbers in a specification."""

    def __post_init__(self) -> None:
        """Checks the known numbers."""
        ends = {"from (start)": self.start, "to (end)": self.end}
        for key, value in {**ends, "until": self.until}.items():
            if isinstance(value, jax.core.Tracer):
                continue
            if np.ndim(value) or np.asarray(value).dtype.kind not in "iuf":
                raise ValueError(f"{key} must be a number, got {value!r}")
        require(lambda x: np.abs(x) <= _LARGEST, "finite and at most 1e38 in size", **ends)
        bounds = "a share of the training, in (0, 1]"
        require(lambda x: (x > 0) & (x <= 1), bounds, until=self.until)

    def __call__(self, fraction: Number) -> Array:
        """The value [] after a ``fraction`` [] of the training."""
        share = jnp.asarray(fraction, jnp.float32) / self.until
        value = self.start + (self.end - self.start) * share
        # A value that is computed gives the environment the same bits as one that is given.
        return fusion_barrier(jnp.where(share < 1, value, self.end))

    def __str__(self) -> str:
        """The schedule in words."""
        return "{:g} to {:g} until {:g}".format(*_leaves(self)[0])

    def to_plain(self) -> dict[str, float]:
        """The schedule -> its table in a specification."""
        return dict(zip(self.KEYS, map(float, _leaves(self)[0]), strict=True))

    @classmethod
    def from_plain(cls, table: Mapping[str, Any]) -> LinearSchedule:
        """The inverse: from a ``table`` with `KEYS`; without "until" it is 1.

        Raises:
            ValueError: on an unknown or missing key, or a bad number.
        """
        check_names("key of a schedule", table, cls.KEYS)
        if missing := [key for key in ("from", "to") if key not in table]:
            raise ValueError(f"a schedule needs {' and '.join(missing)}, as in {SCHEDULE_EXAMPLE}")
        numbers = {key: number_from_plain(value) for key, value in table.items()}
        return cls(numbers["from"], numbers["to"], numbers.get("until", 1.0))


def _leaves(schedule: LinearSchedule) -> tuple[tuple[Number, Number, Number], None]:
    return (schedule.start, schedule.end, schedule.until), None


def _of_leaves(_: None, leaves: Any) -> LinearSchedule:
    # Unchecked: JAX puts tracers, shapes and placeholders where numbers were.
    self = object.__new__(LinearSchedule)
    for field, value in zip(dataclasses.fields(LinearSchedule), leaves, strict=True):
        object.__setattr__(self, field.name, value)
    return self


jax.tree_util.register_pytree_node(LinearSchedule, _leaves, _of_leaves)

SCHEDULE_EXAMPLE = "{ from = 5.0, to = 9.8, until = 0.5 }"
"""A schedule as a specification has it, for errors."""


def is_schedule(value: Any) -> bool:
    """Whether a value of an environment's parameter is a schedule, or the table of one."""
    is_table = isinstance(value, Mapping) and bool({*value} & {*LinearSchedule.KEYS})
    return is_table or isinstance(value, LinearSchedule)


def require_constant(name: str, params: Mapping[str, Any]) -> None:
    """Refuses schedules as parameters of one environment, whose numbers are constant."""
    for key, value in params.items():
        if is_schedule(value):
            raise ValueError(
                f"{name}: {key} is a schedule, and an environment has one value: pass make_learner "
                f"a function of the fraction done, lambda fraction: make({name!r}, "
                f"{key}=schedule(fraction))"
            )
