"""docs/estimators.md is what its command makes, and says what the theory says."""

import enumerated
import estimators
import pytest


@pytest.fixture(scope="module")
def made():
    return estimators.tables()


def rows(made, name):
    """A table as {first cell: the others}."""
    lines = [line for line in made[name] if line.startswith("| `") or line.startswith("| exact")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


def test_the_page_is_what_the_command_makes(made, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(estimators, "tables", lambda: made)
    assert estimators.main(check=True) == 0, "run python benchmarks/estimators.py"
    # The control: a figure that was changed is found, and written anew.
    page = estimators.PAGE.read_text("utf-8")
    other = tmp_path / "estimators.md"
    other.write_text(page.replace("0.0028", "0.0029"), "utf-8")
    monkeypatch.setattr(estimators, "PAGE", other)
    assert estimators.main(check=True) == 1
    assert estimators.main() == 0
    assert other.read_text("utf-8") == page
    capsys.readouterr()


def test_the_gaussian_figures_are_checked_against_the_formulas(made, monkeypatch):
    assert rows(made, "gaussian")["`kl_k1`"][-1] == "20, 4, 2"
    wrong = enumerated.gaussian_closed_forms
    monkeypatch.setattr(estimators, "gaussian_closed_forms", lambda mu: wrong(1.01 * mu))
    with estimators.jax.enable_x64(True), pytest.raises(AssertionError, match="tolerance"):
        estimators.gaussian_table()
