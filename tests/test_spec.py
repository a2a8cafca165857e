"""Specifications of sweeps: what they resolve into, and errors that name the line."""

import textwrap
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from toys import tiny

from kltrust.environments import adapters
from kltrust.experiments.cli import tables
from kltrust.experiments.config import fairness, spec
from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.config.presets import preset
from kltrust.experiments.engine import memory
from kltrust.experiments.jobs import plan
from kltrust.settings import INF

# memory.toml names an environment that its benchmark registers: see test_laboratory.py.
SPECS = sorted(
    path
    for path in (Path(__file__).parent.parent / "benchmarks" / "specs").glob("*.toml")
    if path.stem != "memory"
)

TOY = """
[sweep]
name = "toy"
seeds = 2
envs = ["CartPole-v1", "Pendulum-v1"]
preset = "none"

[learner]
num_envs = 4
num_steps = 16

[critic]
num_epochs = 1
num_minibatches = 2

[budget]
total_steps = 192
"""


def parse(text, head=TOY):
    return spec.parse(head + textwrap.dedent(text), "toy.toml")


def labels(parsed):
    return [s.label for s in parsed.settings if s.experiment.env == "CartPole-v1"]


def values(parsed, section, name):
    chosen = [s for s in parsed.settings if s.experiment.env == "CartPole-v1"]
    return [getattr(getattr(s.experiment, section), name) for s in chosen]


def test_a_product_of_algorithms_and_environments():
    parsed = parse('[[experiments]]\nalgorithms = ["trpo", "npg"]')
    pairs = [(s.experiment.algorithm, s.experiment.env) for s in parsed.settings]
    envs = ("CartPole-v1", "Pendulum-v1")
    assert pairs == [(a, e) for a in ("trpo", "npg") for e in envs]
    assert parsed.name == "toy"
    assert parsed.seeds == (0, 1)
    expected = Experiment.from_dict(
        {
            "algorithm": "trpo",
            "env": "CartPole-v1",
            "learner": {"num_envs": 4, "num_steps": 16},
            "critic": {"num_epochs": 1, "num_minibatches": 2},
            "budget": {"total_steps": 192},
        }
    )
    assert parsed.settings[0].experiment == expected


def test_what_is_in_sweep_alone_is_one_experiment():
    parsed = spec.parse(
        '[sweep]\nalgorithms = "trpo"\nenvs = "CartPole-v1"\nseeds = [7, 3]', "x.toml"
    )
    assert parsed.name == "x"
    assert parsed.seeds == (7, 3)
    (only,) = parsed.settings
    assert only.experiment == preset("trpo", "CartPole-v1")


def test_a_grid_is_a_product_and_zip_goes_row_by_row():
    parsed = parse("""
        [[experiments]]
        algorithms = "ppo_clip"
        update.num_minibatches = 2
        grid = { clip_eps = [0.1, 0.2], "learner.gamma" = [0.9, 0.99] }
        zip.update.learning_rate = [1e-3, 1e-4, 1e-5]
        zip.entropy_coef = [0, 0.01, 0.02]
    """)
    triples = zip(
        values(parsed, "update", "clip_eps"),
        values(parsed, "learner", "gamma"),
        values(parsed, "update", "learning_rate"),
        values(parsed, "update", "entropy_coef"),
        strict=True,
    )
    rows = ((1e-3, 0.0), (1e-4, 0.01), (1e-5, 0.02))
    assert list(triples) == [
        (clip, gamma, *row) for clip in (0.1, 0.2) for gamma in (0.9, 0.99) for row in rows
    ]
    assert labels(parsed)[0] == "ppo_clip clip_eps=0.1 gamma=0.9 learning_rate=0.001 entropy_coef=0"
    assert len(set(labels(parsed))) == 12
    # One compilation serves them all on an environment: every swept value is a float.
    assert [len(g.runs) for g in plan.make_plan(parsed).groups] == [24, 24]


RANDOM = """
[[experiments]]
algorithms = {algorithms}

[experiments.random]
count = 400
seed = {seed}
learning_rate = {{ log_uniform = [1e-4, 1e-1] }}
gamma = {{ uniform = [0.9, 0.99] }}
{more}
"""


def drawn(seed=5, algorithms='"vanilla_pg"', more=""):
    return parse(RANDOM.format(seed=seed, algorithms=algorithms, more=more))


def test_random_draws():
    parsed = drawn()
    rates, gammas = values(parsed, "update", "learning_rate"), values(parsed, "learner", "gamma")
    assert len(set(rates)) > 390
    assert min(rates) >= 1e-4
    assert max(rates) <= 1e-1
    # Uniform in the logarithm: a third of them in each decade; and in the value.
    assert np.histogram(np.log10(rates), [-4, -3, -2, -1])[0] == pytest.approx([133] * 3, abs=30)
    assert np.mean(gammas) == pytest.approx(0.945, abs=0.005)
    assert abs(np.corrcoef(np.log(rates), gammas)[0, 1]) < 0.15
    assert parsed.settings == drawn().settings
    assert values(drawn(seed=6), "update", "learning_rate") != rates
    # Another key beside it, or another algorithm, leaves the draws of a key alone.
    more = drawn(more="hidden = { choice = [[8], [16, 16]] }")
    assert values(more, "update", "learning_rate") == rates
    assert set(values(more, "network", "hidden")) == {(8,), (16, 16)}
    both = drawn(algorithms=["vanilla_pg", "ppo_clip"])
    assert values(both, "update", "learning_rate") == [*rates, *rates]
    # Both environments meet the same draws.
    assert len({s.label for s in parsed.settings}) == len(parsed.settings) / 2


def test_a_preset_is_the_base_and_sections_go_over_it():
    head = '[sweep]\nseeds = 1\nenvs = "CartPole-v1"\n[learner]\nnum_steps = 64\n'
    text = '[[experiments]]\nalgorithms = "ppo_clip"\nupdate.max_kl = inf\nlearner.num_envs = 2\n'
    (tuned,) = parse(text, head).settings
    base = preset("ppo_clip", "CartPole-v1")
    assert tuned.experiment.update == base.update
    assert tuned.experiment.update.max_kl == INF
    assert tuned.experiment.learner.num_steps == 64
    assert tuned.experiment.learner.num_envs == 2
    assert tuned.experiment.critic == base.critic
    (bare,) = parse(text + 'preset = "none"\n', head).settings
    assert bare.experiment.update != base.update


def test_env_params_may_be_swept():
    parsed = parse("""
        [[experiments]]
        algorithms = "trpo"
        envs = "CartPole-v1"
        env_params.length = 0.6
        grid.env_params.gravity = [9.8, 1.6]
    """)
    assert [s.experiment.env_params["gravity"] for s in parsed.settings] == [9.8, 1.6]
    assert parsed.settings[0].experiment.env_params["length"] == 0.6
    assert len(plan.make_plan(parsed).groups) == 1


FIRST = len(TOY.splitlines()) + 1
TRPO = "[[experiments]]\nalgorithms = 'trpo'\n"
DRAWS = f"{TRPO}[experiments.random]\ncount = 2\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[sweeps]\nx = 1", 0, "unknown section 'sweeps': did you mean sweep"),
        ("[[experiments]]\nalgoritms = 'trpo'", 1, "did you mean algorithms"),
        ("[[experiments]]\n# a word\nalgorithms = 'trop'", 2, "did you mean trpo"),
        ("[[experiments]]\nenvs = 'CartPole-v1'", 0, "algorithms are missing"),
        ("[[experiments]]\nalgorithms = []", 1, "a name or a list of names"),
        (f"{TRPO}{TRPO}label = 'b'\n\nupdate.max_kll = 1", 6, r"in \[update\] 'max_kll': did you"),
        (f"{TRPO}update.max_kl = 'a'", 2, "max_kl must be a number"),
        (f"{TRPO}update = {{ cg_iters = 1.5 }}", 2, "must be a whole number"),
        (f"{TRPO}update = 3", 2, "update must be a table"),
        (f"{TRPO}grid.max_kl = [\n  0.1,\n  -0.1,\n]", 2, "max_kl must be finite.*, got -0.1"),
        (f"{TRPO}grid.clip_eps = [1]", 2, "setting of trpo 'clip_eps'"),
        (f"{TRPO}grid.max_kl = 0.1", 2, "takes a list of values"),
        (f"{TRPO}grid.max_kl = []", 2, "takes a list of values"),
        (f"{TRPO}grid = {{ 'a.b' = [1] }}", 2, "unknown section 'a'"),
        (f"{TRPO}max_kl = 0.1", 2, r"max_kl is a setting: write update\.max_kl = VALUE"),
        (
            "[[experiments]]\nalgorithms = ['ppo_clip', 'trpo']\nupdate.clip_eps = 1",
            2,
            "trpo has none",
        ),
        (
            "[[experiments]]\nalgorithms = ['ppo_clip', 'trpo']\ngrid.clip_eps = [1]",
            2,
            "trpo has none",
        ),
        (f"{DRAWS}max_kl = {{ loguniform = [0.1, 1.0] }}", 4, "did you mean log_uniform"),
        (f"{TRPO}zip = {{ max_kl = [1.0], damping = [1.0, 2.0] }}", 2, "lists of one length"),
        (f"{TRPO}grid.max_kl = [1.0]\nzip.max_kl = [1.0]", 0, "max_kl is swept twice"),
        (f"{TRPO}update.max_kl = 0.1\ngrid.max_kl = [1.0]", 3, "swept and set"),
        (f"{TRPO}random.count = 3", 2, "count, at least 1"),
        (f"{DRAWS}max_kl = {{ log_uniform = [0.0, 1.0] }}", 4, "0 < low < high"),
        (f"{DRAWS}max_kl = {{ uniform = [-1e308, 1e308] }}", 4, "low < high"),
        (f"{DRAWS}max_kl = {{ normal = [0.0, 1.0] }}", 4, "one of uniform, log_uniform, choice"),
        (f"{TRPO}envs = 'CartPol-v1'", 0, "did you mean 'CartPole-v1'"),
        (f"{TRPO}envs = 'CartPole-v1'\nenv_params.gravitas = 1.0", 3, "no parameter 'gravitas'"),
        (f"{TRPO}critic.num_minibatches = 7", 2, "num_minibatches=7 does not divide"),
        (f"{TRPO}preset = 'absent.toml'", 2, "can't read the preset"),
        (
            f"{TRPO}preset = 'tunned'",
            2,
            "did you mean tuned. Known are equal, accelerator, tuned, none",
        ),
        (f"{TRPO}{TRPO}", 2, "'trpo' on CartPole-v1 is there twice"),
        (f"[network]\nhiden = [8]\n{TRPO}", 1, "did you mean hidden"),
        (f"[network]\nactivation = 'tan'\n{TRPO}", 1, "activation 'tan'"),
    ],
)
def test_errors_name_the_line(text, line, message):
    with pytest.raises(ValueError, match=rf"^toy.toml:{FIRST + line}: .*{message}"):
        plan.check_spec(spec.parse(TOY + text, "toy.toml"))


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        (f"{TRPO}{TRPO}update.max_kl = 'a'", r"\[\[experiments\]\] 2 \(trpo\): .*max_kl must be"),
        (
            f"{TRPO}[[experiments]]\nalgorithms = ['npg', 'ppo']\nlable = 'x'",
            r"\[\[experiments\]\] 2 \(npg, ppo\): .*'lable'",
        ),
        (f"{TRPO}[[experiments]]\nalgorithms = 3", r"\[\[experiments\]\] 2 \(no algorithms\): "),
        (f"{TRPO}\ncritic.num_minibatches = 7", r"\[\[experiments\]\] 1 \(trpo\): .*divide"),
        (f"[network]\nhiden = [8]\n{TRPO}", r"unknown"),  # it is in none of them
    ],
)
def test_errors_name_the_experiment_at_fault(text, entry):
    with pytest.raises(ValueError, match=rf"^toy.toml:\d+: {entry}"):
        plan.check_spec(spec.parse(TOY + text, "toy.toml"))


def test_errors_of_a_dict_name_the_experiment_at_fault():
    entries = [{"algorithms": "trpo"}, {"grid": {"gamma": 1}}]
    document = {"sweep": {"envs": "CartPole-v1", "algorithms": "npg"}, "experiments": entries}
    with pytest.raises(ValueError, match=r"^mine: \[\[experiments\]\] 2 \(npg\): grid takes"):
        spec.from_dict(document, "mine")
    assert spec.from_dict({**document, "experiments": entries[:1]}).source.entries == ("trpo",)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("seeds = 2", "seeds = 0", 4, "seeds must be"),
        ("seeds = 2", "seeds = [1, 1]", 4, "seeds must be"),
        ("seeds = 2", "seeds = true", 4, "seeds must be"),
        ('name = "toy"', 'name = "a/b"', 3, "name must be"),
        ("total_steps = 192", "total_steps = 63", 17, "total_steps=63 is less than one iteration"),
        ("num_envs = 4", "num_envs = 0", 9, "num_envs must be"),
    ],
)
def test_errors_of_the_common_part_name_the_line(old, new, line, message):
    with pytest.raises(ValueError, match=rf"^toy.toml:{line}: .*{message}"):
        plan.check_spec(parse('[[experiments]]\nalgorithms = "trpo"', TOY.replace(old, new)))


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"can't read .*absent\.toml"):
        spec.load(tmp_path / "absent.toml")
    (tmp_path / "half.toml").write_text("[sweep]\nname = a b\n")
    with pytest.raises(ValueError, match=r"half\.toml:2: not TOML"):
        spec.load(tmp_path / "half.toml")
    (tmp_path / "latin.toml").write_text("[sweep]\nname = 'Schlüssel'\n", "latin-1")
    with pytest.raises(ValueError, match=r"latin\.toml is not UTF-8"):
        spec.load(tmp_path / "latin.toml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_a_specification(tmp_path, encoding):
    text = TOY.replace('"toy"', '"Schlüssel"') + '[[experiments]]\nalgorithms = "trpo"'
    path = tmp_path / "marked.toml"
    path.write_text(text, encoding)
    assert spec.load(path) == spec.parse(text, str(path))


def test_lines_of_keys_within_multi_line_values():
    text = "[a]\nx = [\n  [1],\n  [2]\n]\n\n# [b]\n[b]\ny.z = 1\n[[c]]\n[[c]]\nw = 1\n"
    places = {
        ("a",): 1,
        ("a", "x"): 2,
        ("b",): 8,
        ("b", "y", "z"): 9,
        ("c", 0): 10,
        ("c", 1, "w"): 12,
    }
    assert {place: spec.line_of(text, place) for place in places} == places
    # What is not there is at what would hold it.
    assert spec.line_of(text, ("b", "q")) == 8
    assert spec.line_of(text, ("q",)) == 1


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_benchmarks_specifications(path):
    for prefix, version in adapters().items():
        if f'"{prefix}/' in path.read_text() and version is None:
            pytest.skip(f"{prefix} is not installed")
    parsed = spec.load(path)
    assert parsed.name == path.stem
    # What a table of scores is made from needs seeds; a finding about updates has one for each.
    # Nobody looks at the scores of what is only killed or judged, and MinAtar's runs are hours of
    # CPU time each: its tables show every seed and claim no interval.
    few = parsed.name.startswith(("laboratory", "kills", "minatar", "judge"))
    tuning = parsed.name.startswith("tuning")
    assert len(parsed.seeds) >= (1 if tuning else 3 if few else 10)
    assert (min(parsed.seeds) >= 1000) == tuning  # what tunes reports nothing
    plan.make_plan(parsed)
    # One setting of each static group and environment: the rest differ in positive floats.
    groups = {plan.static_key(s.experiment): s for s in parsed.settings}
    plan.check_spec(spec.Spec(parsed.name, parsed.seeds, tuple(groups.values()), parsed.source))


def test_table_1_of_the_ppo_paper():
    texts = {path.stem: path.read_text() for path in SPECS if path.stem.startswith("ppo_table1")}
    # brax's, which may be missing, has the same settings.
    settings = {text.partition("[[experiments]]")[2] for text in texts.values()}
    assert len(texts) == 2
    assert len(settings) == 1
    parsed = spec.parse(texts["ppo_table1"], "ppo_table1.toml")
    names = {s.label for s in parsed.settings}
    assert len(names) == 11 + 3
    betas = {s.experiment.update.init_beta for s in parsed.settings if "fixed" in s.label}
    assert betas == {0.3, 1.0, 3.0, 10.0}
    (unbounded,) = {s.experiment.update.clip_eps for s in parsed.settings if "no " in s.label}
    assert unbounded == INF


def test_the_trust_regions_are_matched():
    parsed = spec.load(next(path for path in SPECS if path.stem == "trust_region"))
    swept = {
        name: sorted({s.swept[name] for s in parsed.settings if name in s.swept})
        for name in ("update.clip_eps", "update.max_kl", "update.target_kl")
    }
    assert swept["update.max_kl"] == swept["update.target_kl"]
    assert np.square(swept["update.clip_eps"]) / 2 == pytest.approx(swept["update.max_kl"])


# Plans.


def toy_plan(**keywords):
    parsed = parse("""
        [[experiments]]
        algorithms = "ppo_clip"
        update.num_minibatches = 2
        grid.max_kl = [0.01, inf]
        grid.num_epochs = [3, 4]
        [[experiments]]
        algorithms = "vanilla_pg"
        learner.num_steps = 32
    """)
    return parsed, plan.make_plan(parsed, **keywords)


def test_static_groups_differ_in_more_than_floats():
    parsed, planned = toy_plan()
    # ppo_clip x two num_epochs x two environments, vanilla_pg x two environments.
    assert len(planned.groups) == 6
    assert sorted(run for g in planned.groups for run in g.runs) == list(range(20))
    for group in planned.groups:
        keys = {plan.static_key(planned.setting(run).experiment) for run in group.runs}
        assert len(keys) == 1
        # Common random numbers: every setting with every seed.
        pairs = {(planned.setting(run).label, planned.seed(run)) for run in group.runs}
        assert len(pairs) == len(group.runs)
        assert {seed for _, seed in pairs} == set(parsed.seeds)
    assert plan.Plan.from_config(planned.to_config()) == planned


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_shards_hold_every_run_once(n):
    _, whole = toy_plan()
    shards = [toy_plan(shard=(i, n))[1] for i in range(1, n + 1)]
    runs = [run for shard in shards for group in shard.groups for run in group.runs]
    assert runs == [run for group in whole.groups for run in group.runs]
    assert {g.width for s in shards for g in s.groups} == {g.width for g in whole.groups}

    def steps(planned):
        return sum(
            len(g.runs) * planned.experiment(g).num_iterations * planned.experiment(g).batch_size
            for g in planned.groups
        )

    assert max(map(steps, shards)) - min(map(steps, shards)) <= 2 * 192


@pytest.mark.parametrize(("shard", "message"), [((0, 2), "1 <= i <= n"), ((3, 2), "1 <= i <= n")])
def test_shards_that_can_not_be(shard, message):
    with pytest.raises(ValueError, match=message):
        toy_plan(shard=shard)
    with pytest.raises(ValueError, match="would hold no run"):
        toy_plan(shard=(1, 50))
    with pytest.raises(ValueError, match="width must be"):
        toy_plan(width=-1)


def test_images_take_the_memory_of_their_patches():
    experiment = preset("ppo_clip", "Breakout-MinAtar")
    small = replace(experiment, network=replace(experiment.network, channels=()))
    images, flat = (memory.estimate_memory(e, 1, 1, 60) for e in (experiment, small))
    # What XLA says of the compiled program of a run, on CPUs.
    assert 0.5 < images.total / 352e6 < 2
    assert flat.total < 0.4 * images.total


class Accelerator:
    """As much of a device as the choice of a width asks."""

    process_index = 0
    device_kind = "toy"

    def __init__(self, limit, platform="gpu"):
        self.limit, self.platform = limit, platform

    def memory_stats(self):
        return {"bytes_limit": self.limit} if self.limit else None


def test_the_width_follows_the_memory_of_an_accelerator():
    head = TOY.replace(', "Pendulum-v1"', "")
    parsed = parse('[[experiments]]\nalgorithms = "trpo"\ngrid.max_kl = [0.01, 0.02]', head)

    def width(limit, count=1):
        return plan.make_plan(parsed, devices=[Accelerator(limit)] * count).groups[0].width

    planned = plan.make_plan(parsed)
    experiment = planned.experiment(planned.groups[0])
    # All four lanes of the group in one block, or as many as fit.
    assert width(2**34) == 4
    assert width(2**34, count=2) == 2
    needed = memory.estimate_memory(experiment, 4, 4, planned.groups[0].chunk_length)
    assert needed.total == 4 * (needed.lane + needed.work)
    assert width(2 * (4 * needed.lane + 2 * needed.work)) == 2
    assert width(1) == 1
    # Three would fit: two blocks of two, where a second block of three would be padded.
    assert width(2 * (4 * needed.lane + 3 * needed.work)) == 2
    assert width(None) == 4  # one that does not tell is taken for a small one


def test_a_tpu_pads_what_it_holds():
    experiment = tiny(learner={"num_envs": 64, "num_steps": 128})
    of = memory.estimate_memory(experiment, 8, 8, 10)
    limit = 2 * (8 * of.lane + 8 * of.work)
    gpu, tpu = (
        memory.choose_width(experiment, 8, 10, [Accelerator(limit, name)])
        for name in ("gpu", "tpu")
    )
    assert gpu == 8
    assert tpu < 8


def test_a_dry_run_says_what_the_width_follows_from(monkeypatch):
    planned = plan.make_plan(parse('[[experiments]]\nalgorithms = "trpo"\n', TOY))
    assert "GiB" not in tables.dry_run(planned).caption
    monkeypatch.setattr(jax, "devices", lambda: [Accelerator(2**34)])
    said = tables.dry_run(planned).caption
    assert "1 toy device of 16.0 GiB, from which the width follows" in said
    assert " a second: " in said


@pytest.mark.parametrize(
    ("num_envs", "lanes", "devices", "width"),
    [
        (4, 1, 2, 1),
        (4, 16, 2, 4),
        (4, 10, 2, 3),  # 5 a device: two blocks of 3, not of 4
        (64, 16, 2, 1),
    ],
)
def test_on_a_cpu_few_lanes_go_together_where_minibatches_are_small(
    num_envs, lanes, devices, width
):
    sizes = {"num_envs": num_envs, "num_steps": 128}
    made = tiny(learner=sizes, critic={"num_epochs": 5, "num_minibatches": 32})
    cpus = jax.devices("cpu")[:1] * devices
    assert memory.choose_width(made, lanes, 10, cpus) == width


def test_labels_name_the_section_where_the_name_alone_could_mislead():
    parsed = parse("""
        [[experiments]]
        algorithms = "ppo_clip"
        grid.critic.learning_rate = [1e-3]
        grid.optimizer.weight_decay = [0.1]
        update.optimizer = "adamw"
    """)
    assert {s.label for s in parsed.settings} == {
        "ppo_clip critic.learning_rate=0.001 optimizer.weight_decay=0.1"
    }
    (one, _) = parsed.settings
    assert one.experiment.critic.learning_rate == 1e-3
    assert one.experiment.update.optimizer.settings == {"weight_decay": 0.1}


EQUAL_HEAD = '[sweep]\nseeds = 1\nenvs = "Acrobot-v1"\n'


def sections(setting, *names):
    return [getattr(setting.experiment, name) for name in names]


def test_presets_for_accelerators_are_held_equal_as_well():
    shared = ("critic", "learner", "network", "budget")
    text = '[[experiments]]\nalgorithms = ["trpo", "ppo_clip"]\n'
    head = EQUAL_HEAD + 'preset = "accelerator"\n'
    parsed = parse(text, head)
    trpo, clip = parsed.settings
    assert trpo.experiment == preset("trpo", "Acrobot-v1", "accelerator")
    assert sections(trpo, *shared) == sections(clip, *shared)
    assert clip.experiment.update == preset("ppo_clip", "Acrobot-v1", "accelerator").update
    assert "accelerator presets, all methods with " in parsed.notes[0]
    with pytest.raises(ValueError, match=r"no accelerator preset of npg on Acrobot-v1: it has"):
        parse(text + '[[experiments]]\nalgorithms = "npg"\n', head)


def test_what_is_not_the_algorithms_own_is_equal_by_default():
    shared = ("critic", "learner", "network", "budget")
    text = '[[experiments]]\nalgorithms = "trpo"\n[[experiments]]\nalgorithms = "ppo_clip"\n'
    parsed = parse(text, EQUAL_HEAD)
    trpo, clip = parsed.settings
    tuned = {name: preset(name, "Acrobot-v1") for name in ("trpo", "ppo_clip")}
    assert tuned["trpo"].critic != tuned["ppo_clip"].critic  # else nothing is shown
    assert sections(trpo, *shared) == sections(clip, *shared)
    assert trpo.experiment == tuned["trpo"]
    assert clip.experiment.update == tuned["ppo_clip"].update
    (note,) = parsed.notes
    assert "all methods with trpo's rollout, critic, network and budget" in note
    # One without a preset: tuned settings against bare ones are no comparison.
    parsed = parse(text + '[[experiments]]\nalgorithms = "npg"\n', EQUAL_HEAD)
    for setting in parsed.settings:
        name = setting.experiment.algorithm
        assert setting.experiment == preset(name, "Acrobot-v1", "none")
    assert "no preset of npg" in parsed.notes[0]
    # Unless it is asked for; an entry that asks leaves the others as they are.
    for head in (f'{EQUAL_HEAD}preset = "tuned"\n', EQUAL_HEAD):
        asked = text + ('preset = "tuned"\n' if head == EQUAL_HEAD else "")
        parsed = parse(asked, head)
        assert [s.experiment for s in parsed.settings] == list(tuned.values())
        assert parsed.notes == ()


def test_in_what_methods_differ_is_said():
    def said(text):
        settings = parse(text, EQUAL_HEAD + 'preset = "none"\n').settings
        found = (
            (s.experiment.env, s.method, fairness.shared_settings(s.experiment)) for s in settings
        )
        return [str(difference) for difference in fairness.differences(found)]

    first = '[[experiments]]\nalgorithms = "trpo"\ngrid.max_kl = [0.01, 0.02]\n'
    second = '[[experiments]]\nalgorithms = ["npg", "ppo_clip"]\n'
    assert said(first + second) == []
    assert said(first + second + "learner.num_envs = 16\n") == [
        "learner.num_envs (trpo 8; npg, ppo_clip 16)"
    ]
    assert said(first + second + "network.hidden = [8]\nlearner.audit = 'full'\n") == [
        "network.hidden (trpo [64, 64]; npg, ppo_clip [8])"
    ]
    assert said(first + second + "env_params.max_steps_in_episode = 9\n") == [
        "env_params.max_steps_in_episode (trpo the default; npg, ppo_clip 9)"
    ]
    # Swept over the same values it is equal, over others it is not.
    swept = "grid.learner.gamma = [0.9, 0.99]\n"
    assert said(first + swept + second + swept.replace("0.9, 0.99", "0.99, 0.9")) == []
    assert said(first + swept + second) == ["learner.gamma (trpo 0.9 or 0.99; npg, ppo_clip 0.99)"]
