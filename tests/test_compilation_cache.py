"""Where compiled programs are kept, and that a training takes them without a difference."""

from pathlib import Path

import jax
import pytest
import toys
from conftest import compiling_fast

from kltrust.experiments.engine import devices
from kltrust.experiments.jobs.run import train
from kltrust.experiments.reading import results


@pytest.fixture
def no_folder_given(monkeypatch, tmp_path):
    """As for a user who has set nothing."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_folder_is_of_this_cpu(no_folder_given, monkeypatch, tmp_path):
    folder = devices.compilation_cache()
    assert folder.parent == tmp_path / "kltrust" / "xla"
    assert folder.name.startswith("cpu-")
    assert devices.compilation_cache() == folder
    monkeypatch.setattr(Path, "read_text", lambda *_: "flags : fpu sse avx\n")
    assert devices.compilation_cache() != folder


@pytest.mark.parametrize(("given", "found"), [("", None), ("here", Path("here"))])
def test_a_folder_that_is_given(given, found, no_folder_given, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
    assert devices.compilation_cache() == found


def test_a_training_from_kept_programs_has_the_same_bits(toy_training, compilations, tmp_path):
    """Also where a kill has cut the programs short while they were written."""

    def tables(record):
        loaded = results.load(record.path)
        return loaded.metrics, loaded.evaluations

    def again(name):
        jax.clear_caches()
        with compiling_fast(compilations):
            record = train(toys.tiny(), toys.SEEDS, tmp_path / name, width=1)
        pairs = zip(tables(record), tables(toy_training), strict=True)
        return all(found.equals(wanted) for found, wanted in pairs)

    kept = {path: path.read_bytes() for path in Path(compilations).glob("*-cache")}
    assert kept
    assert again("kept")
    assert set(Path(compilations).glob("*-cache")) == set(kept)
    for path, program in kept.items():
        path.write_bytes(program[:100])
    with pytest.warns(UserWarning, match="persistent compilation cache"):
        assert again("cut")
    for path, program in kept.items():
        path.write_bytes(program)
