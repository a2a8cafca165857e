"""What several tables share."""

from __future__ import annotations

from typing import Any


def by_env(results: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Results by environment and algorithm."""
    envs: dict[str, dict[str, dict[str, Any]]] = {}
    for result in results:
        envs.setdefault(result["env"], {})[result["algorithm"]] = result
    return envs


COMPARED = ("| what | against | |", "| --- | --- | --- |")


def compared(what: str, against: str, ratio: list[float], ending: str) -> str:
    """A line of a table of ratios: median and quartiles."""
    median, low, high, _ = ratio
    return f"| {what} | {against} | {median:.2f} ({low:.2f} to {high:.2f}) {ending} |"
