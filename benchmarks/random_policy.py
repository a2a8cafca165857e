"""The mean return of uniformly random actions: the zero of the report's scores.

    python benchmarks/random_policy.py                     all environments, some minutes
    python benchmarks/random_policy.py CartPole-v1 ...     some; the others stay

Environments run with their default parameters. One that needs a download, or has actions without
bounds, is left out. Writes random_policy.json to benchmarks/results/, and the means, which the
report reads, to kltrust/experiments/reading/random_returns.json.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import provenance
import tyro
from common import RESULTS, options, plain, versions, write
from record import random_baseline

from kltrust.environments import available
from kltrust.experiments.reading import baseline


@dataclasses.dataclass(frozen=True)
class Options:
    """Which environments."""

    envs: tyro.conf.Positional[tuple[str, ...]] = ()
    episodes: int = 1000
    out: Path = RESULTS
    means: Path = baseline.FILE


def main(options: Options) -> None:
    path = options.out / "random_policy.json"
    known = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    rows = {row["env"]: row for row in known}
    for env in options.envs or available():
        try:
            found = random_baseline(env, options.episodes)
        except (ImportError, RuntimeError, ValueError, OSError) as error:
            print(f"{env}: {str(error).splitlines()[0]}", flush=True)
            continue
        origin = {"versions": versions(), "origin": provenance.origin()}
        rows[env] = {"env": env, **{k: plain(v, 6) for k, v in found.items()}, **origin}
        print(f"{env}: {found['mean']:.4g} +- {found['standard_error']:.2g}", flush=True)
        write(path, {"rows": list(rows.values())})
        means = {name: rows[name]["mean"] for name in sorted(rows)}
        options.means.write_text(json.dumps(means, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(options(Options, __doc__))
