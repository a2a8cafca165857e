"""Makes the tables of the README and of docs/results, and a picture, from the recorded results.

python benchmarks/readme.py            rewrites what stands between the markers in those pages
python benchmarks/readme.py --check    fails if that would change anything
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import tyro
from readme_tables import laboratory, learning, reach, speed, sweeps

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PICTURE = RESULTS / "learning.png"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs/results").glob("*.md")))


@dataclasses.dataclass(frozen=True)
class Options:
    """What to do."""

    check: bool = False
    """Change nothing; fail if a page is not what the results say."""


def main(options: Options) -> int:
    old = {page: page.read_text() for page in PAGES}
    new = filled(old, tables())
    if options.check:
        stale = [page.name for page in PAGES if new[page] != old[page]]
        print(f"{', '.join(stale)}: run benchmarks/readme.py" if stale else "all is up to date")
        return int(bool(stale))
    for page, text in new.items():
        page.write_text(text)
    learning.draw_learning(load("learning"), PICTURE)
    print(f"wrote {', '.join(page.name for page in PAGES)} and {PICTURE.relative_to(ROOT)}")
    return 0


def filled(pages: dict[Path, str], made: dict[str, list[str]]) -> dict[Path, str]:
    """The pages with every table in the places that ask for it.

    Raises:
        ValueError: if a page asks for a table that there is not, or none asks for one.
    """
    asked = {page: re.findall(r"<!-- table:(\w+) -->", text) for page, text in pages.items()}
    if unknown := {name for names in asked.values() for name in names} ^ set(made):
        raise ValueError(f"asked for and not made, or the other way: {', '.join(sorted(unknown))}")
    found = {}
    for page, text in pages.items():
        for name in asked[page]:
            text = between(text, name, made[name])
        found[page] = text
    return found


def load(name: str) -> list[dict[str, Any]]:
    """All recorded results of a benchmark, in the order of its tables."""
    return [json.loads(path.read_text()) for path in sorted((RESULTS / name).glob("*.json"))]


def between(text: str, name: str, lines: list[str]) -> str:
    """The text with what stands between a table's markers replaced."""
    begin, end = f"<!-- table:{name} -->\n", f"<!-- end:{name} -->"
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise ValueError(f"there is no {begin.strip()} ... {end}")
    return head + begin + "\n".join(lines) + "\n" + end + tail


def tables() -> dict[str, list[str]]:
    """Every generated table, as Markdown lines."""
    runs = load("learning")
    return {
        "scores": learning.scores(runs),
        "region": learning.region(runs),
        "trpo": learning.trpo(runs),
        "setting": [learning.setting(runs)],
        "collapse": [learning.collapse(recorded("collapse"))],
        **{
            f"laboratory_{part}": table(recorded(f"laboratory_{part}"))
            for part, table in laboratory.LABORATORY
        },
        "trust_region": sweeps.trust_region(recorded("trust_region")),
        "trust_region_setting": [sweeps.recorded_setting(recorded("trust_region"))],
        "classic": sweeps.classic(recorded("classic")),
        "classic_setting": [sweeps.recorded_setting(recorded("classic"))],
        "table1": sweeps.table1(recorded("ppo_table1")),
        "table1_setting": [sweeps.recorded_setting(recorded("ppo_table1"))],
        "table1_brax": sweeps.table1(recorded("ppo_table1_brax")),
        "table1_brax_setting": [sweeps.recorded_setting(recorded("ppo_table1_brax"))],
        "minatar": sweeps.minatar(*map(recorded, ("minatar_2m", "minatar"))),
        "minatar_setting": [sweeps.minatar_setting(*map(recorded, ("minatar_2m", "minatar")))],
        "code_level": sweeps.table1(recorded("code_level")),
        "code_level_setting": [sweeps.recorded_setting(recorded("code_level"))],
        "stagger": sweeps.table1(recorded("stagger")),
        "stagger_setting": [sweeps.recorded_setting(recorded("stagger"))],
        "audit_cost": [speed.audit_cost(recorded("audit_cost"))],
        "sweep_speed": speed.sweep_speed(recorded("sweep_speed")),
        "gymnasium_scores": reach.gymnasium_scores(recorded("gymnasium_scores")),
        "gymnasium_setting": [reach.gymnasium_setting(recorded("gymnasium_scores"))],
        "memory": reach.memory(recorded("memory")),
        "adapters": reach.adapters(recorded("adapters")),
        "adapters_setting": [reach.adapters_setting(recorded("adapters"))],
        "fast": speed.fast(recorded_parts("speed"), recorded_parts("peers")),
        "fast_setting": [speed.fast_setting(recorded_parts("speed"))],
        "speed": speed.speed(recorded_parts("speed")),
        "speed_setting": [speed.speed_setting(recorded_parts("speed"))],
        "phases": speed.phases(recorded("phases")),
        "phases_setting": [speed.phases_setting(recorded("phases"))],
        "peers": speed.peers(recorded_parts("peers")),
        "peers_setting": [speed.peers_setting(recorded_parts("peers"))],
        "scaling": speed.scaling(recorded_parts("scaling")),
        "scaling_setting": [speed.scaling_setting(recorded_parts("scaling"))],
        "survival": [speed.survival(recorded("sweep_survival"), recorded("sweep_host_work"))],
    }


def recorded(name: str) -> dict[str, Any]:
    """One recorded result."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def recorded_parts(name: str) -> dict[str, dict[str, Any]]:
    """All recorded parts of a benchmark, by their names."""
    paths = sorted(RESULTS.glob(f"{name}_*.json"))
    return {path.stem.removeprefix(f"{name}_"): json.loads(path.read_text()) for path in paths}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
