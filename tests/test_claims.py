"""The docs' sentences about what was measured say what a record says, whatever it is."""

import pytest
from recorded import claims

FAULT = "it ended with 130"


def text(lines):
    return " ".join(lines)


def of(**columns):
    """Rows from columns."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([90, 95, 60], "Every seed ends closer to the median of its algorithm than to random"),
        ([90, 95, 40], "random actions than to the median of their algorithm: 1 of `trpo` on E."),
    ],
)
def test_seeds_that_stay_behind(scores, said):
    random = {"rows": [{"env": "E", "mean": 0.0}]}
    learning = {"trpo-E": {"env": "E", "algorithm": "trpo", "scores": scores}}
    assert said in text(claims.left_behind(learning, random))


@pytest.mark.parametrize(("above", "said"), [(0.0, "none of 10"), (0.2, "2 of 10")])
def test_who_leaves_a_region(above, said):
    rows = of(
        label=["trpo max_kl=0.1", "ppo_clip clip_eps=0.2", "ppo_penalty adaptive target_kl=0.1"],
        env=["Pendulum-v1"] * 3,
        scores=[[-100.0, -200.0]] * 3,
        updates=[10] * 3,
        median=[0.08, 0.05, 0.1],
        largest=[0.1, 0.4, 0.7],
        above=[above, 0.3, 0.5],
        claim=[{"value": 0.1}] * 3,
    )
    found = text(claims.regions({"rows": rows}))
    assert f"TRPO left its bound in {said} updates." in found
    assert (
        "0.50 times what its `clip_eps` suggests; the largest, on Pendulum-v1, is 4 times" in found
    )
    assert "exceeds it in 50% of the updates, and by a factor of up to 7." in found
    assert "trpo max_kl=0.1 -150.0" in found


def test_who_passes_published_scores():
    rows = of(
        env=["Breakout-MinAtar", "Asterix-MinAtar", "Seaquest-MinAtar"],
        algorithm=["trpo"] * 3,
        steps=[1000] * 3,
        training=[[27.0, 29.0], [16.0, 17.0], [2.0, 8.0]],
    )
    found = text(claims.minatar_passed({"rows": rows}))
    assert "`trpo` passes them with every seed on Asterix and with 1 of 2 seeds on Break" in found
    assert (
        "The seeds differ most on Seaquest: `trpo` reaches 2.0 to 8.0 after 1,000 steps." in found
    )


def test_what_a_memory_adds():
    rows = of(algorithm=["trpo", "trpo"], cell=["none", "gru"], scores=[[1.0, 2.0], [3.0, 2.5]])
    assert "by +1.25 on E." in text(claims.remembered({"E": {"rows": rows}}))


@pytest.mark.parametrize(("best", "overlap"), [(3.0, True), (7.0, False)])
def test_other_libraries(best, overlap):
    rows = of(
        env=["brax/hopper"] * 2,
        algorithm=["ppo_clip", "brax_ppo"],
        scores=[[0.5, 4.0], [best, 9.0]],
        random=[{"mean": 1.0}] * 2,
    )
    found = text(claims.others({"rows": rows}))
    assert "the highest mean is that of brax's PPO on `brax/hopper`" in found
    assert ("overlaps that of `ppo_clip`" in found) == overlap
    assert "no better than random actions: `ppo_clip` on `brax/hopper` (1 of 2)." in found


@pytest.mark.parametrize(("faults", "said"), [([], "No run lost"), ([FAULT], "fault: 1 of sweep")])
def test_what_kills_left(faults, said):
    assert said in text(claims.lost({"jobs": {"sweep": {"faults": faults}}}))


def test_what_the_laboratory_found():
    clip = of(clip_eps=[0.1, 0.3], left_by_the_mean=[0.02, 0.0], left_by_some_state=[1.0, 0.25])
    found = text(claims.clip_leaves({"rows": clip}))
    assert "in at most 2% of the updates" in found
    assert "in 100% of the updates with an eps of 0.1, and in 25% with 0.3." in found
    search = of(damping=[0.0, 0.1, 0.0], needed=[0.5, 0.0, 0.7])
    found = text(claims.refused({"rows": search}))
    assert "it refuses 0% with a damping of 0.1 and 50% to 70% with a damping of 0." in found
    ratios = {"kl": {"thirds": [[1.0, 0, 9], [1.2, 0, 9]]}, "kl damped": {"thirds": [[0.5, 0, 9]]}}
    model = of(algorithm=["trpo"], env=["E"], **{"realised over predicted": [ratios]})
    assert "1.00 to 1.20 for `trpo` on E. Over" in text(claims.predicted({"rows": model}))
    hurt = of(
        start=["from a random policy"] * 3,
        algorithm=["trpo"] * 3,
        samples=[32, 32, "exact"],
        max_kl=[0.3, 0.1, 0.1],
        hurt=[0.4, 0.2, 0.01],
    )
    found = text(claims.hurts({"rows": hurt}))
    assert "20% with a `max_kl` of 0.1 and 40% with a `max_kl` of 0.3" in found
    assert found.endswith("With exact advantages 1% of them hurt at most.")


@pytest.mark.parametrize(
    ("lowered", "said"), [(0.0, "falls under none."), (0.5, "falls under `spo`.")]
)
def test_which_updates_are_monotone(lowered, said):
    rows = of(
        table=["a row for each state"] * 3 + ["states share rows"] * 3,
        update=["spo", "fixpo", "trpl"] * 2,
        lowered=[lowered, 0, 0, 0.25, 0, 0.1],
        bound=[0.2] * 6,
        ratio_change=[0.1] * 6,
        kl_max=[0.5] * 6,
        projected_max=[0.2] * 6,
    )
    found = text(claims.monotone({"rows": rows}))
    assert f"J {said}" in found
    assert "it never falls under `fixpo`, and most often under `spo` (25.0% of the" in found
    assert (
        "under `spo` is at most 0.50, the largest KL of a state under `fixpo` is at most 2.5"
        in found
    )


def test_what_searches_find():
    rows = of(
        search=["halving", "racing"] * 2,
        told_by_first=[0.1, 0.1, 0.7, 0.7],
        same=[0, 9, 2, 10],
        of=[10] * 4,
        steps=[0.2, 0.5, 0.25, 0.75],
        lacks=[[0.5], [0.1], [0.3], [0.1]],
    )
    found = text(claims.searched({"rows": rows}))
    assert "a correlation of 0.10 to 0.70." in found
    assert "halving found the same best in 2 of 20 searches with 20% to 25% of the st" in found
    assert "racing found the same best in 19 of 20" in found
    assert found.endswith("and lacked 10% on average.")
    gains = of(steps_of_a_run=[1000, 4000], gain=[[-2.0, -3.0, -1.0], [0.5, -1.0, 2.0]])
    found = text(claims.populations({"rows": gains}))
    assert "with 1,000 steps a run it is worse, and with 4,000 steps a run it is not shown" in found


@pytest.mark.parametrize(("ratio", "missed"), [(1.0, True), (9.0, False)])
def test_aims_of_speed(ratio, missed):
    against = {"kltrust": {"purejaxrl": [ratio], "sb3-contrib": [ratio]}}
    cases = of(
        env=["Breakout-MinAtar", "CartPole-v1"],
        num_envs=[64, 4],
        seeds=[1, 32],
        **{"times as fast": [against] * 2},
    )
    phases = {"gradients alone": [3.0], "rollout": [2.0], "iteration": [10.0]}
    phases = {"cases": {"Breakout-MinAtar, 64 x 128": phases}}
    found = text(claims.aims({"cases": cases}, {"times as fast": against}, phases))
    assert ("1.00 times as fast where 1.3 is the aim (gradients and rollout" in found) == missed
    assert ("No aim is missed." in found) != missed
    assert "take 30% of an iteration" in text(claims.gradients(phases))


def test_aims_of_compiled_programs():
    rows = of(
        of=["kltrust"] * 3,
        target=["h100", "v5e", "v5e"],
        num_envs=[4096, 64, 4096],
        chunk=[{"kernels": 1000}, {"cycles": 4e6}, {"cycles": 4e6}],
    )
    memory = [{"cell": "gru", "chunk": {"kernels": 9000}}]
    found = text(claims.kernels({"rows": rows}, {"rows": memory}))
    assert "missed: 1,000 kernels at 4,096 x 16 on an H100 (aim 900) and 4 million cycles" in found
    assert "gru" not in found
