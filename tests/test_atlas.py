"""The atlas: the search for a size, what an interruption leaves, and the tables."""

import dataclasses
import json

import atlas
import numpy as np
import pytest
import toys
from common import SPECS, load_spec
from recorded import atlas as tables

SPEC = f"""{toys.ONE_GROUP}experiments = [{{ algorithms = "trpo" }}]
"""


@pytest.fixture
def setting(tmp_path):
    (tmp_path / "toy.toml").write_text(SPEC)
    return load_spec(tmp_path / "toy.toml").settings[0]


class Known:
    """A runner whose KL is a known function of the size."""

    iterations = 8

    def __init__(self, kl_of, fails_at=None):
        self.kl_of, self.calls, self.fails_at = kl_of, [], fails_at

    def run(self, sizes, seeds, iterations, *, evaluate):
        if len(self.calls) == self.fails_at:
            raise InterruptedError
        self.calls.append((tuple(sorted(set(seeds))), iterations))
        kl = np.array([[self.kl_of(s, iterations)] * iterations for s in sizes])
        return {"kl": kl, "iteration": np.full(len(sizes), iterations)}


@pytest.mark.parametrize(
    ("kl_of", "size", "crossed", "rounds"),
    [
        (lambda s, _: 0.01 * (s / 3) ** 2, 3, True, [4, 8]),
        (lambda s, _: 0.01 * (s / 300) ** 2, 300, True, [4, 4, 8]),
        (lambda s, _: 0.01 * (s * 300) ** 2, 1 / 300, True, [4, 4, 8]),
        # The whole budget has another KL than half of it: the ladder moves after it.
        (lambda s, n: 0.01 * (s / (3 if n == 4 else 9)) ** 2, 9, True, [4, 8, 8]),
        # It saturates: the size that comes nearest.
        (lambda s, _: 0.002 * min(s, 4), None, False, [4, 4, 8]),
        # NaN and infinity are too large.
        (lambda s, _: 0.01 * s**2 if s < 2 else np.inf, 1, True, [4, 8]),
    ],
)
def test_the_size_is_where_the_median_is_the_target(
    kl_of, size, crossed, rounds, setting, tmp_path
):
    found, runner = atlas.Pair(setting, (3, 5), tmp_path, target_kl=0.01), Known(kl_of)
    found.search(runner, 8)
    assert [n for _, n in runner.calls] == rounds
    assert {seeds for seeds, _ in runner.calls} == {atlas.TUNING_SEEDS}
    assert found.done["chosen"]["crossed"] == crossed
    if size is not None:
        np.testing.assert_allclose(found.done["chosen"]["size"], size, rtol=1e-3)
    else:
        assert found.done["chosen"]["size"] >= 4


def test_the_crossing_nearest_to_the_default():
    sizes = [0.25, 1, 4, 16, 64]
    assert atlas.crossing(sizes, [0.001, 0.01, 0.1, 0.001, 1.0], 0.01) == 1
    assert atlas.crossing(sizes, [1, 1, 1, 1, 1], 0.01) is None
    # A KL that falls with the size crosses nowhere: it is no size.
    assert atlas.crossing(sizes, [1, 0.1, 0.001, 1e-4, 1e-5], 0.01) is None


def test_an_interrupted_search_goes_on(setting, tmp_path):
    whole = atlas.Pair(setting, (3, 5), tmp_path / "whole", target_kl=0.01)
    whole.search(Known(lambda s, _: 0.01 * (s / 3) ** 2), 8)
    cut = atlas.Pair(setting, (3, 5), tmp_path / "cut", target_kl=0.01)
    with pytest.raises(InterruptedError):
        cut.search(Known(lambda s, _: 0.01 * (s / 3) ** 2, fails_at=1), 8)
    again = atlas.Pair(setting, (3, 5), tmp_path / "cut", target_kl=0.01)
    runner = Known(lambda s, _: 0.01 * (s / 3) ** 2)
    again.search(runner, 8)
    assert len(runner.calls) == 1
    assert again.done == whole.done
    with pytest.raises(ValueError, match="other settings"):
        atlas.Pair(setting, (3, 5), tmp_path / "cut", target_kl=0.02)


def test_every_update_has_a_size():
    """The KL grows with it, and every specification can be scaled far both ways."""
    for name in ("atlas", "atlas_minatar", "atlas_physics"):
        found = load_spec(SPECS / f"{name}.toml")
        assert len({s.label for s in found.settings}) >= 18
        for s in found.settings:
            assert set(atlas.SIZES[s.label]) <= set(vars(s.experiment.update))
            for size in (2.0**-8, 2.0**14):
                update = atlas.sized(s.experiment.update, s.label, np.full(2, size))
                for setting in atlas.SIZES[s.label]:
                    assert np.all(np.isfinite(getattr(update, setting)))
                    assert np.all(getattr(update, setting) > 0)
    assert load_spec(SPECS / "atlas_shipped.toml").settings


def test_a_small_atlas_and_its_tables(tmp_path):
    (tmp_path / "toy.toml").write_text(SPEC)
    options = atlas.Options(tmp_path / "toy.toml", folder=tmp_path / "runs", out=tmp_path)
    atlas.main(options)
    result = json.loads((tmp_path / "toy.json").read_text())
    (row,) = result["rows"]
    assert (result["pairs"], row["label"], row["steps"]) == (1, "trpo", 256)
    # The quadratic model is good: the realised KL is near the bound that was chosen.
    assert row["matched"]["kl_max"] <= row["values"]["max_kl"] * 1.01
    assert row["default"]["kl_max"] <= 0.01 * (1 + 1e-5)
    assert len(row["matched"]["scores"]) == len(row["matched"]["training"]) == 2
    # Nothing is run twice, and the record is the same.
    atlas.main(dataclasses.replace(options, run=False))
    again = json.loads((tmp_path / "toy.json").read_text())
    assert {**again, "origin": None} == {**result, "origin": None}

    row["matched"] |= {"scores": [float(x) for x in range(10)], "training": [1.0] * 10}
    better = {**row, "label": "spo", "matched": dict(row["matched"], scores=[900.0] * 10)}
    both = result | {"rows": [{**row, "label": "ppo_clip"}, better], "target_kl": 1.0}
    line = next(x for x in tables.atlas({"": both}) if "`spo`" in x)
    assert "†" in line
    assert "1.00 [1.00, 1.00]" in line
    claim = next(x for x in tables.atlas_claims({"": both}) if "`spo`" in x)
    assert "| 0 | - | - |" in claim  # the target was missed
    near = both | {"target_kl": row["matched"]["kl_median"]}
    claim = next(x for x in tables.atlas_claims({"": near}) if "`spo`" in x)
    assert "| 1 | better, 1.00 [1.00, 1.00] | not shown, 0.50" in claim
    *_, said = tables.atlas_claims({"": near})
    assert "better by the score: `spo`; better by the training's return: none; worse" in said
    other = {**near, "rows": [{**row, "env": "Acrobot-v1"} for row in near["rows"]]}
    claim = next(x for x in tables.atlas_claims({"": near, "_physics": other}) if "`spo`" in x)
    assert "| 2 | better, 1.00 [1.00, 1.00] |" in claim
    assert "### Acrobot-v1" in tables.atlas({"": near, "_physics": other})
    assert "Not yet measured" in tables.atlas({})[0]


def test_verdicts_on_updates_that_are_alike():
    """Ten seeds on a task. Bootstrap intervals of this level excluded 0.5 in 4 of 20 families."""
    draw = np.random.default_rng(0).standard_normal
    families = [[draw((2, 1, 10)) for _ in range(20)] for _ in range(40)]
    wrong = [any(tables.verdict(*both, 0.05 / 20) != "not shown" for both in of) for of in families]
    assert sum(wrong) <= 6  # with a chance of 1 %
    for shift, said in ((3, "better"), (-3, "worse"), (0, "not shown")):
        assert tables.verdict(draw((2, 10)) + shift, draw((2, 10)), 0.05 / 20) == said


def test_the_table_of_updates_as_they_ship():
    row = {"env": "CartPole-v1", "median": 0.00321, "scores": [1.0, 1.0], "broken": 0}
    rows = [{**row, "label": "spo"}, {**row, "label": "ppo_clip", "env": "Acrobot-v1"}]
    versions = {"packages": {"jax": "1", "gymnax": "2"}, "cpu_count": 2, "device_kind": "cpu"}
    result = {"rows": rows, "spec": "x.toml", "seeds": [0, 1], "steps": 64, "versions": versions}
    header, _, first, second, *_ = tables.atlas_shipped({"": result | {"random": ["CartPole-v1"]}})
    assert header == "| update | Acrobot-v1 | CartPole-v1 |"
    assert first == "| `ppo_clip` | 1.0 [1.0, 1.0], 0.0032 | - |"
    assert second == "| `spo` | - | 1.0 [1.0, 1.0], 0.0032 |"
    assert "Not yet measured" in tables.atlas_shipped({})[0]
