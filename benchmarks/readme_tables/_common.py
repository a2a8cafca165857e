"""What several tables share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def by_env(results: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Results by environment and algorithm."""
    envs: dict[str, dict[str, dict[str, Any]]] = {}
    for result in results:
        envs.setdefault(result["env"], {})[result["algorithm"]] = result
    return envs


def versions(packages: dict[str, str], envs: Iterable[str]) -> str:
    """Of jax, and of the libraries that the environments come from: gymnax has no prefix."""
    prefixes = (env.rpartition("/")[0] for env in envs)
    libraries = dict.fromkeys(prefix or "gymnax" for prefix in prefixes)
    return ", ".join(f"{name} {packages[name]}" for name in ("jax", *libraries))


COMPARED = ("| what | against | |", "| --- | --- | --- |")


def compared(what: str, against: str, ratio: list[float], ending: str) -> str:
    """A line of a table of ratios: median and quartiles."""
    median, low, high, _ = ratio
    return f"| {what} | {against} | {median:.2f} ({low:.2f} to {high:.2f}) {ending} |"
