"""The best setting and the best run: one rule, whoever asks."""

import numpy as np
import pandas as pd
import pytest
import toys

from kltrust.experiments import report
from kltrust.experiments.config import spec
from kltrust.experiments.jobs import plan
from kltrust.experiments.reading import choice, trained
from kltrust.experiments.report import _export, _gather, _summaries

NAN = np.nan
SPEC = f"""{toys.MADE.replace(', "Acrobot-v1"', "")}
[[experiments]]
algorithms = "trpo"
grid.max_kl = [0.01, 0.02, 0.03, 0.04]
"""


def evaluations(returns):
    """Of setting -> seed -> returns, a row each."""
    rows = [
        {"run": (s, seed), "env": "walk", "label": s, "seed": seed, "mean_return": value}
        for s, seeds in returns.items()
        for seed, values in enumerate(seeds)
        for value in values
    ]
    table = pd.DataFrame(rows)
    return table.assign(
        run=table.run.map({run: i for i, run in enumerate(dict.fromkeys(table.run))})
    )


@pytest.mark.parametrize(
    ("returns", "best", "why"),
    [
        # The mean over seeds counts, not the best seed.
        ({"a": [[0, 90], [0, 10]], "b": [[0, 60], [0, 60]]}, "b", "of 2 settings the highest mean"),
        # Of equal ones the mean over all evaluations.
        ({"a": [[1, 9], [1, 9]], "b": [[5, 9], [0, 9]]}, "b", "of 2 equal ones the highest mean"),
        # And then the order.
        ({"a": [[1, 9]], "b": [[1, 9]]}, "a", "the first of 2 equal ones"),
        # What is no number is the worst evaluation there is, not left out.
        ({"a": [[9, 9], [9, NAN]], "b": [[0, 5], [9, 6]]}, "b", "highest mean"),
        ({"a": [[NAN, NAN]], "b": [[NAN, NAN]]}, "a", "no run has a score that is a number"),
        ({"a": [[NAN, NAN]], "b": [[3, 2]]}, "b", "of 2 equal ones"),
        ({"a": [[1, 2]]}, "a", "the only setting"),
    ],
)
def test_the_rule(returns, best, why):
    settings = choice.rank_settings(choice.score_runs(evaluations(returns)))
    assert settings.label[0] == best
    assert why in choice.reason(settings)


def test_all_who_ask_choose_the_same(tmp_path):
    """Means 50, 60, 60 and 60; the third got there first; the first has the best seed."""
    planned = plan.make_plan(spec.parse(SPEC), width=3)

    def metrics(group, first):
        kl = np.full((len(group.runs), group.chunk_length), 0.01)
        names = ("kl", "kl_max", "max_ratio", "clip_fraction")
        return {**dict.fromkeys(names, kl), "nonfinite_update": np.zeros(kl.shape, int)}

    def score(run, done):
        setting, seed = divmod(run, 3)
        if done < 4:
            return [0.0, 1.0, 3.0, 2.0][setting]
        return [[0.0, 50.0, 100.0], [60.0] * 3, [60.0, 55.0, 65.0], [60.0] * 3][setting][seed]

    path = toys.write(tmp_path / "made", planned, metrics, score)
    best, why = trained.choose(path)
    assert (best.label, best.seed, best.score) == ("trpo max_kl=0.03", 9, 65.0)
    assert why == (
        "of 4 settings the highest mean at the last evaluation, 60.00 over 3 seeds; of 3 equal "
        "ones the highest mean over all evaluations; seed 9 is its best"
    )
    assert trained.best_run(path, seed=2)[3:5] == ("trpo max_kl=0.03", 2)
    study = _gather.gather([path])
    scores = _summaries.scores(study)
    assert scores.label[0] == best.label
    assert _summaries.compare(study).chosen == {"trpo": best.label}
    assert _summaries.find_scales(study).best.tolist() == [best.label]
    assert _export.presets(scores).label.tolist() == [best.label]
    (line,) = report._make._headlines(scores, {})
    assert line.endswith("; where one is needed it is trpo max_kl=0.03, which got there first.")
