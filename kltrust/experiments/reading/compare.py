"""Tests whether one set of runs is worse than another: two versions of a code, two devices."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kltrust.checks import nearest
from kltrust.experiments.reading import choice
from kltrust.experiments.reading.results import Results


def compare(
    a: Results, b: Results, *, level: float = 0.95, margin: float = 0.0
) -> tuple[pd.DataFrame, list[str]]:
    """The difference b - a in final return, setting by setting.

    Settings are matched by environment and label. Where both have the same seeds, the difference is
    taken seed by seed, since equal seeds meet the same random draws. The interval is Student's t of
    the mean difference, or Welch's where the seeds differ. With m settings each has the level
    1 - (1 - ``level``)/m (Bonferroni), so that ``level`` holds for all of them together.

    Args:
        a: the runs to compare with.
        b: the runs in question.
        level: the level of all intervals together, between 0 and 1.
        margin: a loss, in units of the return, that does not matter.

    Returns:
        A row for each setting that both have: env, label, seeds_a, seeds_b, a and b (mean final
        returns), difference, low, high and verdict. The verdict is "worse" if high < -margin,
        "better" if low > margin, "the same" if all returns are equal, else "not shown". Also the
        settings that only one of the two has.

    Raises:
        ValueError: if they have no setting in common, a setting has one seed, or level or margin
            is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level lies between 0 and 1, got {level}")
    if not 0 <= margin < np.inf:
        raise ValueError(f"margin is 0 or more, got {margin}")
    if not len(a.evaluations) or not len(b.evaluations):
        raise ValueError("there is no evaluation to compare: wait for the first commit of both")
    of_b = 1 + int(a.evaluations.run.max())
    rows = pd.concat([a.evaluations, b.evaluations.assign(run=b.evaluations.run + of_b)])
    # Both sets together, so that a missing number counts as the worst of both.
    runs = choice.score_runs(rows)
    runs["side"] = np.where(runs.index < of_b, "a", "b")
    found: dict[tuple[str, str], pd.DataFrame] = dict(
        iter(runs.groupby(["env", "label"], sort=False))
    )
    both = {key: table for key, table in found.items() if table.side.nunique() == 2}
    only = [f"{label} on {env}" for env, label in found if (env, label) not in both]
    if not both:
        names = [sorted({label for _, label in found if _has(found, label, s)}) for s in "ab"]
        near = nearest(names[1][0], names[0]) if all(names) else []
        hint = f": did you mean {near[0]!r} by {names[1][0]!r}?" if near else ""
        raise ValueError(f"the two have no setting in common, by environment and label{hint}")
    one = 1 - (1 - level) / len(both)
    table = pd.DataFrame(
        [_row(env, label, runs, one, margin) for (env, label), runs in both.items()]
    )
    return table, only


def _has(found: dict, label: str, side: str) -> bool:
    return any((t.side == side).any() for (_, name), t in found.items() if name == label)


def _row(env: str, label: str, runs: pd.DataFrame, level: float, margin: float) -> dict:
    from scipy import stats

    x, y = (runs[runs.side == s].set_index("seed").score.sort_index() for s in "ab")
    if min(len(x), len(y)) < 2:
        raise ValueError(
            f"{label} on {env}: an interval needs two seeds, got {len(x)} and {len(y)}"
        )
    paired = list(x.index) == list(y.index)
    if paired and (x == y).all():
        low = high = 0.0
    else:
        with np.errstate(all="ignore"):
            test = stats.ttest_rel(y, x) if paired else stats.ttest_ind(y, x, equal_var=False)
            low, high = test.confidence_interval(level)
        # Without any spread t is undefined, and the difference is exact.
        if not np.isfinite([low, high]).all():
            low = high = float(y.mean() - x.mean())
    same = paired and bool((x == y).all())
    verdict = (
        "the same"
        if same
        else "worse"
        if high < -margin
        else "better"
        if low > margin
        else "not shown"
    )
    return {
        "env": env,
        "label": label,
        "seeds_a": len(x),
        "seeds_b": len(y),
        "a": float(x.mean()),
        "b": float(y.mean()),
        "difference": float(y.mean() - x.mean()),
        "low": float(low),
        "high": float(high),
        "verdict": verdict,
    }
