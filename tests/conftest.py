"""What every test shares: one platform, reproducible examples, and strict modes of JAX."""

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


@pytest.fixture(scope="module")
def compile_fast(tmp_path_factory):
    """What is tested here is not XLA's optimiser: less of it, and nothing twice."""
    from jax.experimental.compilation_cache import compilation_cache

    fast = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
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
