"""What one declaration brings: command line, sweep, annealing, settings page, claim."""

import importlib
import inspect
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import kltrust
from kltrust.algorithms import find_algorithm
from kltrust.experiments import cli
from kltrust.experiments.config import spec
from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.jobs import plan
from kltrust.experiments.report import _region
from kltrust.settings import annealed

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))

from builder import tables

ADDED = """
    slack: Number = setting(
        0.5, "How much slack.", above=0, usual="0.1 to 1", role="set point", anneal=1
    )
"""
SPEC = """
[sweep]
seeds = 1
envs = "CartPole-v1"
algorithms = "trpo_copy"
preset = "none"

[[experiments]]
grid.slack = [0.1, 0.2]
grid.cg_iters = [5, 10]
"""


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """TRPO's own file with another name and one more setting, imported as a user's module."""
    source = inspect.getsource(sys.modules[find_algorithm("trpo").__module__])
    source = source.replace('@algorithm("trpo")', '@algorithm("trpo_copy")')
    place = source.index("    max_kl: Number")
    (tmp_path / "trpo_copied.py").write_text(source[:place] + ADDED.lstrip("\n") + source[place:])
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("trpo_copied")
    yield find_algorithm("trpo_copy")
    del sys.modules["trpo_copied"]


def test_a_setting_added_to_a_declaration_is_known_everywhere(copied, capsys):
    assert "slack=0.5" in repr(copied())
    with pytest.raises(ValueError, match="slack must be finite and greater than 0"):
        copied(slack=0.0)

    with pytest.raises(SystemExit):
        cli.main(["train", "trpo_copy", "CartPole-v1", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--slack FLOAT How much slack. (default: 0.5)" in shown

    # Traced: four settings of a sweep are two static groups, told apart by the count alone.
    planned = plan.make_plan(spec.parse(SPEC, "copy.toml"))
    assert [len(group.runs) for group in planned.groups] == [2, 2]
    labels = [setting.label for setting in planned.settings]
    assert labels[0] == "trpo_copy slack=0.1 cg_iters=5"

    assert "| `slack` | `0.5`<br>traced | How much slack. | 0.1 to 1 |" in tables._settings_table(
        "trpo_copy"
    )
    halved = annealed(copied(), 0.5)
    np.testing.assert_allclose([halved.slack, halved.max_kl], [0.25, 0.0025])
    claim = _region.claim_of(Experiment("CartPole-v1", copied()))
    assert (claim.kind, claim.what, claim.stop) == (_region.SET_POINT, "slack", 0.01)
    # And it is the algorithm that it was.
    assert isinstance(copied(), kltrust.updates.NaturalStep)
    assert len(jax.tree.leaves(copied())) == len(jax.tree.leaves(kltrust.trpo())) + 1
