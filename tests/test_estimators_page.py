"""docs/estimators.md is what its command makes, and says what the theory says."""

import enumerated
import estimators
import numpy as np
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


TO_NEW, TO_OLD = "KL(old‖new)", "KL(new‖old)"
TO_REF, TO_PI = "KL(pi‖ref)", "KL(ref‖pi)"


@pytest.mark.parametrize(
    ("table", "estimator", "value", "loss", "reward"),
    [
        ("a", "`kl_k1`", TO_NEW, TO_NEW, f"−{TO_OLD}"),
        ("a", "`kl_k2`", None, None, None),
        ("a", "`kl_k3`", TO_NEW, TO_NEW, None),
        ("a", "`kl_control_variate`, best c", TO_NEW, TO_NEW, None),
        ("a", "`kl_reverse_k1`", TO_OLD, TO_OLD, None),
        ("a", "`kl_reverse_k3`", TO_OLD, TO_OLD, None),
        ("a", "exact (`kl_divergence`)", TO_NEW, TO_NEW, "0"),
        ("b", "`kl_k1`", TO_REF, "0", TO_REF),
        ("b", "`kl_k2`", None, TO_REF, None),
        ("b", "`kl_k3`", TO_REF, TO_PI, None),
        ("b", "`ratio_weighted` `kl_k1`", TO_REF, TO_REF, TO_REF),
        ("b", "`ratio_weighted` `kl_k3`", TO_REF, TO_REF, None),
        ("b", "exact (`kl_divergence`)", TO_REF, TO_REF, "0"),
        ("off-policy", "`kl_k1`", None, None, None),
        ("off-policy", "`kl_k2`", None, None, None),
        ("off-policy", "`kl_k3`", None, None, None),
        ("off-policy", "`ratio_weighted` `kl_k1`", TO_REF, TO_REF, TO_REF),
        ("off-policy", "`ratio_weighted` `kl_k3`", TO_REF, TO_REF, None),
    ],
)
def test_the_table_says_what_the_theory_says(made, table, estimator, value, loss, reward):
    found = rows(made, table)[estimator]
    for cell, expected in ((found[0], value), (found[3], loss), (found[5], reward)):
        if expected is None:
            assert cell.startswith("of no KL")
        else:
            assert cell == expected


def test_k2_and_k3_as_a_reward_let_go_near_ref():
    """Their pull is of second order in the distance, the right one of first."""
    with estimators.jax.enable_x64(True):
        pulls = []
        for distance in (1e-2, 1e-3):
            pi = estimators.CENTRE + distance * estimators.DIRECTION
            found = enumerated.setting_b(pi, estimators.CENTRE)
            right = np.linalg.norm(found["`kl_k1`"].reward.gradient)
            pulls.append(
                [
                    np.linalg.norm(found[k].reward.gradient) / right
                    for k in ("`kl_k2`", "`kl_k3`", "`ratio_weighted` `kl_k1`")
                ]
            )
    np.testing.assert_allclose(np.log10(np.divide(*pulls)), [1, 1, 0], atol=0.05)


def test_the_gaussian_figures_are_checked_against_the_formulas(made, monkeypatch):
    assert rows(made, "gaussian")["`kl_k1`"][-1] == "20, 4, 2"
    wrong = enumerated.gaussian_closed_forms
    monkeypatch.setattr(estimators, "gaussian_closed_forms", lambda mu: wrong(1.01 * mu))
    with estimators.jax.enable_x64(True), pytest.raises(AssertionError, match="tolerance"):
        estimators.gaussian_table()


@pytest.mark.parametrize(
    ("loss", "whole"),
    [
        ("`token_kl`, `kl_k2`", False),
        ("`token_kl`, `kl_k3`", False),
        ("`token_kl_exact`", False),
        ("`sequence_kl`", True),
        ("`sequence_kl_exact`", True),
    ],
)
def test_only_sequence_losses_have_the_whole_gradient(made, loss, whole):
    found = rows(made, "sequences")[loss]
    for cell in (found[2], found[5]):
        assert (cell == "KL of the sequences") == whole
