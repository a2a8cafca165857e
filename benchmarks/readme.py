"""Makes the tables of the README and of the docs, and a picture, from the recorded results.

python benchmarks/readme.py            rewrites what stands between the markers in those pages
python benchmarks/readme.py --check    fails if that would change anything
"""

from __future__ import annotations

import fnmatch
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import provenance
import tyro
from common import RESULTS
from recorded import (
    accelerators,
    atlas,
    claims,
    compiled,
    faults,
    installation,
    judge,
    laboratory,
    scores,
    searches,
    speed,
    watching,
)

ROOT = Path(__file__).parent.parent
PICTURE = RESULTS / "learning.png"
PAGES = (
    ROOT / "README.md",
    *sorted((ROOT / "docs/results").glob("*.md")),
    ROOT / "docs/findings.md",
    *(ROOT / "docs/howto" / name for name in ("search.md", "watch.md")),
    ROOT / "docs/index.md",
)
NAMED = {
    scores: "trust_region ppo_table1 ppo_table1_brax code_level stagger gymnasium_scores adapters",
    laboratory: "collapse memory laboratory_clip laboratory_search laboratory_model "
    "laboratory_hurt laboratory_family",
    speed: "phases audit_cost sweep_speed",
    searches: "search_grids search_population",
    compiled: "compiled_equal compiled_algorithms compiled_memory compiled_presets",
}
"""Tables made from one result: result, table and function have the same name."""
TABLES: dict[str, tuple[Any, ...]] = {
    **{name: (getattr(of, name), name) for of, names in NAMED.items() for name in names.split()},
    "scores": (scores.scores, "learning/*", "random_policy"),
    **{name: (getattr(scores, name), "learning/*") for name in ("region", "trpo")},
    "minatar": (scores.minatar, "minatar_2m", "minatar"),
    "fast": (speed.fast, "speed_*", "peers_*"),
    **{name: (getattr(speed, name), f"{name}_*") for name in ("speed", "peers", "scaling")},
    "judge": (judge.judge, "judge"),
    "accelerators": (accelerators.accelerators, "accelerator*"),
    "extras": (installation.extras, "extras"),
    "atlas": (atlas.atlas, "atlas*"),
    "atlas_claims": (atlas.atlas_claims, "atlas*"),
    "atlas_shipped": (atlas.atlas_shipped, "atlas_shipped*"),
    "wide": (scores.wide, "wide*"),
    "tuning_classic": (scores.tuning_classic, "tuning_classic*"),
    "tuning_accelerator": (scores.tuning_accelerator, "tuning_accelerator*"),
    "tuned": (atlas.tuned, "tuned*"),
    "atlas_hours": (atlas.atlas_hours, "atlas_*_hours"),
    "host_work": (speed.host_work, "sweep_host_work"),
    "kills": (faults.kills, "kills"),
    "watch": (watching.watch, "watch"),
    "mutations": (faults.mutations, "mutations"),
}
"""The function that makes each table, and the results that it needs."""
CLAIMS: dict[str, tuple[Any, ...]] = {
    "left_behind": (claims.left_behind, "learning/*", "random_policy"),
    "regions": (claims.regions, "trust_region"),
    "minatar_passed": (claims.minatar_passed, "minatar_2m", "minatar"),
    "remembered": (claims.remembered, "memory"),
    "others": (claims.others, "adapters"),
    "lost": (claims.lost, "kills"),
    "clip_leaves": (claims.clip_leaves, "laboratory_clip"),
    "refused": (claims.refused, "laboratory_search"),
    "predicted": (claims.predicted, "laboratory_model"),
    "hurts": (claims.hurts, "laboratory_hurt"),
    "monotone": (claims.monotone, "laboratory_family"),
    "searched": (claims.searched, "search_grids"),
    "populations": (claims.populations, "search_population"),
    "aims": (claims.aims, "peers_ppo", "peers_solve", "phases"),
    "gradients": (claims.gradients, "phases"),
    "kernels": (claims.kernels, "compiled_equal", "compiled_memory"),
}
"""Likewise for each paragraph of claims; the tables beside it say how old a record is."""


def main(check: bool = False) -> int:
    """Writes the pages.

    Args:
        check: change nothing; fail if a page is not what the results say.
    """
    made = {name: make(*map(load, of)) + age(of) for name, (make, *of) in TABLES.items()}
    made |= {name: make(*map(load, of)) for name, (make, *of) in CLAIMS.items()}
    status = rewrite(PAGES, made, check)
    if not check:
        scores.draw(load("learning/*"), PICTURE)
    return status


def age(names: Sequence[str]) -> list[str]:
    """A note below a table of which a result was recorded by other code than today's."""
    known = provenance.results()
    named = [name for name in known for of in names if fnmatch.fnmatch(name, of)]
    stale = [name for name in named if provenance.why_stale(known[name])]
    if not stale:
        return []
    some = "Recorded" if len(stale) == len(named) else f"{len(stale)} of {len(named)} recorded"
    return ["", f"*{some} at an earlier version of the code.*"]


def load(name: str) -> dict[str, Any]:
    """A recorded result; for a name with a star, all that match, by the part under the star."""
    if "*" not in name:
        return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    before = name.rpartition("/")[2].removesuffix("*")
    paths = sorted(RESULTS.glob(f"{name}.json"))
    return {path.stem.removeprefix(before): json.loads(path.read_text("utf-8")) for path in paths}


def rewrite(pages: tuple[Path, ...], made: dict[str, list[str]], check: bool) -> int:
    """Puts the tables into the pages; with ``check``, names stale pages and returns status 1."""
    old = {page: page.read_text("utf-8") for page in pages}
    new = filled(old, made)
    stale = [page for page in pages if new[page] != old[page]]
    names = ", ".join(page.name for page in stale)
    if check:
        print(f"{names}: run {sys.argv[0]}" if stale else "all is up to date")
        return int(bool(stale))
    for page in stale:
        page.write_text(new[page], "utf-8")
    print(f"wrote {names}" if stale else "all was up to date")
    return 0


def filled(pages: dict[Path, str], made: dict[str, list[str]]) -> dict[Path, str]:
    """The pages with every table and claim in its places.

    Raises:
        ValueError: if a page names an unknown one, or no page names one.
    """
    pattern = re.compile(r"(<!-- (?:table|claim):([\w-]+) -->\n).*?(<!-- end:\2 -->)", re.DOTALL)
    asked = {name for text in pages.values() for _, name, _ in pattern.findall(text)}
    if unknown := asked ^ set(made):
        raise ValueError(f"asked for and not made, or the other way: {', '.join(sorted(unknown))}")

    def replaced(found: re.Match[str]) -> str:
        return found[1] + "\n".join(made[found[2]]) + "\n" + found[3]

    return {page: pattern.sub(replaced, text) for page, text in pages.items()}


if __name__ == "__main__":
    sys.exit(tyro.cli(main, description=__doc__))
