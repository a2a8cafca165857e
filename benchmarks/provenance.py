"""The origin of a recorded result, and whether code that decides its numbers has changed since.

Every result names the commit, the command, the constraint file, and a digest of each module that
the run imported. Comments, docstrings and the texts of errors do not count.
`benchmarks/record.py --stale` lists the results to record again, and `benchmarks/readme.py` marks
their tables. A change after which recorded results were run again with the same bits does not count
either: `benchmarks/again.py --accept` adds it to `accepted.json`.

    python benchmarks/provenance.py     fails if a result names a commit that is not in the history
"""

from __future__ import annotations

import ast
import fnmatch
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import subprocess
import sys
import tarfile
import time
import tokenize
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
ACCEPTED = ROOT / "benchmarks/accepted.json"
"""Changes of the code that gave the same bits, and the results that show it."""
IDLE = (
    *(f"kltrust.experiments.{room}" for room in ("cli", "report", "watch", "store.activity")),
    *(f"kltrust.experiments.reading.{x}" for x in ("plots", "audit_plots", "films", "export")),
    *("kltrust.findings", "benchmarks.provenance", "benchmarks.readme", "benchmarks.recorded"),
)
"""Modules that print, draw or judge, and decide no number."""
COMMANDS = {
    "learning/*": "learning.py",
    "gymnasium_scores": "learning.py",
    "adapters": "adapters.py",
    "sweep_host_work": "sweeps.py",
    "collapse": "laboratory.py --parts collapse",
    "memory": "laboratory.py --parts memory",
    "laboratory_*": "laboratory.py --parts {name}",
    "phases": "speed.py --parts phases",
    "audit_cost": "speed.py --parts audit_cost",
    "sweep_speed": "speed.py --parts sweep_speed",
    **{f"{part}_*": f"{part}.py --parts {{name}}" for part in ("speed", "peers", "scaling")},
    "search_*": "search.py --parts {name}",
    "compiled_*": "compiled.py --parts {name}",
    **{
        name: f"{name}.py"
        for name in ("atlas", "extras", "judge", "kills", "mutations", "random_policy", "reading")
    },
    "atlas_physics": "atlas.py benchmarks/specs/atlas_physics.toml",
    "atlas_minatar_hours": "atlas.py benchmarks/specs/atlas_minatar.toml --dry-run",
    "tuned": "tuned.py",
    "watch": "watch.py",
    "*": "record.py benchmarks/specs/{name}.toml",
}
"""The command that records a result; the first pattern that fits counts."""
_STARTED = time.monotonic()


# --- recording ------------------------------------------------------------------------------------


def refuse_uncommitted(out: Path) -> None:
    """Ends the program if it would record, among the results, what no commit holds."""
    if not Path(out).resolve().is_relative_to(RESULTS):
        return
    package = importlib.util.find_spec("kltrust")
    if package is None or not Path(str(package.origin)).resolve().is_relative_to(ROOT):
        raise SystemExit(
            "Python imports another kltrust than the one beside these benchmarks: set PYTHONPATH "
            "to this checkout, or record elsewhere with --out FOLDER"
        )
    from kltrust.experiments.store import versions

    try:
        changed = versions.uncommitted(ROOT)
    except (OSError, subprocess.SubprocessError):  # outside of a checkout
        return
    if changed:
        raise SystemExit(
            f"a result belongs to a commit, and {', '.join(changed[:3])} "
            f"{'differs' if len(changed) == 1 else 'differ'} from it: commit first, or record "
            "elsewhere with --out FOLDER"
        )


def origin(commit: str | None = None, spec: Path | None = None) -> dict[str, Any]:
    """The origin of a result of this process, as plain data.

    Args:
        commit: the commit of the run, where it ran earlier; default: the one checked out.
        spec: the specification of the run.
    """
    now = _git("rev-parse", "HEAD").strip() or None
    code = at_commit(commit) if commit and commit != now else checked_out()
    known = {name: code[name] for name in imported() if name in code}
    found = {
        "commit": commit or now,
        "command": command(sys.argv),
        "minutes": round((time.monotonic() - _STARTED) / 60, 1),
        "constraints": constraints(),
        "code": " ".join(f"{name}:{digest}" for name, digest in sorted(known.items())),
    }
    return found | ({"spec": digest_of_spec(spec)} if spec else {})


def command(arguments: list[str]) -> str:
    """The command line, without options that name a place of one machine."""
    kept: list[str] = []
    for argument in arguments[1:]:
        if Path(argument).is_absolute():
            if kept and kept[-1].startswith("--"):
                kept.pop()
        else:
            kept.append(argument)
    return " ".join(["python", f"benchmarks/{Path(arguments[0]).name}", *kept])


def constraints() -> dict[str, Any]:
    """The constraint file that describes this environment best, its digest, and differences."""
    best: dict[str, Any] = {}
    for path in sorted((ROOT / "constraints").glob("*.txt")):
        text = path.read_text("utf-8")
        lines = [line for line in text.splitlines() if "==" in line and line[0] != "#"]
        pins = dict(line.split("==") for line in lines)
        here = {name: _version(name) for name in pins}
        other = [f"{name} {here[name]}" for name in pins if here[name] not in (None, pins[name])]
        if not best or len(other) < len(best["but"]):
            best = {"file": path.name, "digest": _short(text), "but": other}
    return best


def imported() -> list[str]:
    """The modules that decided a run's numbers, by dotted name.

    A program that leaves its runs to other processes imports no learner. Then the whole package
    counts, and of the benchmarks the workers beside what the program imports.
    """
    files = [getattr(module, "__file__", None) for module in [*sys.modules.values()]]
    here = {Path(file).resolve() for file in files if file}
    others = () if "kltrust.learner" in sys.modules else ("kltrust", "benchmarks.workers")
    return [
        name
        for name in checked_out()
        if not _is_idle(name) and (ROOT / _file_of(name, ROOT) in here or name.startswith(others))
    ]


# --- reading --------------------------------------------------------------------------------------


@functools.cache
def results() -> dict[str, dict[str, Any]]:
    """All recorded results by name, like ``learning/trpo-CartPole-v1``."""
    return results_in(RESULTS)


def results_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Likewise, of another folder."""
    paths = sorted(folder.rglob("*.json"))
    name = {path: path.relative_to(folder).with_suffix("").as_posix() for path in paths}
    return {name[path]: json.loads(path.read_text("utf-8")) for path in paths}


def origins(result: Mapping[str, Any]) -> list[Mapping[str, Any] | None]:
    """The origin of a result, or of each of its rows if they were recorded one by one."""
    rows = result.get("rows", [*result.values()])
    each = isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows)
    if "origin" in result or not each:
        return [result.get("origin")]
    return [row.get("origin") for row in rows]


def why_stale(result: Mapping[str, Any]) -> str | None:
    """Why a result should be recorded again; None if today's code would give the same numbers."""
    now = checked_out()
    for known in origins(result):
        if known is None:
            return "its code was not recorded"
        then = dict(pair.split(":") for pair in known["code"].split())
        if changed := [name for name in then if not _is_same(name, then[name], now.get(name))]:
            return f"{changed[0]} has changed" + (
                f", and {len(changed) - 1} other modules" if len(changed) > 1 else ""
            )
        spec = ROOT / "benchmarks/specs" / str(result.get("spec", ""))
        if "spec" in known and (not spec.is_file() or digest_of_spec(spec) != known["spec"]):
            return "its specification has changed"
    return None


def entries() -> list[dict[str, Any]]:
    """What `accept` wrote so far."""
    return json.loads(ACCEPTED.read_text("utf-8")) if ACCEPTED.is_file() else []


@functools.cache
def accepted() -> dict[tuple[str, str | None], set[str | None]]:
    """The digests of a module that give the same bits, by module and digest; None: no module."""
    alike: dict[tuple[str, str | None], set[str | None]] = {}
    for change in (change for entry in entries() for change in entry["changes"]):
        name, *both = change["module"], change["before"], change["after"]
        together = {d for digest in both for d in alike.get((name, digest), {digest})}
        alike |= {(name, digest): together for digest in together}
    return alike


def accept(why: str, shown: Mapping[str, str]) -> list[str]:
    """Adds the changes of the modules that these results imported; returns the modules.

    Args:
        why: what changed, in a sentence.
        shown: by result, what its comparison with the same result run again said.
    """
    now = checked_out()
    changes = sorted(
        {
            (name, before, now.get(name))
            for result in shown
            for known in filter(None, origins(results()[result]))
            for name, before in (pair.split(":") for pair in known["code"].split())
            if not _is_same(name, before, now.get(name))
        }
    )
    if changes:
        commit = _git("rev-parse", "HEAD").strip()
        named = [dict(zip(("module", "before", "after"), c, strict=True)) for c in changes]
        entry = {"why": why, "commit": commit, "shown by": dict(shown), "changes": named}
        ACCEPTED.write_text(json.dumps([*entries(), entry], indent=1) + "\n", "utf-8")
        accepted.cache_clear()
    return sorted({name for name, *_ in changes})


def _is_same(name: str, then: str, now: str | None) -> bool:
    """Whether a module is what it was, but for accepted changes."""
    return now in accepted().get((name, then), {then})


def commands(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """The commands that record these results again, the quickest first, each with its hours."""
    hours: dict[str, float | None] = {}
    for name, result in found.items():
        pattern = next(p for p in COMMANDS if fnmatch.fnmatch(name, p))
        line = f"python benchmarks/{COMMANDS[pattern].format(name=name)}"
        known, seconds = origins(result)[0], result.get("seconds")
        took = known["minutes"] / 60 if known else None
        if took is None and isinstance(seconds, Mapping):
            took = sum(x for x in seconds.values() if isinstance(x, int | float)) / 3600
        if line not in hours or (took or 0) > (hours[line] or 0):
            hours[line] = took
    return dict(sorted(hours.items(), key=lambda item: (item[1] is None, item[1] or 0)))


def not_in_history(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Results that name a commit which the checked-out history lacks; none without a history."""
    history = set(_git("rev-list", "HEAD").split())
    if not history or _git("rev-parse", "--is-shallow-repository").strip() == "true":
        return []
    return [
        name
        for name, result in found.items()
        if any(known and known["commit"] not in history for known in origins(result))
    ]


# --- digests --------------------------------------------------------------------------------------


@functools.cache
def checked_out() -> dict[str, str]:
    """The digest of every module of the package and of the benchmarks, by dotted name."""
    files = [f for room in ("kltrust", "benchmarks") for f in sorted((ROOT / room).rglob("*.py"))]
    return {_name_of(f.relative_to(ROOT)): code_digest(f.read_text("utf-8")) for f in files}


@functools.cache
def at_commit(commit: str) -> dict[str, str]:
    """Likewise, of another commit."""
    command = ["git", "-c", "safe.directory=*", "archive", commit, "kltrust", "benchmarks"]
    packed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    found = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".py"):
                source = archive.extractfile(member)
                assert source is not None
                found[_name_of(Path(member.name))] = code_digest(source.read().decode("utf-8"))
    return found


def code_digest(source: str) -> str:
    """A digest of code without comments, docstrings, texts of errors and blank lines."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    raw = [line.encode() for line in lines]
    spans: list[tuple[int, int, int, int]] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str()) as text):
                spans.append((text.lineno, text.col_offset, *_end(text)))
            case ast.Raise(exc=ast.Call(func=name) as call):
                spans.append((*_end(name), *_end(call)))
    # From the last to the first, so that the positions before stay right.
    for first, start, last, end in sorted(spans, reverse=True):
        rest = raw[first - 1][:start] + raw[last - 1][end:]
        raw[first - 1 : last] = [rest, *[b""] * (last - first)]
    return _short(b"\n".join(line.rstrip() for line in raw if line.strip()).decode())


@functools.cache
def digest_of_spec(path: Path) -> str:
    """A digest of what a specification runs, whatever its layout and comments.

    It holds the seeds, the search, and every setting in full. So a preset counts for what the
    specification takes of it. A tuning stays the same when its preset takes the value it found.
    """
    from kltrust.experiments.config import spec

    found = spec.load(path)
    settings = [(of.label, of.experiment.to_dict()) for of in found.settings]
    search = tomllib.loads(path.read_text("utf-8")).get("search")
    said = {"seeds": list(found.seeds), "search": search, "settings": settings}
    return _short(json.dumps(said, sort_keys=True))


def _end(node: ast.expr) -> tuple[int, int]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return node.end_lineno, node.end_col_offset


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _name_of(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def _file_of(name: str, root: Path) -> Path:
    plain = Path(*name.split("."))
    return plain / "__init__.py" if (root / plain).is_dir() else plain.with_suffix(".py")


def _is_idle(name: str) -> bool:
    return any(name == idle or name.startswith(f"{idle}.") for idle in IDLE)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    """What git prints; nothing outside of a checkout."""
    ours = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-C", str(ROOT)]
    try:
        done = subprocess.run([*ours, *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout


def listing(wanted: Mapping[str, float | None], stale: Mapping[str, str]) -> Iterable[str]:
    """The lines of ``record.py --stale``: results with their reasons, then the `commands`."""
    yield from (f"{name}: {why}" for name, why in stale.items())
    for line, hours in wanted.items():
        yield f"  {line}   {'hours unknown' if hours is None else f'{hours:.1f} hours'}"


if __name__ == "__main__":
    if lost := not_in_history(results() | {entry["why"]: {"origin": entry} for entry in entries()}):
        raise SystemExit(f"{', '.join(lost)}: the history lacks the commit that recorded it")
