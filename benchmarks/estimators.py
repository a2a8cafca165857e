"""Bias, variance and gradients of the KL estimators: the tables of docs/estimators.md.

python benchmarks/estimators.py            rewrites what stands between the markers on that page
python benchmarks/estimators.py --check    fails if that would change anything
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import jax
import numpy as np
import tyro
from enumerated import (
    Both,
    both_kls,
    gaussian,
    gaussian_closed_forms,
    sequences,
    setting_a,
    setting_b,
)
from readme import ROOT, rewrite
from recorded import lines

PAGE = ROOT / "docs" / "estimators.md"

# Four actions; the other policy lies at three distances in one direction.
CENTRE = np.array([0.6, -0.3, 0.1, -0.4])
DIRECTION = np.array([-0.8, 0.5, 0.9, -0.6])
DISTANCES = (0.1, 0.5, 2.0)
BEHAVIOUR = np.array([0.2, 0.4, -0.5, 0.1])
GAUSSIANS = (0.1, 0.5, 1.0)
EQUAL = 1e-9
"""A value or a gradient with a smaller relative error counts as that of a KL."""


def main(check: bool = False) -> int:
    """Writes the page.

    Args:
        check: change nothing; fail if the page is not what this command makes.
    """
    return rewrite((PAGE,), tables(), check)


def tables() -> dict[str, list[str]]:
    """Every generated table, as Markdown lines."""
    with jax.enable_x64(True):
        others = [CENTRE + h * DIRECTION for h in DISTANCES]
        kls = [both_kls(CENTRE, other) for other in others]
        a, b = ("KL(old‖new)", "KL(new‖old)"), ("KL(ref‖pi)", "KL(pi‖ref)")
        return {
            "a": setting_table([setting_a(CENTRE, new) for new in others], kls, a, a[0]),
            "b": setting_table([setting_b(pi, CENTRE) for pi in others], kls, b, b[1]),
            "off-policy": setting_table(
                [setting_b(pi, CENTRE, BEHAVIOUR) for pi in others], kls, b, b[1]
            ),
            "gaussian": gaussian_table(),
            "sequences": sequence_table(),
        }


def number(x: float, digits: int = 2) -> str:
    """A number as text; 0 with a rounding error becomes 0."""
    return "0" if abs(x) < EQUAL else f"{x:.{digits}g}"


def numbers(xs: Sequence[float], digits: int = 2) -> str:
    return "0" if all(abs(x) < EQUAL for x in xs) else ", ".join(number(x, digits) for x in xs)


def whose(gradients: Sequence[np.ndarray], kls: dict[str, Sequence[np.ndarray]], right: str) -> str:
    """The KL that has these gradients at every distance; else a comparison with the right one."""
    norm, sizes = np.linalg.norm, [np.linalg.norm(target) for target in kls[right]]
    if all(norm(g) < EQUAL * size for g, size in zip(gradients, sizes, strict=True)):
        return "0"
    for name, targets in kls.items():
        for sign, mark in ((1, ""), (-1, "−")):
            pairs = [(g, sign * t) for g, t in zip(gradients, targets, strict=True)]
            if all(norm(g - t) <= EQUAL * norm(t) for g, t in pairs):
                return mark + name
    lengths = [norm(g) / size for g, size in zip(gradients, sizes, strict=True)]
    cosines = [
        g @ target / (norm(g) * norm(target))
        for g, target in zip(gradients, kls[right], strict=True)
    ]
    return f"of no KL: cos {numbers(cosines, 3)}; length {numbers(lengths)}"


def setting_table(
    found: Sequence[dict[str, Both]],
    kls: Sequence[tuple[tuple[float, np.ndarray], ...]],
    names: tuple[str, str],
    right: str,
) -> list[str]:
    """A row per estimator.

    Args:
        found: the estimators' facts, by distance.
        kls: `both_kls`, by distance.
        names: the names of the two KLs.
        right: the KL that the estimators are for.
    """
    values = {name: np.array([pair[i][0] for pair in kls]) for i, name in enumerate(names)}
    slopes = {name: [pair[i][1] for pair in kls] for i, name in enumerate(names)}
    sizes = np.array([np.linalg.norm(slope) for slope in slopes[right]])
    rows = []
    for name in found[0]:
        loss, reward = ([one[name][i] for one in found] for i in (0, 1))
        value, std, noise = (
            np.array([getattr(x, f) for x in loss]) for f in ("value", "std", "noise")
        )
        of = next((k for k, v in values.items() if np.allclose(value, v, rtol=EQUAL, atol=0)), None)
        scale = values[of or right]
        rows.append(
            [
                name,
                of or "of no KL",
                numbers(value / scale - 1),
                numbers(std / scale),
                whose([x.gradient for x in loss], slopes, right),
                numbers(noise / sizes),
                whose([x.gradient for x in reward], slopes, right),
            ]
        )
    header = ["estimator", "value", "bias / KL", "std / KL", "gradient as a loss term"]
    header += ["its noise", "gradient as a detached reward"]
    return [f"{right} = {numbers(values[right])}:", "", *lines(header, rows)]


def gaussian_table() -> list[str]:
    formulas = {
        "`kl_k1`": ("0", "2 / mu"),
        "`kl_k2`": ("mu² / 4", "√(2 + mu²)"),
        "`kl_k3`": ("0", "2 √(exp(mu²) − 1 − mu²) / mu²"),
        "`kl_control_variate`, best c": ("0", "2 √(mu² − mu⁴ / (exp(mu²) − 1)) / mu²"),
    }
    found = [gaussian(mu) for mu in GAUSSIANS]
    for one, mu in zip(found, GAUSSIANS, strict=True):
        for name, closed in gaussian_closed_forms(mu).items():
            np.testing.assert_allclose(one[name], closed, rtol=1e-6, atol=EQUAL)
    computed = {name: zip(*(x[name] for x in found), strict=True) for name in formulas}
    rows = []
    for name, (bias, std) in formulas.items():
        biases, stds = map(numbers, computed[name])
        rows.append([name, bias, biases, std, stds])
    header = ["estimator", "bias / KL", "computed", "std / KL", "computed"]
    return [f"mu = {numbers(GAUSSIANS)}:", "", *lines(header, rows)]


def sequence_table() -> list[str]:
    on, value, slope = sequences(off_policy=False)
    off, _, _ = sequences(off_policy=True)
    whole = "KL of the sequences"
    rows = [
        [
            name,
            number(fact.value / value - 1),
            number(fact.std / value),
            whose([fact.gradient], {whole: [slope]}, whole),
            number(fact.noise / np.linalg.norm(slope)),
            number(off[name].value / value - 1),
            whose([off[name].gradient], {whole: [slope]}, whole),
        ]
        for name, fact in on.items()
    ]
    header = ["loss", "bias / KL", "std / KL", "gradient", "its noise"]
    return lines([*header, "off policy: bias / KL", "off policy: gradient"], rows)


if __name__ == "__main__":
    sys.exit(tyro.cli(main, description=__doc__))
