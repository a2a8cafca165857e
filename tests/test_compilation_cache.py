"""Where compiled programs are kept, and that a training takes them without a difference."""

import warnings
from pathlib import Path

import jax
import pytest
import toys
from conftest import compiling_fast

from kltrust.experiments.cli import surroundings
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


def test_a_program_that_was_cut_short_is_compiled_once_more(no_folder_given, tmp_path, capsys):
    """As a kill leaves it: JAX would complain in every process from then on."""
    folder = devices.compilation_cache()

    def compiled():
        """What a command says that takes this program."""
        jax.clear_caches()
        with compiling_fast(str(folder)), warnings.catch_warnings():
            warnings.simplefilter("default")
            with surroundings.prepared():
                assert jax.jit(lambda x: x + 3)(4) == 7
        return capsys.readouterr().err

    assert compiled() == ""
    kept = sorted(folder.glob("*-cache"))
    programs = [file.read_bytes() for file in kept]
    assert devices.unreadable(folder) == []
    for length in (0, 1, len(programs[0]) // 2, len(programs[0]) - 1):
        kept[0].write_bytes(programs[0][:length])
        assert devices.unreadable(folder) == kept[:1]
        assert f"{kept[0]} was cut short" in compiled()
        assert devices.unreadable(folder) == []
        assert kept[0].exists()
    assert compiled() == ""
    # Nobody else's folder is touched.
    kept[0].write_bytes(b"")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    assert devices.mend_cache() == kept[:1]
    other = tmp_path / "other"
    other.mkdir()
    (other / kept[0].name).write_bytes(b"")
    jax.config.update("jax_compilation_cache_dir", str(other))
    assert devices.mend_cache() == []
    assert devices.unreadable(other) == [other / kept[0].name]


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
