"""What every test shares: one platform, reproducible examples, and strict modes of JAX."""

import contextlib
import gc
import os

# Before JAX and matplotlib are imported: a test's bits must not depend on the accelerator or the
# display that happens to be there. Set JAX_PLATFORMS to run the suite on another one.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MPLBACKEND"] = "Agg"

import hypothesis
import jax
import pytest

hypothesis.settings.register_profile(
    "kltrust",
    deadline=None,  # the first example of a test compiles
    derandomize=True,
    database=None,
)
hypothesis.settings.load_profile("kltrust")


@pytest.fixture(autouse=True, scope="module")
def forget_compiled():
    """Programs that no later module runs: they are thousands, each of several memory maps.

    Linux allows a process 65,530 of these, and XLA crashes where it gets no more.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def x64():
    """Double precision within the test, and nowhere else."""
    with jax.enable_x64(True):
        yield


MATHEMATICS = {
    *(
        "advantages",
        "algorithms",
        "audit",
        "audit_curvature",
        "critic",
        "divergences",
        "estimators",
    ),
    *("fisher", "losses", "lowering", "minibatch", "normalization", "rollout", "sequences"),
    *("solvers", "tree"),
}
"""The tests in which no rank is promoted: those of other libraries' code do."""


@pytest.fixture(autouse=True)
def rank_promotion(request):
    """An accidental broadcast such as [N] - [N, 1] is an error within the tests of mathematics."""
    strict = request.module.__name__.removeprefix("test_") in MATHEMATICS
    with jax.numpy_rank_promotion("raise" if strict else "allow"):
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


@pytest.fixture(scope="session")
def toy_sweep(tmp_path_factory, compilations):
    """A sweep that nobody interrupted: a folder to read, or to copy."""
    import toys

    from kltrust.experiments.jobs import run

    with compiling_fast(compilations):
        return run.start(toys.toy_plan(), tmp_path_factory.mktemp("toys") / "toy")


@pytest.fixture(scope="session")
def toy_training(tmp_path_factory, compilations):
    """Likewise a training."""
    import toys

    from kltrust.experiments.jobs.run import train

    with compiling_fast(compilations):
        path = tmp_path_factory.mktemp("toys") / "whole"
        return train(toys.tiny(), toys.SEEDS, path, width=1)


@pytest.fixture
def own_algorithms():
    """What the test registers is forgotten after it."""
    from kltrust.algorithms import _registry

    before = dict(_registry._declared)
    yield
    _registry._declared.clear()
    _registry._declared.update(before)
