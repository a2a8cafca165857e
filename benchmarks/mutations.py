"""Does a test fail when a formula is wrong? Each edit below is planted in a copy of the tree.

    python benchmarks/mutations.py                   all edits: some minutes on two quiet cores
    python benchmarks/mutations.py --only kl_k3 gae  some of them, by a part of their file or text

An edit is a formula as it stands in a file, a wrong one in its place, and the tests that guard it.
For each, the named tests are run in the copy: "caught" if one of them fails, "SURVIVED" if all
pass. First they run unedited, since a test that fails anyway catches nothing. The exit status is
the number of survivors. Writes mutations.json to benchmarks/results/; an edit that was not tried
keeps its row there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common import RESULTS, options, versions, write

ROOT = Path(__file__).resolve().parents[1]


class Edit(NamedTuple):
    """A wrong formula; ``tests`` are node ids below tests/, separated by spaces."""

    file: str
    right: str
    wrong: str
    tests: str


EDITS = tuple(
    Edit(*edit)
    for edit in (
        # advantages
        (
            "advantages.py",
            "future = jnp.where(terminated, 0, next_value)",
            "future = jnp.where(terminated | truncated, 0, next_value)",
            "test_advantages.py::test_ends_and_time_limits",
        ),
        (
            "advantages.py",
            "decay = jnp.where(terminated | truncated, 0, gamma * lam)",
            "decay = jnp.where(terminated, 0, gamma * lam)",
            "test_advantages.py::test_ends_and_time_limits",
        ),
        (
            "advantages.py",
            "advantage = delta + decay * later",
            "advantage = delta - decay * later",
            "test_advantages.py::test_gae_against_explicit_sums",
        ),
        (
            "advantages.py",
            "centred / (std + epsilon)",
            "centred / (std**2 + epsilon)",
            "test_advantages.py::test_standardize",
        ),
        # losses
        (
            "losses/surrogates.py",
            "jnp.where(rewarded, ratio <= bound, ratio >= bound)",
            "jnp.where(rewarded, ratio < bound, ratio > bound)",
            "test_losses.py::test_at_old_all_surrogates_have_one_gradient",
        ),
        (
            "losses/surrogates.py",
            "jnp.where(rewarded, 1 + clip_high, 1 - clip_eps)",
            "jnp.where(rewarded, 1 + clip_high, 1 / (1 + clip_eps))",
            "test_losses.py::test_surrogates_against_case_by_case",
        ),
        (
            "losses/values.py",
            "jnp.where(free >= held, free, held)",
            "jnp.where(free >= held, held, free)",
            "test_losses.py::test_value_losses",
        ),
        (
            "losses/values.py",
            "return -distribution_entropy(dist)",
            "return distribution_entropy(dist)",
            "test_losses.py::test_entropy_loss",
        ),
        # divergences
        (
            "divergences/arrays.py",
            "return 0.5 * (categorical_kl(p, mixture) + categorical_kl(q, mixture))",
            "return 0.5 * (categorical_kl(mixture, p) + categorical_kl(mixture, q))",
            "test_divergences.py::test_jensen_shannon",
        ),
        (
            "divergences/arrays.py",
            "jnp.where(generic, log_sum / excess,",
            "jnp.where(generic, log_sum / alpha,",
            "test_divergences.py::test_renyi",
        ),
        (
            "divergences/numerics.py",
            "q - p - p * d",
            "q - p + p * d",
            "test_divergences.py::test_kl_near_and_far_meet",
        ),
        (
            "divergences/numerics.py",
            "1 / math.factorial(k + 2)",
            "1 / math.factorial(k + (k > 2) + 2)",
            "test_divergences.py::test_kl_near_and_far_meet",
        ),
        (
            "divergences/numerics.py",
            "1 / (2 * k + 3)",
            "1 / (2 * k + 3 + (k > 1))",
            "test_divergences.py::test_against_definitions"
            " test_divergences.py::test_small_float32_kl_keeps_its_digits",
        ),
        (
            "divergences/distributions.py",
            "u = over_scale(scale - new_scale, new_scale)",
            "u = over_scale(scale - new_scale, scale)",
            "test_divergences.py::test_distribution_kl_by_enumeration_and_oracle"
            " test_divergences.py::test_distributions_against_distrax_and_themselves",
        ),
        (
            "divergences/samples.py",
            "return 0.5 * jnp.square(jnp.asarray(log_ratio))",
            "return jnp.square(jnp.asarray(log_ratio))",
            "test_estimators.py",
        ),
        (
            "divergences/samples.py",
            "jnp.where(near, series, jnp.expm1(log_ratio) - log_ratio)",
            "jnp.where(near, series, jnp.expm1(-log_ratio) + log_ratio)",
            "test_estimators.py",
        ),
        (
            "divergences/samples.py",
            "covariance / jnp.where(moved, square, 1)",
            "-covariance / jnp.where(moved, square, 1)",
            "test_estimators.py::test_a_the_best_coefficient_is_the_one_of_least_variance",
        ),
        # tokens
        (
            "tokens/kl.py",
            "log_prefix = jnp.cumsum(log_ratio, axis=-1) - log_ratio",
            "log_prefix = jnp.cumsum(log_ratio, axis=-1)",
            "test_sequences.py::test_a_token_weighs_as_the_prefix_before_it",
        ),
        # fisher
        (
            "fisher.py",
            "jnp.sqrt(probs) * (logits - jnp.sum(probs * logits, axis=-1, keepdims=True))",
            "jnp.sqrt(probs) * logits",
            "test_fisher.py::test_matrix_in_leaves_that_are_not_normalised",
        ),
        (
            "fisher.py",
            "np.sqrt(2.0).astype(scale.dtype) * unit * scale",
            "unit * scale",
            "test_fisher.py::test_product_is_the_hessian_of_the_mean_kl",
        ),
        # solvers
        (
            "solvers.py",
            "tree.add_scaled(r_new, rr_new / rr, p)",
            "tree.add_scaled(r_new, rr / rr_new, p)",
            "test_solvers.py::test_solves",
        ),
        (
            "solvers.py",
            "jnp.sqrt(2 * max_kl / jnp.where(",
            "jnp.sqrt(max_kl / jnp.where(",
            "test_solvers.py::test_trust_region_scale_puts_the_quadratic_on_the_bound",
        ),
        (
            "solvers.py",
            "> rtol * b_norm)",
            "> rtol)",
            "test_solvers.py::test_stops_at_the_tolerance_and_not_before",
        ),
        (
            "solvers.py",
            "~accepted & (k <= max_backtracks)",
            "~accepted & (k < max_backtracks)",
            "test_solvers.py::test_takes_the_first_that_is_accepted",
        ),
        # updates and algorithms
        (
            "updates/controllers.py",
            "kl < target_kl / tolerance",
            "kl < target_kl * tolerance",
            "test_updates.py::test_a_weight_follows_the_kl",
        ),
        (
            "updates/objectives.py",
            "return tree.weighted_mean(kl_divergence(batch.old, new), batch.weight)",
            "return tree.weighted_mean(kl_divergence(new, batch.old), batch.weight)",
            "test_updates.py::test_the_gate_is_the_mean_kl",
        ),
        (
            "updates/natural.py",
            "tree.add_scaled(product, self.damping, v)",
            "tree.add_scaled(product, -self.damping, v)",
            "test_updates.py::test_the_natural_direction_is_the_dense_solve",
        ),
        (
            "algorithms/_trpo.py",
            "return (kl <= max_kl) & good",
            "return (kl <= 1.5 * max_kl) & good",
            "test_algorithms.py::test_trpo_keeps_every_bound"
            " test_exact_updates.py::test_trpo_is_the_dense_solve_and_a_loop",
        ),
        (
            "algorithms/_ppo_adaptive_lr.py",
            "if_above=1 / self.learning_rate_factor",
            "if_above=self.learning_rate_factor",
            "test_exact_loops.py::test_what_follows_the_kl",
        ),
        # normalisation, critic
        (
            "rollout/normalization.py",
            "share * (1 - share) * d**2",
            "share * d**2",
            "test_normalization.py::test_any_split_gives_the_moments_of_all",
        ),
        (
            "critic.py",
            'variance["error"] / jnp.where(',
            'variance["target"] / jnp.where(',
            "test_critic.py",
        ),
        # tabular
        (
            "tabular/_mdp.py",
            "visitation = (1 - mdp.gamma) * _solve(system.T",
            "visitation = mdp.gamma * _solve(system.T",
            "test_tabular.py::test_identities_of_a_solution",
        ),
        (
            "tabular/_mdp.py",
            "mdp.reward + mdp.gamma * change - (1 - mdp.gamma) * value",
            "mdp.reward + mdp.gamma * change - mdp.gamma * value",
            "test_tabular.py::test_solve_is_the_sum_over_time"
            " test_tabular.py::test_identities_of_a_solution",
        ),
        (
            "tabular/_bounds.py",
            "return 4 * eps * mdp.gamma / (1 - mdp.gamma) ** 2",
            "return 2 * eps * mdp.gamma / (1 - mdp.gamma) ** 2",
            "test_theory.py::test_tight_cases_hold_and_catch_a_halved_constant"
            " test_theory.py::test_order_of_the_penalties",
        ),
        (
            "tabular/_bounds.py",
            "return 2 * eps * mdp.gamma * jnp.square(alpha) / tail",
            "return eps * mdp.gamma * jnp.square(alpha) / tail",
            "test_theory.py::test_the_conservative_penalty_is_tight",
        ),
        # statistics
        (
            "experiments/reading/statistics.py",
            "cut = count // 4",
            "cut = count // 5",
            "test_statistics.py",
        ),
        (
            "experiments/reading/statistics.py",
            "(x > y) + 0.5 * (x == y)",
            "(x > y) + 1.0 * (x == y)",
            "test_statistics.py",
        ),
        (
            "experiments/reading/statistics.py",
            "(100 - 100 * confidence) / 2",
            "100 - 100 * confidence",
            "test_statistics.py",
        ),
    )
)


@dataclass(frozen=True)
class Options:
    """What is tried."""

    only: tuple[str, ...] = ()
    """Edits whose file, formula or tests hold one of these texts; all by default."""
    out: Path = RESULTS


def source(edit: Edit, root: Path = ROOT) -> Path:
    """The file that an edit changes."""
    return root / "kltrust" / edit.file


def planted(edit: Edit, text: str) -> str:
    """The text with the wrong formula in it.

    Raises:
        ValueError: if the right formula does not occur exactly once.
    """
    if text.count(edit.right) != 1:
        raise ValueError(f"{edit.file} has {edit.right!r} {text.count(edit.right)} times, not once")
    return text.replace(edit.right, edit.wrong)


def main(options: Options) -> int:
    chosen = [e for e in EDITS if not options.only or any(o in " ".join(e) for o in options.only)]
    if not chosen:
        raise SystemExit(f"no edit holds any of {', '.join(options.only)}")
    record = options.out / "mutations.json"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("kltrust", "tests", "benchmarks"):
            skipped = shutil.ignore_patterns("__pycache__", "results")
            shutil.copytree(ROOT / name, copy / name, ignore=skipped)
        shutil.copy(ROOT / "pyproject.toml", copy)
        if not passes(copy, sorted({test for edit in chosen for test in edit.tests.split()})):
            raise RuntimeError("the named tests fail without any edit")
        survivors = 0
        for edit in chosen:
            survived = survives(copy, edit)
            survivors += survived
            rows = with_row(record, edit, caught=not survived)
            write(record, {"rows": rows, "versions": versions()})
    print(f"{len(chosen)} edits, {len(chosen) - survivors} caught, {survivors} survived")
    return survivors


def key(edit: Edit) -> tuple[str, str]:
    """The key of an edit's row."""
    return edit.file, edit.wrong


def with_row(record: Path, edit: Edit, caught: bool) -> list[dict[str, Any]]:
    """The rows of a record with an edit's row added; rows of removed edits are left out."""
    rows = json.loads(record.read_text("utf-8"))["rows"] if record.exists() else []
    found = {(row["file"], row["wrong"]): row["caught"] for row in rows}
    found[key(edit)] = caught
    known = [key(e) for e in EDITS]
    return [{"file": k[0], "wrong": k[1], "caught": found[k]} for k in known if k in found]


def survives(copy: Path, edit: Edit) -> bool:
    """Whether the tests pass with the edit in the copy; the copy is restored afterwards."""
    path = source(edit, copy)
    text = path.read_text("utf-8")
    path.write_text(planted(edit, text), "utf-8")
    try:
        survived = passes(copy, edit.tests.split())
    finally:
        path.write_text(text, "utf-8")
    verdict = "SURVIVED" if survived else "caught"
    print(f"{verdict:9}{edit.file}: {edit.wrong}", flush=True)
    return survived


def passes(copy: Path, tests: list[str]) -> bool:
    """Whether all the tests pass in the copy.

    Raises:
        RuntimeError: if they can't be run, for example because a name is wrong.
    """
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    ran = subprocess.run(
        [*command, *(f"tests/{test}" for test in tests)],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {ran.returncode}:\n{ran.stdout[-2000:]}{ran.stderr}")
    return ran.returncode == 0


if __name__ == "__main__":
    sys.exit(main(options(Options, __doc__)))
