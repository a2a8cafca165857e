"""The README's examples run as printed."""

import re
from pathlib import Path

import pytest

from kltrust.algorithms import algorithm_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(heading):
    section = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def run(code):
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_ten_lines_that_import_a_loss():
    (code,) = blocks("Ten lines that import a loss")
    names = run(code)
    assert names["grad"].shape == names["logits"].shape
    assert float(abs(names["grad"]).max()) > 0


def test_the_number_of_algorithms():
    assert len(algorithm_names()) == 21
    assert "twenty-one algorithms" in README


def test_every_link_leads_to_a_file():
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_ten_lines_that_train(capsys):
    (code,) = blocks("Ten lines that train")
    run(code)
    printed = capsys.readouterr().out
    returns, kls = re.findall(r"\[([^\]]*)\]", printed)
    assert len(returns.split(",")) == 3
    bounds = (0.001, 0.01, 0.1)
    for kl, bound in zip(map(float, kls.split(",")), bounds, strict=True):
        assert 0.1 * bound < kl <= bound * (1 + 1e-5)
