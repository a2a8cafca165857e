"""What a judge says: planted faults under their names, and nothing of healthy ones."""

import ast
import json
import re
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import toys
from planted import trainings, updates

import kltrust
from kltrust.experiments.cli.judge import Live
from kltrust.findings import CATALOGUE, NAMES, _scalars
from kltrust.findings._lane import Lane


def found(name):
    return kltrust.judge_update(**updates.arrays(name))


@pytest.mark.parametrize("name", updates.UPDATES)
def test_a_planted_update_is_found_under_its_name(name):
    _, _, finding, _ = updates.UPDATES[name]
    said = found(name)
    assert finding in said.names
    worst = CATALOGUE[finding].severity
    # Not hidden: nothing that is worse, and it is among the lines that are printed.
    assert said.severity == worst or worst == "note"
    assert finding in said.at_least(worst).names[:3]


@pytest.mark.parametrize("of", updates.HEALTHY)
def test_a_healthy_update_is_left_alone(of):
    assert kltrust.judge_update(**updates.HEALTHY[of]()).at_least("warning").names == []


@pytest.mark.parametrize("name", trainings.TABLES)
def test_a_planted_table_is_found_under_its_name(name):
    columns, finding, _ = trainings.TABLES[name]
    assert finding in kltrust.judge(columns, claims=trainings.CLAIMS).names
    # The control: the same columns of a run that has not this fault.
    assert finding not in kltrust.judge({"kl": np.full(40, 0.01)}, claims=trainings.CLAIMS).names


@pytest.mark.parametrize("which", ["fitted", "searched"])
def test_a_planted_training_is_found_under_its_name(which):
    for name, (metrics, claims, finding, _) in trainings.lanes(which).items():
        said = kltrust.judge(metrics, claims=claims)
        if finding is None:
            assert said.at_least("warning").names == [], name
        else:
            severity = CATALOGUE[finding].severity
            assert finding in said.at_least(severity).names[:3], (name, said.names)


def test_seeds_beside_each_other():
    rng = np.random.default_rng(0)
    kl, entropy = rng.random((2, 6, 30))
    kl[1], entropy[1] = kl[0], entropy[0]
    runs = np.repeat(np.arange(6), 30)
    columns = {"run": runs, "seed": runs, "kl": kl.ravel(), "entropy": entropy.ravel()}
    (found,) = (f for f in kltrust.judge(columns) if f.name == "seeds_identical")
    assert (found.severity, found.evidence.count, found.evidence.since) == ("error", 1, 1)
    columns["kl"] = rng.random(180)
    assert "seeds_identical" not in kltrust.judge(columns).names


def test_settings_that_matter_less_than_seeds():
    def lane(label, seed, end):
        columns = {"kl": np.full(10, 0.01), "return_mean": np.linspace(0, end, 10)}
        return Lane(columns, where={"label": label, "env": "e", "seed": seed})

    ends = {"a": (1, 90, 40), "b": (50, 20, 70)}
    lanes = [lane(x, i, end) for x, many in ends.items() for i, end in enumerate(many)]
    finding = CATALOGUE["seeds_differ_more_than_settings"].condition
    assert finding(lanes).detail == "most on e"
    apart = [lane(x, i, end + 500 * (x == "a")) for x, m in ends.items() for i, end in enumerate(m)]
    assert finding(apart) is None


def test_every_finding_is_planted():
    planted = {finding for _, _, finding, _ in updates.UPDATES.values()}
    planted |= {finding for _, finding, _ in trainings.TABLES.values()}
    faults = {**trainings.FITTED_FAULTS, **trainings.SEARCHED_FAULTS}
    planted |= {finding for _, finding, _ in faults.values() if finding}
    beside = {"seeds_identical", "seeds_differ_more_than_settings"}
    # Below.
    rest = {"advantages_scale", "kl_logged_elsewhere", "advantages_not_checked"}
    assert set(CATALOGUE) == planted | beside | rest
    for entry in CATALOGUE.values():
        assert set(entry.explains) <= set(CATALOGUE), entry.name
        for text in (entry.says, entry.means, entry.remedy):
            assert len(text) > 20
            assert text.endswith("."), entry.name


def test_the_scale_of_advantages_and_a_kl_of_another_time():
    healthy = updates.discrete()
    wide = {**healthy, "advantages": 300 * healthy["advantages"], "logged_kl": 5.0}
    assert {"advantages_scale", "kl_logged_elsewhere"} <= set(kltrust.judge_update(**wide).names)


def test_what_is_not_there_is_not_judged():
    assert kltrust.judge({"entropy": np.ones(50)}).names == ["entropy_unmoved"]
    nothing = kltrust.judge({"kl": np.full(3, 0.01)})
    assert (len(nothing), nothing.severity, repr(nothing)) == (0, "", "nothing found")
    assert (
        kltrust.judge_update(np.zeros((8, 2)), np.tile([0, 0.1], (8, 1)), np.zeros(8, int)).names
        == []
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: kltrust.judge({"loss": np.ones(3)}), "no column that is known"),
        (
            lambda: kltrust.judge({"kl": np.ones(3)}, claims={"max": 1}),
            "unknown role in claims 'max'",
        ),
        (
            lambda: kltrust.judge({"kl": np.ones(3)}, names="sb4"),
            "unknown library in names 'sb4'.*stable-b",
        ),
        (lambda: kltrust.judge({"my/kl": np.ones(3)}, names={"kl": "kl"}), "there are my/kl"),
        (
            lambda: kltrust.judge(
                {"my/kl": np.ones(3), "e": np.ones(3)}, names={"my/kl": "kl", "e": "entrpy"}
            ),
            "unknown column that e is mapped to, 'entrpy': did you mean entropy.*kl_max",
        ),
        (lambda: kltrust.judge({"my/kl": np.ones(3)}, names={"my/kl": ["kl"]}), "mapped to, .*kl"),
        (lambda: kltrust.judge_update(**{**updates.discrete(), "advantages": np.ones(3)}), "rows"),
        (lambda: kltrust.judge_update({"mean": np.ones((3, 1))}, {}, np.ones((3, 1))), "no std"),
        (lambda: kltrust.judge_update({"logit": np.ones((3, 2))}, {}, np.ones(3, int)), "takes"),
        (lambda: kltrust.judge_update("old", "new", np.ones(3, int)), "old must be logits"),
    ],
)
def test_what_cannot_be_judged_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rewards": None, "terminated": None}, "arguments missing = 2, rewards, terminated"),
        ({"advantages": None}, "arguments missing = 1, advantages"),
        ("rows", "axes of the rows = 1, needed 2, rows [512] where [T, B] is needed"),
        ("few", "steps = 8, needed 16"),
    ],
)
def test_advantages_that_cannot_be_checked_are_named(change, said):
    healthy = updates.discrete()
    with_rows = {k: x for k, x in healthy.items() if np.shape(x)[:2] == (updates.T, updates.B)}
    if change == "rows":
        change = {k: x.reshape(-1, *x.shape[2:]) for k, x in with_rows.items()}
    elif change == "few":
        change = {k: x[:1] for k, x in with_rows.items()}
    found = kltrust.judge_update(**{**healthy, **change})
    (one,) = (f for f in found if f.name == "advantages_not_checked")
    assert (one.severity, str(one.evidence)) == ("note", said)
    assert "advantages_not_checked" not in kltrust.judge_update(**healthy).names


def test_values_beside_targets_are_for_the_critic_and_need_no_transitions():
    healthy = updates.discrete()
    of = {k: healthy[k] for k in ("old", "new", "actions", "advantages", "values", "targets")}
    assert "advantages_not_checked" not in kltrust.judge_update(**of).names
    del of["targets"]
    assert "advantages_not_checked" in kltrust.judge_update(**of).names


def test_evidence_names_the_number_that_it_compares_with():
    exact = kltrust.judge_update(**{**updates.discrete(), "logged_kl": -0.003})
    assert "logged KL = -0.003, exact KL 0.00" in repr(exact)
    sampled = {**updates.discrete(), "logged_kl": -0.003}
    sampled["new"] = updates.discrete_log_prob(sampled["actions"], sampled["new"])
    assert "logged KL = -0.003, KL by k3 0.00" in repr(kltrust.judge_update(**sampled))
    late = kltrust.judge_update(**updates.arrays("time_limits_are_ends"))
    assert ", right " in late.lines()[0]


def test_an_unknown_severity_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown severity 'eror': did you mean error"):
        kltrust.judge({"kl": np.ones(3)}).at_least("eror")


def test_findings_as_lines_rows_a_table_and_plain_data():
    found = kltrust.judge_update(**updates.arrays("learning_rate_of_zero"))
    (row,) = found.rows()
    assert row["name"] == "new_is_old"
    assert found.lines()[0].startswith("error new_is_old: The new policy is the old one")
    assert CATALOGUE["new_is_old"].remedy in repr(found)
    assert "<td>new_is_old</td>" in found._repr_html_()
    assert json.loads(json.dumps(found.to_dicts()))[0]["evidence"]["quantity"] == (
        "max abs(log ratio)"
    )
    assert found.at_least("error").names == found.names == ["new_is_old"]


def test_the_distributions_of_others_are_read():
    class Normal:
        def __init__(self, loc, scale):
            self.loc, self.scale = loc, scale

    u = updates.gaussian()
    old, new = Normal(*u["old"]), {"mean": u["new"][0], "log_std": np.log(u["new"][1])}
    same = {**u, "old": old, "new": new, "actions": jnp.asarray(u["actions"])}
    assert kltrust.judge_update(**same).names == kltrust.judge_update(**u).names
    d = updates.discrete()
    masses = {"probs": updates.softmax(d["old"])}
    sampled = updates.discrete_log_prob(d["actions"], d["new"])
    assert kltrust.judge_update(masses, d["new"], d["actions"]).names == []
    assert kltrust.judge_update(d["log_probs"], sampled, d["actions"]).names == []


def test_a_folder_is_judged_by_the_command_line(tmp_path, said):
    def metrics(group, first):
        length, lanes = group.chunk_length, len(group.runs)
        kl = np.full((lanes, length), 0.01)
        return {"kl": kl, "extra": {"kl_stopped": np.ones_like(kl)}, "nonfinite_update": 0 * kl}

    planned = toys.toy_plan(toys.MADE + '[[experiments]]\nalgorithms = "ppo_clip"\n', width=3)
    folder = toys.write(tmp_path / "made", planned, metrics, lambda run, done: 1.0)
    status, out, _ = said("judge", folder)
    assert (status, "nothing found" in out) == (0, True)

    def broken(group, first):
        return {**metrics(group, first), "nonfinite_update": np.ones((len(group.runs), 2))}

    folder = toys.write(tmp_path / "broken", planned, broken, lambda run, done: 1.0)
    status, out, _ = said("judge", folder)
    assert status == 2
    assert "error parameters_not_finite" in out
    assert "(6 of 6 runs)" in out
    assert said("judge", folder, "--fail", "never")[0] == 0
    told = json.loads(said("judge", folder, "--json")[1])
    assert told["runs"] == 6
    assert told["findings"][0]["env"] == "CartPole-v1"
    assert said("judge")[0] == 1


def test_the_judge_beside_a_run_tells_each_finding_once(tmp_path):
    def metrics(group, first):
        ones = np.ones((len(group.runs), group.chunk_length))
        return {"kl": 0.01 * ones, "nonfinite_update": ones}

    planned = toys.toy_plan(toys.MADE + '[[experiments]]\nalgorithms = "ppo_clip"\n', width=3)
    folder = toys.write(tmp_path / "broken", planned, metrics, lambda run, done: 1.0)
    # It begins; a call too early; a look from 11 to 12; too early, as that took a second; a look.
    seconds = iter([0.0, 9.0, 11.0, 12.0, 100.0, 113.0, 114.0])
    live = Live(folder, lambda: next(seconds))
    assert live.update() == []
    (line,) = live.update()
    assert line.startswith("error parameters_not_finite: ")
    assert live.update() == []
    assert live.update() == []
    assert next(seconds, None) is None


def test_a_hundred_runs_take_about_a_second():
    rng = np.random.default_rng(0)
    runs = np.repeat(np.arange(100), 50)
    names = ("kl", "entropy", "explained_variance", "value_loss", "clip_fraction", "max_ratio")
    columns = {"run": runs, **{name: rng.random(5000) for name in names}}
    start = time.process_time()
    assert kltrust.judge(columns).of == 100
    assert time.process_time() - start < 4  # of a loaded machine


TRANSITIONS = ("rewards", "values", "next_values", "terminated", "truncated", "advantages")


def padded(u, steps, *, after_ends):
    """An update with ``steps`` of padding, which holds NaN or flags, at the end of each lane.

    Or after the first end of an episode, as where an environment takes a step to reset.
    """
    lanes = range(updates.B)
    ends = (u["terminated"] | u["truncated"]).argmax(axis=0) + 1
    at = ends if after_ends else np.full(updates.B, updates.T)
    weight = np.stack([np.insert(np.ones(updates.T), [at[b]] * steps, 0) for b in lanes], axis=1)
    changed = {"weight": weight}
    for name, x in u.items():
        if np.shape(x)[:2] == (updates.T, updates.B):
            fill = np.nan if name in TRANSITIONS and x.dtype == float else 1
            moved = [np.insert(x[:, b], [at[b]] * steps, fill, axis=0) for b in lanes]
            changed[name] = np.stack(moved, axis=1)
    return {**u, **changed}


@pytest.mark.parametrize("after_ends", [True, False])
def test_padding_takes_no_part_in_the_check_of_advantages(after_ends):
    healthy = updates.discrete()
    last = (np.arange(updates.T) == updates.T - 1)[:, None]
    healthy = {**healthy, "truncated": healthy["truncated"] | (last & ~healthy["terminated"])}
    assert kltrust.judge_update(**padded(healthy, 2, after_ends=after_ends)).names == []
    for change in (updates.time_limits_are_ends, updates.discount_that_does_not_arrive):
        faulty, name = {**healthy, **change(healthy, None)}, updates.UPDATES[change.__name__][2]
        whole = {x.name: x for x in kltrust.judge_update(**faulty)}
        found = {
            x.name: x for x in kltrust.judge_update(**padded(faulty, 2, after_ends=after_ends))
        }
        assert set(found) == set(whole)
        assert found[name].evidence[:3] == pytest.approx(whole[name].evidence[:3])
        assert found[name].evidence.of == whole[name].evidence.of


def test_padding_within_an_episode_is_named():
    healthy = updates.discrete()
    weight = np.ones((updates.T, updates.B))
    on = ~(healthy["terminated"] | healthy["truncated"])[:-2]
    weight[1 + int(np.argmax(on[:, 3])), 3] = 0
    found = {x.name: x for x in kltrust.judge_update(**{**healthy, "weight": weight})}
    assert "steps of weight 0 follow them within" in str(found["advantages_not_checked"].evidence)
    assert "advantages_not_of_transitions" not in found


def test_names_may_map_to_the_columns_that_conditions_read():
    reads = set()
    for file in Path(_scalars.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            match node:
                case ast.Subscript(value=ast.Name("lane" | "self"), slice=ast.Constant(str(name))):
                    reads.add(name)
                case ast.Call(
                    func=ast.Attribute(ast.Name("lane"), "when" | "typical"),
                    args=[ast.Constant(str(name)), *_],
                ) if name.isidentifier():  # others are expressions
                    reads.add(name)
                case ast.Constant(str(name)) if re.fullmatch(r"(extra|audit)\.[a-z_.]+", name):
                    reads.add(name)
    assert reads == _scalars.READ


@pytest.mark.parametrize("library", NAMES)
def test_the_names_of_other_libraries(library):
    logged = {name: np.ones(40) for name in NAMES[library]}
    assert kltrust.judge(logged, names=library).of == 1
    assert kltrust.judge(logged, names={**NAMES[library], "a seed": "seed"}).of == 1
    still = next((n for n, to in NAMES[library].items() if to == "kl"), None)
    said = kltrust.judge({**logged, still: np.zeros(40)}, names=library).names
    assert "kl_always_zero" in said
