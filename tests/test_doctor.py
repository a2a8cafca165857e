"""The doctor finds what is broken and says what to do; the canary sings where numbers are wrong."""

import errno
import importlib
import importlib.metadata
import io
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packaging.requirements import Requirement
from rich.console import Console

from kltrust.experiments.cli import doctor
from kltrust.experiments.engine import canary


def by_name(checks):
    return {check.name: check for check in checks}


@pytest.fixture(scope="module")
def checks():
    return by_name(doctor.report())


def test_this_installation_is_fit(checks):
    failed = [check for check in checks.values() if check.status == "fail"]
    assert failed == []
    assert doctor.exit_code(list(checks.values())) == 0


def test_every_dependency_is_looked_at(checks):
    required = {
        Requirement(line).name
        for line in importlib.metadata.requires("kltrust")
        if "extra ==" not in line
    }
    assert required <= set(checks)
    assert {"jax", "jaxlib", "flax", "optax", "distrax", "gymnax", "chex"} <= required
    assert "pytest" not in checks
    others = {"python", "kltrust", "devices", "canary", "precision", "jit", "environments", "disk"}
    assert others | {"extras", "compilations", "tyro", "pyarrow"} <= set(checks)


def test_extras_and_the_folder_of_compilations(checks, monkeypatch, tmp_path):
    assert "sweeps" in checks["extras"].value.partition("; not installed: ")[0]
    assert "none" in checks["compilations"].value
    (tmp_path / "program").write_bytes(bytes(3_000_000))
    monkeypatch.setattr(doctor, "compilation_cache", lambda: tmp_path)
    assert by_name(doctor._cache())["compilations"].value == f"{tmp_path}: 3 MB in 1 files"
    monkeypatch.setattr(doctor, "_is_installed", lambda package: package != "wandb")
    here, _, missing = by_name(doctor._extras())["extras"].value.partition("; not installed: ")
    assert "wandb" in missing.split(", ")
    assert "wandb" not in here.split(", ")


def test_whatever_is_not_ok_says_what_to_do(checks):
    assert all(bool(check.remedy) == (check.status != "ok") for check in checks.values())


@pytest.mark.parametrize(
    ("requirement", "status", "found"),
    [
        (f"jax=={jax.__version__}", "ok", jax.__version__),
        ("jax>=999", "fail", "wanted >=999"),
        (f"jax!={jax.__version__}", "fail", "wanted !="),
        ("no-such-package>=1", "fail", "not installed"),
        ("tfp-nightly>=0.26.0.dev0", "ok", ""),  # a pre-release satisfies its own bound
    ],
)
def test_requirements(requirement, status, found):
    check = doctor.check_requirement(Requirement(requirement))
    assert check.status == status
    assert found in check.value
    assert (f'"{Requirement(requirement)}"' in check.remedy) == (status == "fail")


def test_the_bad_jaxlib_is_outside_the_bounds():
    bounds = [Requirement(line) for line in importlib.metadata.requires("kltrust")]
    bad = {r.name for r in bounds if r.name in ("jax", "jaxlib") and "0.10.2" in r.specifier}
    assert bad == set()


def test_a_broken_environment_library_is_a_finding(monkeypatch):
    def broken(name):
        raise AttributeError(f"{name} needs another jax")

    monkeypatch.setattr(importlib, "import_module", broken)
    check = by_name(doctor._environments())["environments"]
    assert (check.status, "needs another jax" in check.value) == ("fail", True)


def test_a_folder_that_cannot_be_written_to_fails(monkeypatch, tmp_path):
    def read_only(descriptor):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", read_only)
    check = by_name(doctor.report(tmp_path / "not" / "there" / "yet"))["disk"]
    assert check.status == "fail"
    assert "read-only" in check.remedy
    assert not list(tmp_path.iterdir())


def test_what_costs_time_or_digits_is_a_warning(monkeypatch, tmp_path):
    assert by_name(doctor._precision())["precision"].status == "ok"
    with jax.enable_x64(True):
        assert by_name(doctor._precision())["precision"].status == "warn"
    with jax.disable_jit():
        assert by_name(doctor._precision())["jit"].status == "warn"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert by_name(doctor._devices())["devices"].status == "warn"
    monkeypatch.setattr(doctor, "_LITTLE_DISK", 2**80)
    check = by_name(doctor._disk(tmp_path))["disk"]
    assert (check.status, "free some space" in check.remedy) == ("warn", True)


def test_an_unforeseen_failure_is_a_row_and_not_a_traceback(monkeypatch):
    def broken():
        raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(jax, "devices", broken)
    check = by_name(doctor.report())["devices"]
    assert check.status == "fail"
    assert "libcudart" in check.value


def test_the_table_shows_brackets_and_all():
    rows = [
        doctor.Check("a", "ok", "1"),
        doctor.Check("b", "fail", "[2]", "pip install jax[cuda13]"),
    ]
    out = io.StringIO()
    Console(file=out, width=100).print(doctor.table(rows))
    assert "jax[cuda13]" in out.getvalue()
    assert "[2]" in out.getvalue()
    assert doctor.exit_code(rows) == 1
    assert doctor.exit_code([doctor.Check("a", "warn", "", "look")]) == 0


def test_the_canary_is_content_here():
    with jax.enable_x64(True):
        canary.check()
    canary.check()
    found = canary.findings()
    assert [finding.wrong for finding in found] == [0.0] * len(found)
    assert max(finding.worst for finding in found) < 1e-5
    kind = jax.local_devices()[0].device_kind
    assert [finding.how for finding in found[:2]] == [f"compiled on {kind}", f"eagerly on {kind}"]


def forgets_to_sum(function):
    """A compiler that is wrong in a part of the entries, as jaxlib 0.10.2 is."""

    def compiled(*arguments):
        result = np.array(jax.jit(function)(*arguments))
        result[..., result.shape[-2] // 2 :, :] = 1e3
        return result

    return compiled


def returns_nan(function):
    return lambda *x: np.full(jax.eval_shape(function, *x).shape, np.nan, np.float32)


def is_inexact(function):
    return lambda *x: jax.jit(function)(*x) * (1 + 1e-2)


@pytest.mark.parametrize("broken_jit", [forgets_to_sum, returns_nan, is_inexact])
def test_a_jit_that_is_wrong_is_refused(broken_jit):
    with pytest.raises(RuntimeError) as caught:
        canary.check(broken_jit)
    message = str(caught.value)
    assert "computes wrong numbers" in message
    assert "jax==0.10.1" in message
    assert "XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=" in message
    compiled = [f for f in canary.findings(broken_jit) if f.how.startswith("compiled")]
    assert all(finding.wrong > 0.1 for finding in compiled)


def test_each_expression_is_refused_by_itself():
    def wrong_once(number):
        count = iter(range(len(names)))
        return lambda f: returns_nan(f) if next(count) == number else jax.jit(f)

    names = list(dict.fromkeys(finding.expression for finding in canary.findings()))
    for number, name in enumerate(names):
        found = canary.findings(wrong_once(number))
        wrong = [(f.expression, f.how.split()[0]) for f in found if f.wrong > 0]
        assert wrong == [(name, "compiled")]


def test_operators_that_are_wrong_one_by_one_are_refused(monkeypatch):
    """As jaxlib 0.11.0 on some GPUs, where the compiled expressions are right."""
    right = jnp.sqrt
    stale = lambda x: right(x) if isinstance(x, jax.core.Tracer) else jnp.zeros_like(x)  # noqa: E731
    monkeypatch.setattr(jnp, "sqrt", stale)
    wrong = [finding for finding in canary.findings.__wrapped__() if finding.wrong > 0]
    assert [(f.expression, f.how.split()[0]) for f in wrong] == [
        ("elementwise operators", "eagerly")
    ]


def test_a_canary_that_refuses_is_a_row_with_the_remedy(monkeypatch):
    monkeypatch.setattr(canary.check, "__defaults__", (returns_nan,))
    check = by_name(doctor._canary())["canary"]
    assert (check.status, check.remedy) == ("fail", canary.REMEDY)
    assert "computes wrong numbers" in check.value


@pytest.mark.parametrize(("seconds", "status"), [((1.0, 1.0), "ok"), ((9.0, 1.0), "warn")])
def test_compiled_code_that_is_slow_here_is_a_row(monkeypatch, seconds, status):
    monkeypatch.setattr(doctor, "_fastest", lambda *functions: seconds)
    (check,) = doctor._speed()
    assert (check.status, bool(check.remedy)) == (status, status == "warn")
    assert f"{seconds[0]:.2f} times NumPy's time" in check.value


def test_calls_are_timed_in_turns():
    called = []
    doctor._fastest(lambda: called.append(1), lambda: called.append(2))
    assert called == [1, 2] * 8
