"""Findings from comparing runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from kltrust.findings._declare import GROUP, Evidence, Missing, finding
from kltrust.findings._lane import Lane


def _by(lanes: Sequence[Lane], *keys: str) -> dict[tuple, list[Lane]]:
    found: dict[tuple, list[Lane]] = defaultdict(list)
    for lane in lanes:
        found[tuple(lane.where[key] for key in keys)].append(lane)
    return found


@finding(
    "error",
    GROUP,
    means="The seed does not reach the run: a key that is fixed, or split the same way twice.",
    remedy="Make every random number of a key that the seed gives.",
)
def seeds_identical(lanes: Sequence[Lane]) -> Evidence | None:
    """Two seeds of one setting have the same numbers, bit for bit."""
    same, pairs, first = 0, 0, None
    for group in _by(lanes, "label", "env").values():
        seen: dict[bytes, Lane] = {}
        for lane in group:
            bits = b"".join(lane[name].tobytes() for name in ("kl", "entropy"))
            pairs += 1
            other = seen.setdefault(bits, lane)
            if other is not lane and other.where["seed"] != lane.where["seed"] and lane.length > 1:
                same, first = same + 1, lane.where["run"] if first is None else first
    if not same:
        return None
    return Evidence("runs equal to one of another seed", same, 0, first, same, pairs)


@finding(
    "note",
    GROUP,
    means="There are too few seeds, or the settings do not matter here.",
    remedy="More seeds (`results.sequential_test` says how many) before settings are ranked.",
)
def seeds_differ_more_than_settings(lanes: Sequence[Lane]) -> Evidence | None:
    """Seeds of one setting end further apart than settings do."""
    worst, count, of = None, 0, 0
    for (env,), group in _by(lanes, "env").items():
        ends = [[x.returns(5)[-1] for x in runs] for runs in _by(group, "label").values()]
        ends = [x for x in ends if len(x) >= 3 and np.isfinite(x).all()]
        if len(ends) < 2:
            continue
        of += 1
        within = float(np.mean([np.std(x, ddof=1) for x in ends]))
        between = float(np.std([np.mean(x) for x in ends], ddof=1))
        if within > between:
            count += 1
            if worst is None or within - between > worst[0] - worst[1]:
                worst = within, between, env
    if not of:
        raise Missing("three seeds of two settings")
    if worst is None:
        return None
    within, between, env = worst
    found = Evidence("deviation over seeds", within, between, limit_name="over settings")
    return found._replace(count=count, of=of, detail=f"most on {env}")
