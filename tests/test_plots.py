"""The picture of a run, from rows made up by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from kltrust.algorithms import find_algorithm
from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.reading import plots

PNG = b"\x89PNG\r\n\x1a\n"


def draw(path, algorithm, seeds, *, kl=0.005, episodes=1, **update):
    experiment = Experiment("CartPole-v1", find_algorithm(algorithm)(**update))
    iterations = np.arange(6)
    size = len(seeds) * 6
    metrics = {
        "seed": np.repeat(seeds, 6),
        "env_steps": np.tile((iterations + 1) * 2048, len(seeds)),
        "kl": np.resize(np.asarray(kl, np.float32), size),
        "return_sum": np.full(size, 20.0 * episodes, np.float32),
        "num_episodes": np.full(size, episodes),
    }
    evaluations = {
        "seed": np.repeat(seeds, 2),
        "env_steps": np.tile([3 * 2048, 6 * 2048], len(seeds)),
        "mean_return": np.arange(2.0 * len(seeds)),
    }
    tables = pd.DataFrame(metrics), pd.DataFrame(evaluations)
    path = plots.learning_curve(experiment, *tables, path / "curve.png")
    assert path.read_bytes().startswith(PNG)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, to look at what is on them."""
    from matplotlib.figure import Figure

    figures, savefig = [], Figure.savefig

    def keep(figure, *arguments, **keywords):
        savefig(figure, *arguments, **keywords)
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_several_seeds_and_a_bound(tmp_path, drawn):
    draw(tmp_path, "trpo", [0, 1, 2], max_kl=0.02)
    left, right = drawn[0].axes
    assert "evaluation, acting by the mode: mean and range of seeds" in labels(left)
    assert "median of seeds" in labels(right)
    assert "max_kl 0.02" in labels(right)
    assert right.get_yscale() == "log"
    assert "3 seeds" in drawn[0].get_suptitle()


def test_one_seed_speaks_of_no_seeds(tmp_path, drawn):
    draw(tmp_path, "ppo_penalty", [4])
    left, right = drawn[0].axes
    assert not any("seeds" in label or "percentile" in label for label in labels(left))
    assert labels(right) == ["of each update", "target_kl 0.01"]
    assert drawn[0].get_suptitle().endswith("1 seed")


def test_no_bound_and_rejected_updates(tmp_path, drawn):
    draw(tmp_path, "vanilla_pg", [0, 1], kl=(0.0, 1e-7, 30.0))
    assert not any("_kl" in label for label in labels(drawn[0].axes[1]))
    # An infinite bound is none, and a KL that is always zero has no logarithm.
    draw(tmp_path, "ppo_clip", [0], kl=0.0)
    right = drawn[1].axes[1]
    assert not any("_kl" in label for label in labels(right))
    assert right.get_yscale() == "linear"


def test_iterations_in_which_no_episode_ended(tmp_path, drawn):
    draw(tmp_path, "trpo", [0], episodes=0)
    training = drawn[0].axes[0].get_lines()[0]
    assert len(training.get_xdata()) == 0


def test_numbers_on_an_axis_do_not_stand_in_each_other():
    """Also not in those of the panel beside; what has room stays."""
    ticks = [0.1, 0.101, 0.102, 0.5, 0.9]

    def shown(crowded):
        figure, grid = plots.panels(2, 1.6, 1.5)
        for axes in grid:
            axes.plot([0.1, 0.9], [0, 1])
            axes.set_xticks(ticks if crowded else [0.1, 0.5], None)
        plots.thin_tick_labels(figure)
        figure.draw_without_rendering()
        renderer = FigureCanvasAgg(figure).get_renderer()
        labels = [t for axes in grid for t in axes.get_xticklabels() if t.get_text()]
        boxes = [label.get_window_extent(renderer) for label in labels]
        assert not any(x.overlaps(y) for x, y in itertools.combinations(boxes, 2))
        return [label.get_text() for label in labels]

    assert len(shown(crowded=False)) == 4
    found = shown(crowded=True)
    assert 3 <= len(found) < 10
    assert "0.101" not in found
