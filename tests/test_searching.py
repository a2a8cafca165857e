"""Searches end to end: one compiled group, lanes refilled in place, resumed to the bit."""

import shutil
from typing import ClassVar

import jax
import numpy as np
import pandas as pd
import pytest
from toys import Stop, assert_same, content, output, parts, states

import kltrust
from kltrust.experiments.cli import tables
from kltrust.experiments.cli.progress import ConsoleProgress
from kltrust.experiments.config.spec import from_dict
from kltrust.experiments.engine.program import Program
from kltrust.experiments.jobs import lanes, run
from kltrust.experiments.jobs.folder import parts_of
from kltrust.experiments.reading.trained import choose, evaluate_runs, find_runs
from kltrust.experiments.report import _search
from kltrust.experiments.report._gather import gather
from kltrust.experiments.store.files import DamagedError
from kltrust.experiments.store.record import Record

# Seven iterations, each followed by an evaluation, but for the last, which has its own chunk.
SPEC = {
    "sweep": {
        "name": "toy",
        "seeds": [0, 2],
        "envs": "CartPole-v1",
        "algorithms": "vanilla_pg",
        "preset": "none",
    },
    "learner": {"num_envs": 4, "num_steps": 16},
    "critic": {"num_epochs": 1, "num_minibatches": 2},
    "network": {"hidden": [8]},
    "budget": {"total_steps": 7 * 64, "num_evals": 3, "eval_episodes": 2},
}
KINDS = {
    "halving": {"by": "halving", "lanes": 2, "seed": 11, "eta": 2},
    "racing": {"by": "racing", "lanes": 2, "seed": 11, "level": 0.99, "every": 3},
    "population": {"by": "population"},
}
PLANNED, CHUNK = 7, 2


def specification(kind):
    count = 2 if kind == "population" else 5  # equal lanes: one program for all kinds
    ranges = {"count": count, "learning_rate": {"log_uniform": [1e-3, 0.3]}}
    return {**SPEC, "experiments": [{"random": ranges}], "search": KINDS[kind]}


def doubled(chunk):
    """The chunk's own column; the rows that it sees are of one age."""
    assert len({len(x) for x in (chunk.labels, chunk.seeds, chunk.metrics.kl, chunk.returns)}) == 1
    return {"double": 2 * chunk.metrics.kl}


class Kept(Program):
    """Compiles nothing that an earlier search of this module has compiled."""

    known: ClassVar[dict] = {}

    def _call(self, name, *given):
        shapes = [np.shape(x) for x in jax.tree.leaves(given)]
        key = (name, self.width, self.chunk_length, jax.tree.structure(given), str(shapes))
        if name not in self.compilations and key in self.known:
            self._compiled[name], self.memory[name] = self.known[key]
            self.compile_seconds[name], self.compilations[name] = 0.0, 1
        result = super()._call(name, *given)
        self.known[key] = self._compiled[name], self.memory[name]
        return result


@pytest.fixture(scope="module", autouse=True)
def nothing_compiled_twice():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "Program", Kept)
        yield
        Kept.known.clear()


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    for kind in KINDS:
        kltrust.sweep(specification(kind), folder / kind, width=1, on_chunk=doubled)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_is_one_compiled_group(searched, kind):
    (part,) = parts(Record(searched / kind))
    assert part.summary["compilations"] == {"init": 1, "chunk": 1, "evaluate": 1}
    loaded = kltrust.load(searched / kind)
    decisions, runs = loaded.decisions, loaded.runs
    assert decisions.action.tolist()[:2] == ["begin"] * 2
    assert set(decisions.chunk) <= set(range(-1, part.last_chunk + 1))
    assert decisions.reason.str.len().min() > 0
    # Every run has the iterations that the decisions gave it, and stopped if none was the end.
    ended = set(decisions.label[decisions.action == "end"])
    assert runs.stopped.isna().tolist() == [label in ended for label in runs.label]
    assert (runs.iterations == PLANNED).tolist() == runs.stopped.isna().tolist()
    sizes = loaded.metrics.groupby("run").size()
    assert sizes.tolist() == runs.iterations.tolist()
    assert loaded.metrics["extra.double"].tolist() == (2 * loaded.metrics.kl).tolist()
    batches = -(-runs.iterations // CHUNK)
    assert loaded.evaluations.groupby("run").size().tolist() == batches.tolist()
    assert loaded.evaluations.env_steps.max() == PLANNED * 64
    assert runs.broken.isna().all()
    assert len(runs.label.unique()) == (2 if kind == "population" else 5)
    steps = runs.iterations.sum() / (PLANNED * len(runs))
    assert (steps < 0.7) == (kind != "population")


def test_which_setting_is_best_does_not_depend_on_a_function_of_yours(tmp_path, monkeypatch):
    named: dict = {None: [], doubled: []}
    launch = lanes.Lanes.launch

    def tied(*arguments):
        state, metrics, returns = launch(*arguments)
        return state, metrics, 0 * returns

    class Shown(ConsoleProgress):
        def chunk(self, report):
            assert report.best[0] == next(iter(report.scores))  # the first among equals
            assert list(report.scores) == sorted(report.scores, key=planned.index)
            best, before = self._best.named(report).best[0], named[on_chunk][-1:]
            assert best == before[0] if {*before} & {*report.scores} else best == report.best[0]
            named[on_chunk].append(best)

    monkeypatch.setattr(lanes.Lanes, "launch", tied)
    planned = [s.label for s in from_dict(specification("racing"), "toy").settings]
    for on_chunk in named:
        path = tmp_path / str(on_chunk is None)
        kltrust.sweep(specification("racing"), path, width=1, progress=Shown(), on_chunk=on_chunk)
    assert named[None] == named[doubled]
    assert len(set(named[None])) > 1  # the best left its lane


def test_a_lane_of_a_search_has_the_bits_of_a_sweep(searched, tmp_path):
    """Also one that was paused and went on in another lane."""
    found = kltrust.load(searched / "halving")
    decisions = found.decisions.set_index("action").label
    labels = [decisions["resume"], decisions["end"]]
    mine = found.metrics[found.metrics.label.isin(labels)]
    rates = found.runs[found.runs.label.isin(labels)]["update.learning_rate"].unique()
    whole = {**SPEC, "experiments": [{"grid": {"learning_rate": rates}}]}
    sweeps = kltrust.sweep(whole, tmp_path / "sweep", width=1).metrics
    keys = ["label", "seed", "iteration"]
    both = mine[keys].merge(sweeps, on=keys)
    iterations = mine.groupby("label").iteration.max() + 1
    assert iterations.max() == PLANNED
    assert len(both) == len(mine) == 2 * iterations.sum()
    columns = mine.columns.drop(["run", "extra.double"])
    both, mine = (frame[columns].reset_index(drop=True) for frame in (both, mine))
    pd.testing.assert_frame_equal(both, mine, check_exact=True)


def test_a_member_that_is_copied_has_the_others_state(searched):
    found = kltrust.load(searched / "population")
    copies = found.decisions[found.decisions.action == "copy"]
    assert len(copies)
    (state,) = states(Record(searched / "population"))
    assert np.asarray(state.iteration).tolist() == [PLANNED] * 4
    # After a copy, the two members of a seed have the same iteration's rollout, and learn apart.
    first = copies.iloc[0]
    at = int(first.evaluations) * CHUNK
    rows = found.metrics[(found.metrics.iteration == at) & (found.metrics.seed == 0)]
    assert rows.return_sum.nunique() == rows.length_sum.nunique() == 1
    before = found.metrics[(found.metrics.iteration == at - 1) & (found.metrics.seed == 0)]
    assert before.kl.nunique() == 2


@pytest.mark.parametrize(("kind", "after"), [("halving", 1), ("halving", 4), ("racing", 3)])
def test_a_search_goes_on_where_it_was_interrupted(searched, kind, after, tmp_path):
    path = tmp_path / "part"
    with pytest.raises(InterruptedError):
        kltrust.sweep(
            specification(kind), path, width=1, on_chunk=doubled, progress=Stop(after=after)
        )
    part = kltrust.load(path)
    assert not part.runs.iterations.empty
    assert part.evaluations.groupby("run").size().max() <= after
    run.resume(path, progress=told(doubled))
    assert_same(Record(path), Record(searched / kind))
    same = [kltrust.load(p).decisions for p in (path, searched / kind)]
    pd.testing.assert_frame_equal(*same, check_exact=True)


def test_a_population_goes_on_where_it_was_interrupted(searched, tmp_path):
    test_a_search_goes_on_where_it_was_interrupted(searched, "population", 2, tmp_path)


def told(on_chunk):
    progress = run.Progress()
    progress.on_chunk = on_chunk
    return progress


def test_reading_a_folder_that_was_searched(searched):
    record = Record(searched / "halving")
    best, why = choose(record)
    assert np.isnan(best.stopped)
    assert "of 5 settings a search trained" in why
    assert evaluate_runs([best], num_episodes=2).shape == (1, 2)
    # What was stopped can be played, too, with the settings and the weights that it had.
    stopped = [x for x in find_runs(record) if not np.isnan(x.stopped)]
    assert evaluate_runs(stopped[:1], num_episodes=2).shape == (1, 2)
    states = stopped[0].states()
    reached = np.asarray(states.iteration)[[x.lane for x in stopped]]
    assert reached.tolist() == [int(x.stopped) for x in stopped]
    title = tables.status_table(record).title
    assert "halving of vanilla_pg on CartPole-v1: 5 of 5 settings begun, 0 train" in title
    shown = tables.search_table(*parts_of(record))
    assert "stop" in list(shown.columns[3].cells)
    section = _search.section(gather([searched / kind for kind in KINDS]))
    texts = [str(row) for block in section.walk() for row in getattr(block, "rows", ())]
    assert any("clearly worse" in text or "goes on" in text for text in texts)
    study = gather([searched / "halving"])
    assert not [note for note in study.notes if "not finished" in note]
    assert tables.dry_run(run.plan_of(record)).row_count == 1


def test_a_damaged_table_of_decisions_is_named(searched, tmp_path):
    copy = shutil.copytree(searched / "halving", tmp_path / "copy")
    file = copy / "groups/000/decisions.parquet"
    file.write_bytes(file.read_bytes()[:-40])
    before = content(copy)
    for read in (kltrust.load, run.resume):
        with pytest.raises(DamagedError, match=r"decisions\.parquet"):
            read(copy)
    assert content(copy) == before


@pytest.mark.slow
def test_the_number_of_devices_does_not_matter(searched, tmp_path):
    script = (
        "import test_searching\n"
        "import jax, kltrust, sys\n"
        "assert len(jax.devices()) == 2\n"
        "kltrust.sweep(test_searching.specification('halving'), sys.argv[1], width=1,\n"
        "    on_chunk=test_searching.doubled)\n"
    )
    environment = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}.items()
    output("-c", script, str(tmp_path / "two"), devices=2, environment=environment)
    two, one = (kltrust.load(p) for p in (tmp_path / "two", searched / "halving"))
    pd.testing.assert_frame_equal(two.metrics, one.metrics, check_exact=True)
    pd.testing.assert_frame_equal(two.decisions, one.decisions, check_exact=True)
