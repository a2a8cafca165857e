"""One's own functions beside a sweep."""

import numpy as np
import pytest

import kltrust
from kltrust.experiments.jobs import events
from kltrust.learner import Metrics

SPEC = {
    "sweep": {"envs": ["CartPole-v1"], "seeds": 2},
    "budget": {"total_steps": 96, "num_evals": 3, "eval_episodes": 2},
    "experiments": [
        {
            "algorithms": ["vanilla_pg"],
            "learner": {"num_envs": 2, "num_steps": 16},
            "grid": {"learning_rate": [0.1, 0.2]},
        }
    ],
}


def test_a_chunk_is_shown_gets_columns_and_stops_the_sweep(tmp_path):
    seen = []

    def on_chunk(chunk):
        seen.append(chunk)
        if len(seen) == 2:
            chunk.stop()
        return {"twice": 2 * chunk.metrics.kl, "score": chunk.returns[:, 0].mean(-1), "one": 1}

    results = kltrust.sweep(SPEC, tmp_path / "own", on_chunk=on_chunk)
    assert [(c.env, c.algorithm, c.first, c.env_steps) for c in seen] == [
        ("CartPole-v1", "vanilla_pg", 0, 32),
        ("CartPole-v1", "vanilla_pg", 1, 64),
    ]
    rates = ["vanilla_pg learning_rate=0.1"] * 2 + ["vanilla_pg learning_rate=0.2"] * 2
    assert (seen[0].labels, seen[0].seeds) == (rates, [0, 1] * 2)
    assert len(results.metrics) == 4 * 2  # the third chunk was not committed
    whole = kltrust.sweep(SPEC, tmp_path / "own", on_chunk=on_chunk)
    assert [chunk.first for chunk in seen[2:]] == [2]
    rows = whole.metrics
    np.testing.assert_allclose(rows["extra.twice"], 2 * rows["kl"], rtol=1e-6)
    assert (rows["extra.one"] == 1).all()
    last = rows[rows["iteration"] == 2].set_index("run")["extra.score"]
    np.testing.assert_allclose(last, seen[2].returns[:, 0].mean(-1), rtol=1e-6)
    # The numbers are those of a sweep that nobody looked at.
    plain = kltrust.sweep(SPEC, tmp_path / "plain").metrics
    assert rows[list(plain.columns)].equals(plain)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"a": [1, 2, 3]}, r"a has shape \(3,\); give a number, \[4\] one for each run"),
        ({"grad_norm": 1}, "'grad_norm' can't name a column"),
        ({"no name": 1}, "'no name' can't name a column"),
        ([1], "columns by their names, or None"),
    ],
)
def test_what_cannot_be_a_column_is_refused(returned, message):
    metrics = Metrics(**dict.fromkeys(Metrics._fields, 0.0))
    metrics = metrics._replace(kl=np.zeros((4, 2)), extra={"grad_norm": np.zeros((4, 2))})
    chunk = events.Chunk("env", "trpo", ["a"] * 4, [0] * 4, 0, 32, metrics, np.zeros((4, 2, 1)))
    with pytest.raises(ValueError, match=message):
        events.with_columns(chunk, returned)


def test_an_error_ends_the_sweep_before_the_commit_and_columns_that_come_and_go_are_named(tmp_path):
    shown = iter([{"own": 1}, None])
    with pytest.raises(ValueError, match=r"the columns of metrics changed, extra\.own: "):
        kltrust.sweep(SPEC, tmp_path / "own", on_chunk=lambda chunk: next(shown))
    assert len(kltrust.load(tmp_path / "own").metrics) == 4
