"""The audit of trained runs: stored, drawn, reported; and folders without one."""

import numpy as np
import pytest
import toys

from kltrust.experiments.jobs import run
from kltrust.experiments.jobs.merge import _columns
from kltrust.experiments.reading import audit_plots, results
from kltrust.experiments.reading.export import exported
from kltrust.experiments.report._make import compose
from kltrust.experiments.store import tables

EPOCHS, MINIBATCHES, ITERATIONS = 3, 2, 4
EXPERIMENT = toys.tiny(
    "ppo_clip",
    "Pendulum-v1",
    update={"num_epochs": EPOCHS, "num_minibatches": MINIBATCHES, "learning_rate": 0.01},
    learner={"num_envs": 2, "normalize_observations": True, "audit": "full"},
    network={"hidden": [4]},
    budget={"total_steps": 32 * ITERATIONS, "num_evals": 2, "eval_episodes": 1},
)
ON_REQUEST = ("fresh", "path", "reference", "normalizer", "curvature")


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "audited"
    return run.train(EXPERIMENT, [0, 1], path)


@pytest.fixture(scope="module")
def without_audit(audited, tmp_path_factory):
    """The same run as if nothing had been audited."""
    loaded = results.load(audited.path)
    metrics = loaded.metrics
    kept = metrics[[name for name in metrics if not name.startswith("audit.")]]
    named = ["run", "label", "algorithm", "env", "seed", "iteration", "env_steps", "mean_return"]
    measured = kept.drop(columns=named)

    def metrics_of(group, first):
        last = first + group.chunk_length
        rows = measured[(metrics.iteration >= first) & (metrics.iteration < last)]
        return {name: rows[name].to_numpy().reshape(2, -1) for name in rows}

    path = tmp_path_factory.mktemp("runs") / "old"
    return toys.write(path, run.plan_of(audited), metrics_of, lambda run, done: run + done)


def test_every_level_is_a_setting_whose_columns_are_stored(audited):
    metrics = results.load(audited.path).metrics
    assert len(metrics) == 2 * ITERATIONS
    for part in ("update", *ON_REQUEST):
        assert any(name.startswith(f"audit.{part}") for name in metrics), part
    np.testing.assert_allclose(metrics["audit.update.kl.mean"], metrics.kl, rtol=1e-4, atol=1e-8)
    minibatch, epoch = audit_plots.path_of(metrics)
    assert minibatch.shape == (2 * ITERATIONS, EPOCHS, MINIBATCHES)
    # The last epoch ends where the update ended.
    np.testing.assert_allclose(epoch[:, -1], metrics.kl, rtol=1e-3, atol=1e-7)
    assert results.load(audited.path).runs["learner.audit"].tolist() == ["full"] * 2
    # Vectors stay out of dashboards, everything else is in them.
    (first, _) = exported(results.load(audited.path))
    tags = set(first.history[32])
    assert "train/audit.update.gradient_removed" in tags
    assert not any("path" in tag for tag in tags)


def test_the_way_is_the_sum_of_the_steps_of_each_run(audited):
    metrics = results.load(audited.path).metrics
    way = audit_plots.lengths(metrics)
    for seed in (0, 1):
        by_hand = np.cumsum(np.sqrt(2 * metrics.kl[metrics.seed == seed]))
        np.testing.assert_allclose(way[metrics.seed == seed], by_hand, rtol=1e-6)


def test_vectors_survive_the_table_and_the_merge(audited, tmp_path):
    metrics = {"kl": np.arange(6.0).reshape(2, 3), "path": np.arange(12.0).reshape(2, 3, 2)}
    rows = tables.to_rows(metrics, [5, 7])
    (tmp_path / "t.parquet").write_bytes(tables.encode(rows)[0])
    read = tables.read([tmp_path / "t.parquet"]).to_pandas()
    np.testing.assert_array_equal(np.stack(read.path), rows["path"])
    again = _columns([read.assign(run=read.seed)])
    assert again["path"].shape == (6, 2)
    np.testing.assert_array_equal(again["path"][:, 0], 2 * again["kl"])
    for bad in (
        {"kl": np.zeros((2, 3)), "x": np.zeros((2, 4, 2))},
        *({"x": np.zeros(shape)} for shape in ((2, 3, 1, 1), (3, 4), (2,))),
        {},
    ):
        with pytest.raises(ValueError, match="2 seeds, iterations"):
            tables.to_rows(bad, [5, 7])


def test_the_picture_shows_every_part_that_there_is(audited, without_audit, monkeypatch, tmp_path):
    from matplotlib.figure import Figure

    figures, savefig = [], Figure.savefig

    def keep(figure, *arguments, **keywords):
        savefig(figure, *arguments, **keywords)
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    tables = [results.load(path).metrics for path in (audited.path, without_audit)]
    path = tmp_path / "audit.png"
    assert audit_plots.audit_picture(EXPERIMENT, tables[0], path) == path
    titles = [axes.get_title() for axes in figures[0].axes if axes.axison]
    assert len(titles) == len(audit_plots._PANELS) == 7
    legend = [t.get_text() for t in figures[0].axes[0].get_legend().get_texts()]
    assert "clip_eps / 2" in legend
    assert audit_plots.audit_picture(EXPERIMENT, tables[1], path) is None


def test_the_report_says_it_and_other_folders_report_without(audited, without_audit):
    (section,) = (s for s in compose([audited.path]).sections if s.name == "audit")
    inner = section.sections[0]
    names = [table.name for table in inner.tables]
    assert names == ["audit-0", "audit-requested-0"]
    assert "fresh / batch KL" in inner.tables[1].columns
    assert [p.name for p in inner.pictures] == ["audit-Pendulum-v1", "audit-path-Pendulum-v1"]
    metrics = results.load(audited.path).metrics
    gradient_removed = f"{metrics['audit.update.gradient_removed'].mean():.1%}".replace(
        "%", " %"
    ).replace(".0 ", " ")
    assert gradient_removed in inner.tables[0].rows[0]
    assert not [s for s in compose([without_audit]).sections if s.name == "audit"]
    # Both together: the audit is of those that have one.
    both = compose([audited.path, without_audit])
    (section,) = (s for s in both.sections if s.name == "audit")
    assert len(section.sections[0].tables[0].rows) == 1


def test_percentiles_of_epochs_that_no_update_ran():
    path = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    middle = audit_plots.percentiles(path)[1]
    assert middle[:2].tolist() == [2, 5]
    assert np.isnan(middle[2])
