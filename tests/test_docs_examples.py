"""The examples of the documentation run as printed."""

import re
import shlex
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

import kltrust.experiments.watch
from kltrust.experiments import cli
from kltrust.experiments.config import spec
from kltrust.experiments.jobs import plan

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        "index",
        "howto/algorithm",
        "howto/environment",
        "howto/masks",
        "howto/network",
        "howto/porting",
        "howto/recurrent",
        "howto/resume",
    ],
)
def test_the_examples_run(page):
    """All Python of a page, in one go, as printed; what it registers is forgotten."""
    text = (ROOT / f"docs/{page}.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    names = {}
    exec(compile("\n".join(blocks), f"{page}.md", "exec"), names)
    if "metrics" in names:
        assert jnp.isfinite(names["metrics"].kl).all()


TOY = """
[learner]
num_envs = 4
num_steps = 16
[critic]
num_epochs = 1
num_minibatches = 1
[network]
hidden = [8]
[budget]
total_steps = 64
num_evals = 1
eval_episodes = 1
"""
SMALL = "--num-envs 4 --num-steps 16 --num-minibatches 1 --critic.num-minibatches 1 --hidden 8"
SMALL += " --total-steps 64 --num-evals 1 --eval-episodes 1"


@pytest.mark.slow
def test_the_quick_start_runs(tmp_path, monkeypatch, capsys):
    """Every block of the page, in its order, in a new folder; budgets are made small."""
    text = (ROOT / "docs/quickstart.md").read_text()
    fenced = re.compile(r'^```(\w+)(?: title="([^"\n]*)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
    blocks = fenced.findall(text)
    assert len(blocks) == text.count("```") / 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(kltrust.experiments.watch.Server, "serve_forever", interrupted)
    printed = {}
    for i, (language, title, block) in enumerate(blocks):
        if title:
            small = block.replace("[budget]\ntotal_steps = 100_000\n", TOY)
            assert (small != block) is (language == "toml")
            (tmp_path / title).write_text(small)
        elif language == "python":
            exec(compile(block, "quickstart.md", "exec"), {})
        elif language == "bash":
            for line in block.splitlines():
                kltrust_, *command = shlex.split(line, comments=True)
                assert kltrust_ == "kltrust"
                small = SMALL.split() if command[0] == "train" else []
                assert cli.main([*command, *small]) == 0, line
        else:
            assert block == printed[i - 1]
        printed[i] = capsys.readouterr().out
    sys.modules.pop("my_drift")
    assert "watching runs/tonight" in "".join(printed.values())
    assert len(kltrust.load("runs/tonight").runs) == 40
    assert set(kltrust.load("runs/idea").runs["update.strength"]) == {2.0}


def interrupted(self):
    raise KeyboardInterrupt


@pytest.mark.parametrize(("page", "settings"), [("sweep", 2 * (3 + 8)), ("search", 64)])
def test_the_example_of_a_sweep_is_one(page, settings, tmp_path):
    text = (ROOT / f"docs/howto/{page}.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "bounds.toml").write_text(example)
    sweep = spec.load(tmp_path / "bounds.toml")
    plan.check_spec(sweep)
    assert len(sweep.settings) == settings
    assert (sweep.search is None) == (page == "sweep")
