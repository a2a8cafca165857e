"""What the judges refuse: values that can't be, with the value, its row and the remedy."""

import numpy as np
import pytest
from planted import updates

import kltrust

FOUR = {"old": np.zeros((4, 2)), "new": np.tile([0, 0.1], (4, 1)), "actions": [0, 1, 1, 0]}
NORMAL = {"old": (np.zeros((4, 2)), 1.0), "new": (np.ones((4, 2)), 1.0), "actions": np.ones((4, 2))}
STD = np.ones((4, 2))
STD[2, 1] = -0.5


@pytest.mark.parametrize(
    ("of", "changed", "message"),
    [
        (FOUR, {"actions": [0, -1, 1, -1]}, "from 0 to 1, got -1 at row 1, the first of 2.*weight"),
        (FOUR, {"actions": [0.5, 1, 0, 1]}, r"got 0.5 at row 0: .*\(mean, std\)"),
        (FOUR, {"actions": np.array([2, 3, 3, 2])}, "from 0 to 1, got 2 at row 0, the first of 4"),
        (FOUR, {"actions": [1, 2, 2, 1]}, "got 2 at row 1, .* from 1, subtract 1"),
        (FOUR, {"actions": [np.nan, 1, 0, 1]}, "whole numbers from 0 to 1, got nan at row 0"),
        (FOUR, {"actions": ["a", "b", "a", "b"]}, "actions must be an array of numbers"),
        (FOUR, {"actions": np.zeros((4, 1), int)}, "drop the last axis of actions"),
        (FOUR, {"actions": np.zeros((4, 3))}, "takes one whole number for each row"),
        (FOUR, {"old": np.zeros((0, 2)), "actions": np.zeros(0, int)}, "no rows to judge"),
        (FOUR, {"new": np.zeros((4, 3))}, "both need the same actions"),
        (FOUR, {"new": (np.zeros((4, 2)), 1.0)}, "give the same kind"),
        (
            FOUR,
            {"new": {"probs": np.full((4, 2), -0.5)}},
            "new: probs must be at least 0, got -0.5",
        ),
        (
            FOUR,
            {"mask": np.zeros((4, 2)) - 1e9},
            r"mask must be true or false, got -1000000000 at row 0",
        ),
        (FOUR, {"mask": np.ones(4, bool)}, r"mask has the shape \(4,\), it must be \[4, 'A'\]"),
        (FOUR, {"mask": np.ones((4, 3), bool)}, "mask has 3 actions, the policy has 2"),
        (
            FOUR,
            {"terminated": [0, 0.99, 0, 0]},
            "terminated must be true or false, got 0.99 at row 1",
        ),
        (FOUR, {"weight": [1, -1, 1, 1]}, "weight must be finite and at least 0, got -1 at row 1"),
        (FOUR, {"weight": np.zeros(4)}, "weight is 0 at every row"),
        (FOUR, {"gamma": 99}, "gamma must be a number between 0 and 1, got 99"),
        (FOUR, {"gae_lambda": "0.9"}, "gae_lambda must be a number between 0 and 1, got '0.9'"),
        (FOUR, {"claims": 0.02}, "claims must be a dict"),
        (FOUR, {"logged_kl": []}, "logged_kl is empty"),
        (FOUR, {"old": np.zeros((4, 2), int)}, "all as floats.*got an array of int64"),
        (FOUR, {"old": {"logits": [["a", "b"]] * 4}}, "old: logits must be an array of numbers"),
        (FOUR, {"claims": {"bound": -1}}, "the claim bound must be a number of at least 0, got -1"),
        (FOUR, {"claims": {"bond": 1}}, "did you mean bound"),
        (FOUR, {"advantages": list("abcd")}, "advantages must be an array of numbers"),
        (FOUR, {"gradient_norms": ["big"]}, "gradient_norms must be an array of numbers"),
        (
            NORMAL,
            {"new": (np.zeros((4, 2)), STD)},
            "new: std must be greater than 0, got -0.5 at row 2",
        ),
        (
            NORMAL,
            {"old": (np.zeros((4, 2)), 0.0)},
            "old: std must be greater than 0, got 0 .*log_std",
        ),
        (NORMAL, {"old": {"mean": np.zeros((4, 2)), "log_std": -1e4}}, "bound log_std from below"),
        (NORMAL, {"old": (np.zeros((4, 2)), np.ones(3))}, "give one deviation for each dimension"),
        (NORMAL, {"mask": np.ones((4, 2), bool)}, "a mask is for categorical policies"),
        (NORMAL, {"actions": np.ones((4, 3))}, "one number for each dimension"),
    ],
)
def test_an_update_whose_values_cannot_be_is_refused(of, changed, message):
    kltrust.judge_update(**of)
    with pytest.raises(ValueError, match=message):
        kltrust.judge_update(**{**of, **changed})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metrics": {"entropi": np.ones(3)}}, "they have entropi .did you mean entropy"),
        ({"metrics": "runs/first"}, r"kltrust.load\('runs/first'\)"),
        ({"metrics": {"kl": np.ones(3)}, "names": 3}, "names must be a library or a dict"),
        ({"metrics": {"kl": np.ones(3)}, "claims": {"bound": "0.02"}}, "claim bound must be a num"),
        ({"metrics": {"kl": np.ones(3)}, "claims": {"clip": np.nan}}, "claim clip must be a numb"),
    ],
)
def test_metrics_that_cannot_be_judged_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        kltrust.judge(**given)


def test_numbers_alone_are_one_iteration():
    assert kltrust.judge({"kl": 0.0}).names == ["kl_always_zero"]


def test_a_policy_of_nan_is_not_said_to_stand_still():
    said = kltrust.judge_update(**{**FOUR, "new": np.full((4, 2), np.nan)}).names
    assert "arrays_not_finite" in said
    assert "kl_always_zero" not in said


def test_a_refusal_names_the_row_in_time():
    wrong = {"old": np.zeros((3, 2, 4)), "new": np.ones((3, 2, 4))}
    with pytest.raises(ValueError, match=r"got 4 at row \[2, 1\]"):
        kltrust.judge_update(**wrong, actions=np.array([[0, 1], [2, 3], [0, 4]]))


def test_padding_may_hold_anything():
    healthy = updates.discrete()
    weight = np.ones((updates.T, updates.B))
    weight[-3:] = 0
    padded = {**healthy, "actions": healthy["actions"].copy(), "weight": weight}
    padded["actions"][-3:] = -1
    padded["mask"] = healthy["mask"].astype(float)
    padded["mask"][-1] = -7
    with pytest.raises(ValueError, match="give it weight 0"):
        kltrust.judge_update(**{**padded, "weight": None, "mask": None})
    assert kltrust.judge_update(**padded).at_least("warning").names == []


@pytest.mark.parametrize("update", ["trpo", kltrust.trpo, type(kltrust.trpo())])
def test_an_algorithm_that_is_no_value_is_refused(update):
    with pytest.raises(ValueError, match="update and critic are values"):
        kltrust.judge({"kl": np.ones(3)}, update=update)
