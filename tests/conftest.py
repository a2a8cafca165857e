"""What every test shares: one platform, reproducible examples, and strict modes of JAX."""

import contextlib
import gc
import importlib.metadata
import os

# Before JAX and matplotlib are imported: a test's bits must not depend on the accelerator or the
# display that happens to be there. Set JAX_PLATFORMS to run the suite on another one.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")  # no test leaves programs in one's home
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # as the command line has it, see devices.py
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # XLA compiles in half the time. Later versions have no such flag, and end where they meet it.
    # The README's main job and the tests of the newest versions compile as users do.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import hypothesis
import jax
import pytest

jax.devices()  # now: a command within a test would start JAX with a device for each core

hypothesis.settings.register_profile(
    "kltrust",
    deadline=None,  # the first example of a test compiles
    derandomize=True,
    database=None,
)
hypothesis.settings.load_profile("kltrust")


@contextlib.contextmanager
def forgetting_registered():
    """What is registered within is forgotten after it."""
    from kltrust.algorithms._registry import _declared
    from kltrust.environments._registry import _factories

    before = [dict(registry) for registry in (_declared, _factories)]
    yield
    for registry, known in zip((_declared, _factories), before, strict=True):
        registry.clear()
        registry.update(known)


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_session(tmp_path_factory):
    """What tests import and how fast they run is kept apart, by the processes they start, too."""
    before = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    os.environ.setdefault("MPLCONFIGDIR", os.path.join(before, "matplotlib"))  # its list of fonts
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def forget_registered():
    with forgetting_registered():
        yield


@pytest.fixture(autouse=True, scope="module")
def forget_the_module():
    """Programs that no later module runs: they are thousands, each of several memory maps.

    Linux allows a process 65,530 of these, and XLA crashes where it gets no more.
    """
    with forgetting_registered():
        yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def x64():
    """Double precision within the test, and nowhere else."""
    with jax.enable_x64(True):
        yield


MATHEMATICS = {
    *("advantages", "algorithms", "audit", "audit_curvature", "critic", "divergences"),
    *("drifts", "estimators", "fisher", "losses", "lowering", "minibatch", "normalization"),
    *("precision", "rollout", "sequences", "solvers", "tree"),
}
"""The tests in which no rank is promoted: those of other libraries' code do."""

AS_USERS_COMPILE = {
    *("advantages", "critic", "divergences", "doctor", "estimators", "lanes", "learner"),
    *("learner_audit", "learning", "losses", "normalization", "package", "readme", "solvers"),
    *("curricula", "spread"),
}
"""The tests that look at digits, bits or programs which XLA's optimiser may change."""

SAME_BITS = {"commands", "compilation_cache", "damage", "hosts", "jobs"}
"""The tests that compare the bits of whole runs: on other devices, in parts, or with a toy's."""

FAST = {
    *(MATHEMATICS - {"audit", "audit_curvature", "rollout"}),
    *("beyond_the_usual", "declaration", "doctor", "experiment", "extras", "layers"),
    *(
        "optimizers",
        "package",
        "report",
        "results",
        "search",
        "sequential",
        "settings",
        "sixteen_bits",
    ),
    *("spec", "standalone", "statistics", "trained", "updates"),
}
"""The tests of the mathematics, of one training, of a sweep and of its report: `pytest -m fast`."""

NOT_FAST = {"test_every_option_changes_the_computation"}
"""Tests in those modules that no version of a dependency decides, and that take minutes."""


def part_of(item):
    """The name of a test's module, without its prefix."""
    return item.module.__name__.removeprefix("test_")


LONG = ["hosts", "benchmarks", "learning", "laboratory", "speed", "theory", "recurrent", "learner"]
"""The modules of minutes: they begin first, so that none of them ends alone."""


def pytest_configure(config):
    config.option.loadscopereorder = False  # pytest-xdist would begin with the most tests


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: part_of(item) not in LONG)
    for item in items:
        slow = item.get_closest_marker("slow") or item.originalname in NOT_FAST
        if part_of(item) in FAST and not slow:
            item.add_marker("fast")


@pytest.fixture(autouse=True)
def rank_promotion(request):
    """An accidental broadcast such as [N] - [N, 1] is an error within the tests of mathematics."""
    with jax.numpy_rank_promotion("raise" if part_of(request) in MATHEMATICS else "allow"):
        yield


@pytest.fixture(scope="session")
def compilations(tmp_path_factory):
    """Where `compile_fast` keeps what it compiled, for all modules."""
    return str(tmp_path_factory.mktemp("compiled"))


@contextlib.contextmanager
def compiling_fast(folder):
    """What is tested here is not XLA's optimiser: less of it, and nothing twice."""
    from jax.experimental.compilation_cache import compilation_cache

    fast = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in fast}
    for name, value in fast.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield {name.upper(): str(value) for name, value in fast.items()}
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def compile_fast(compilations):
    with compiling_fast(compilations) as environment:
        yield environment


@pytest.fixture(autouse=True, scope="module")
def compile_fast_by_default(request):
    if part_of(request) not in AS_USERS_COMPILE:
        request.getfixturevalue("compile_fast")


@pytest.fixture(scope="session")
def users_options():
    """Options of `jax.jit`: XLA's fusion emitters as users have them, to compare bits."""
    flag = "xla_cpu_use_fusion_emitters"
    return {flag: True} if f"--{flag}=false" in os.environ.get("XLA_FLAGS", "") else {}


@contextlib.contextmanager
def as_users(options):
    """Compiles the programs of runs, here and in processes, with the emitters of users."""
    from kltrust.experiments.engine import program

    ours = program.compiler_options
    with pytest.MonkeyPatch.context() as patch:
        if options:
            patch.delenv("XLA_FLAGS", raising=False)
            patch.setattr(program, "compiler_options", lambda mesh: {**ours(mesh), **options})
        yield


@pytest.fixture(autouse=True, scope="module")
def same_bits(request, users_options):
    with as_users(users_options if part_of(request) in SAME_BITS else {}):
        yield


@pytest.fixture(scope="session")
def toy_sweep(tmp_path_factory, compilations, users_options):
    """A sweep that nobody interrupted: a folder to read, or to copy."""
    import toys

    from kltrust.experiments.jobs import run

    with compiling_fast(compilations), as_users(users_options):
        return run.start(toys.toy_plan(), tmp_path_factory.mktemp("toys") / "toy")


@pytest.fixture(scope="session")
def toy_training(tmp_path_factory, compilations, users_options):
    """Likewise a training."""
    import toys

    from kltrust.experiments.jobs.run import train

    with compiling_fast(compilations), as_users(users_options):
        path = tmp_path_factory.mktemp("toys") / "whole"
        return train(toys.tiny(), toys.SEEDS, path, width=1)


@pytest.fixture
def said(capsys):
    """What a command prints, errors in one line however wide the terminal: (status, out, err)."""
    from kltrust.experiments import cli

    def say(*arguments):
        try:
            status = cli.main([str(a) for a in arguments])
        except SystemExit as stop:  # of the parser of options
            status = stop.code
        out, err = capsys.readouterr()
        return status, out, " ".join(err.replace("│", " ").split())

    return say
