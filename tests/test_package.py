"""The package as a newcomer's interpreter meets it: every name, lazily, and nothing else."""

import ast
from importlib.metadata import version
from pathlib import Path

import pytest
from toys import output

import kltrust

PROMISED = set(
    """
    kl_divergence categorical_kl quadrature_kl entropy cross_entropy kl_k1 kl_k2 kl_k3
    surrogate_loss clipped_surrogate_loss penalty_surrogate_loss kl_constraint value_loss
    clipped_value_loss gae fisher_vector_product conjugate_gradient vanilla_pg npg trpo
    ppo_clip ppo_penalty ppo_reverse_kl ppo_adaptive_lr mdpo
    ppo spo drift_ppo fr_ppo espo tr_ppo ppo_asymmetric spma fixpo
    trgppo ppo_ewma vmpo trpl
    algorithm setting register_algorithm value_regression
    make actor_critic make_learner run train evaluate Env Outcome
    Transition PolicyBatch PolicyUpdate ActorCritic Learner LearnerState Metrics types tree
    divergences losses advantages fisher solvers networks environments rollout updates algorithms
    audit learner experiments
    """.split()  # noqa: SIM905
)
FOREIGN = ("flax", "optax", "gymnax")
FRESH = ("-W", "error::ImportWarning", "-c")


def test_every_promised_name_is_public():
    assert set(kltrust.__all__) >= PROMISED
    assert set(kltrust.__all__) <= set(dir(kltrust))


def test_every_name_means_the_same_the_second_time():
    """In a fresh process, alone: importing a submodule must not replace a function of its name."""
    code = """
import importlib, types, kltrust
first = {name: getattr(kltrust, name) for name in kltrust.__all__}
second = {name: getattr(kltrust, name) for name in kltrust.__all__}
assert all(first[name] is second[name] for name in first)
for name, home in kltrust._HOMES.items():
    if home != "kltrust":
        assert second[name] is getattr(importlib.import_module(home), name), name
print(*(name for name in first if isinstance(first[name], types.ModuleType)))
"""
    modules = output(*FRESH, code).split()
    stub = ast.parse(Path(kltrust.__file__).with_suffix(".pyi").read_text())
    imported = [s for s in stub.body if isinstance(s, ast.ImportFrom)]
    assert modules == [a.name for s in imported if s.module == "kltrust" for a in s.names]
    # `from m import a as a` is what makes a name public to a type checker.
    assert all(alias.name == alias.asname for s in imported for alias in s.names)


def test_every_module_with_a_public_name_of_its_own_module():
    """No lazily exported name is also a submodule, which an import would put in its place."""
    folder = Path(kltrust.__file__).parent
    submodules = {p.stem for p in folder.glob("*.py")} | {p.name for p in folder.iterdir()}
    assert not {n for n, home in kltrust._HOMES.items() if home != "kltrust"} & submodules


def test_importing_the_package_imports_nothing():
    heavy = ("jax", "numpy", *FOREIGN)
    code = f"import sys, kltrust; print(*(m for m in {heavy} if m in sys.modules))"
    assert output(*FRESH, code) == ""


USES = """
import sys, jax, jax.numpy as jnp
from kltrust import advantages, divergences, losses, lowering, solvers, tokens
losses.clipped_surrogate_loss(jnp.zeros(2), jnp.ones(2), 0.2)
advantages.standardize(jnp.arange(3.0))
divergences.kl_k3(divergences.categorical_kl(jnp.ones(1), jnp.ones(1)))
tokens.token_kl(jnp.zeros(2), jnp.zeros(2), jnp.ones(2))
tokens.reduce_tokens(tokens.soft_gate_loss(jnp.zeros(2), jnp.ones(2)), jnp.ones(2), "token_mean")
solvers.conjugate_gradient(lambda v: v, jnp.ones(2), 2)
lowering.permutation(jax.random.key(0), 3)
"""


def test_the_mathematics_loads_neither_distributions_nor_networks():
    watched = ("distrax", *FOREIGN, "matplotlib", "pandas", "orbax")
    found = f"print([m for m in {watched} if m in sys.modules])\n"
    # The control: a module that loads networks is noticed.
    control = f"import kltrust.networks.agents\n{found}"
    nothing, loaded = output(*FRESH, USES + found + control).splitlines()
    assert nothing == "[]"
    assert "flax" in loaded


def test_training_compiles_once_and_retraces_nothing_of_the_users():
    """In a fresh process: what a module does when it is first imported must change no trace."""
    code = """
import jax
traced = []
@jax.jit
def users(x):
    traced.append("users")
    return 2 * x
users(1.0)
import kltrust
env = kltrust.make("CartPole-v1")
agent = kltrust.actor_critic(env, hidden=(4,))
learner = kltrust.make_learner(
    env, agent, kltrust.trpo(cg_iters=1), num_envs=2, num_steps=4,
    critic=kltrust.value_regression(num_epochs=1, num_minibatches=1),
)
@jax.jit
def training(key):
    traced.append("training")
    return kltrust.train(learner, key, 1)
training(jax.random.key(0)), training(jax.random.key(1)), users(2.0)
print(*traced, training._cache_size(), users._cache_size())
jax.make_user_context(None)  # the control: this changes what everything is traced with
users(3.0)
print(*traced[2:])
"""
    assert output(*FRESH, code).split("\n") == ["users training 1 1", "users"]


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="'kltrust' has no attribute 'trppo'"):
        _ = kltrust.trppo
    assert not hasattr(kltrust, "trppo")


def test_version_is_the_installed_one():
    assert kltrust.__version__ == version("kltrust")


def test_every_text_file_is_read_and_written_as_utf_8():
    """On every system: the default is the encoding of its locale."""
    root, places = Path(__file__).parents[1], {"read_text": 0, "write_text": 1, "open": 3}
    files = [p for part in ("kltrust", "benchmarks", "docs") for p in root.glob(f"{part}/**/*.py")]
    calls = [(p, x) for p in files for x in ast.walk(ast.parse(p.read_text("utf-8")))]
    found = 0
    for file, call in calls:
        function = getattr(call, "func", None)
        # A method named open opens a folder or a picture.
        name = getattr(function, "id", getattr(function, "attr", "").replace("open", ""))
        if name not in places:
            continue
        found += 1
        binary = name == "open" and len(call.args) > 1 and "b" in ast.unparse(call.args[1])
        named = any(k.arg == "encoding" for k in call.keywords)
        assert binary or named or len(call.args) > places[name], f"{file}:{call.lineno}"
    assert found > 10


def test_tests_and_benchmarks_share_no_module_name():
    """The tests import both folders' modules by their names: the first one found would be taken."""
    root = Path(__file__).parent.parent
    tests, benchmarks = ({f.stem for f in (root / d).glob("*.py")} for d in ("tests", "benchmarks"))
    assert "toys" in tests
    assert "readme" in benchmarks
    assert not tests & benchmarks
