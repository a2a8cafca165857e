"""Does a kill at any moment lose anything? Trainings, sweeps, merges and reports are tried.

    python benchmarks/kills.py                             100 kills and more: some 30 minutes
    python benchmarks/kills.py --jobs merge --rounds 1     a minute

A round kills every job at every moment of it: while a program is compiled, while something is
computed, and while each kind of file is written. SIGKILL, SIGTERM and SIGINT take turns, so that in
three rounds every moment has met each of them. Of the runs of a job the first is killed once, the
next twice in a row, and so on up to four times; then it goes on to its end, and its folder is
compared with that of a run left in peace: all tables and pages byte for byte, all arrays of all
checkpoints bit for bit, and there is no other file. After every kill the folder is read, with all
its digests: what was committed before is there, and what goes on says nothing but its results.

A run that is killed is a real command of kltrust, in a process that was forked after the imports.
It sends itself the signal when it opens, renames or makes the file in question, or a little later:
so it is hit within milliseconds that chance would seldom find. Two hosts are two such processes, of
which the first, that writes, is killed, or while they compile the second.

Writes kills.json to benchmarks/results/.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import RESULTS, SPECS, Result, chosen, options, versions, write
from forked import FORKED, Trap, asked, child, chunks, cut_programs, digest, free_port

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LIMIT = 1800
"""The seconds after which a hanging process counts as a fault, even on a busy machine."""
FAREWELL = 10
"""Seconds for the other host to end by itself; then it is ended as by a scheduler."""


class Moment(NamedTuple):
    """When a process is killed: at one of the first events on a file, or a little later."""

    name: str
    events: tuple[str, ...]  # of Python's audit hooks, or "compile"
    file: str = "*"
    first: int = 1  # events, of which one is drawn
    milliseconds: float = 5.0  # later, at most


WRITTEN = "open", "opened", "os.rename"  # of a file: before it is there, while it is empty, after
COMPILED = Moment("a program is compiled", ("compile",), milliseconds=1000)
CACHED = Moment("a program is put into the cache", ("opened",), "*-cache", milliseconds=1)
JOINED = Moment("tables are joined", WRITTEN, "*/[em]*.parquet.partial", 2)
DESCRIBED = Moment("run.json is written", WRITTEN, "*/run.json.partial", 2)
SAVED = Moment("a checkpoint is written", ("os.mkdir",), "*/checkpoints/*.partial", 2, 200)
FINISHED = Moment("the whole is finished", ("os.rename",), "*/job/commit.json.partial")
MOMENTS = (
    DESCRIBED,
    COMPILED,
    CACHED,
    Moment("something is computed", ("os.rename",), "*/groups/*/commit.json.partial", 2, 300),
    SAVED,
    Moment("a shard of a table is written", WRITTEN, "*/0*.parquet.partial", 2),
    Moment("a chunk is committed", WRITTEN, "*/groups/*/commit.json.partial", 1),
    JOINED,
    FINISHED,
)
"""The moments in order of time."""
DECIDED = (
    Moment("decisions are written", WRITTEN, "*/decisions/0*.parquet.partial", 3),
    Moment("lanes are given away", ("os.rename",), "*/groups/*/commit.json.partial", 4, 300),
)
SEARCHED = (*MOMENTS[:-2], *DECIDED, *MOMENTS[-2:])
DRAWN = Moment("a picture is drawn", ("open", "opened"), "*.png", 2, 100)
REPORTED = (
    Moment("a picture is written", ("open",), "*.partial/figures/*.png", 3),
    Moment("a page is written", ("open",), "*.partial/index.html"),
    Moment("the report is put in its place", ("os.rename",), "*.partial"),
)


class Made(NamedTuple):
    """The jobs' common parts: the specifications, and folders made without kills."""

    spec: Path
    shards: tuple[Path, ...] = ()
    searches: Path = Path()  # a folder with a specification of each kind


class Job(NamedTuple):
    """A command that makes a folder, and one that resumes it; ``hosts`` processes run it."""

    command: Callable[[Made, Path], list[str]]
    moments: tuple[Moment, ...]
    resume: str | None = None  # the command that goes on; None: the same again
    hosts: int = 1


TRAINING = """train ppo_clip CartPole-v1 --seeds 2 --preset none --num-envs 8 --num-steps 64
--num-epochs 2 --num-minibatches 4 --critic.num-epochs 2 --critic.num-minibatches 4
--hidden 32 --total-steps 20480 --num-evals 4 --eval-episodes 5 --quiet"""


def train(made: Made, out: Path) -> list[str]:
    return [*TRAINING.split(), "--out", str(out)]


def sweep(made: Made, out: Path) -> list[str]:
    return ["sweep", str(made.spec), "--out", str(out), "--width", "1", "--quiet"]


SEARCHES = {
    "halving": "lanes = 2\neta = 2",
    "racing": "lanes = 2\nlevel = 0.5\nevery = 2",
    "population": "",
}
"""The keys of each kind of search."""


def search(kind: str) -> Callable[[Made, Path], list[str]]:
    def command(made: Made, out: Path) -> list[str]:
        return sweep(made._replace(spec=made.searches / f"{kind}.toml"), out)

    return command


def merge(made: Made, out: Path) -> list[str]:
    return ["merge", *map(str, made.shards), "--out", str(out)]


def report(made: Made, out: Path) -> list[str]:
    return ["report", *map(str, made.shards), "--out", str(out)]


JOBS = {
    "training": Job(train, (*MOMENTS, DRAWN), "train"),
    "sweep": Job(sweep, MOMENTS, "sweep"),
    "merge": Job(merge, (DESCRIBED, SAVED, JOINED, FINISHED)),
    "report": Job(report, REPORTED),
    "sweep on two hosts": Job(sweep, MOMENTS, "sweep", hosts=2),
    **{kind: Job(search(kind), SEARCHED, "sweep") for kind in SEARCHES},
    "halving on two hosts": Job(search("halving"), SEARCHED, "sweep", hosts=2),
}
"""To add another kind of job, add a line here."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What is killed."""

    jobs: tuple[str, ...] = ()  # All, if none is named
    moments: str = ""  # Those whose name holds this text
    rounds: int = len(SIGNALS)
    seed: int = 0  # Of the moments' details
    spec: Path = SPECS / "kills.toml"
    search: Path = SPECS / "kills_search.toml"  # To which the kind of search is added
    out: Path = RESULTS


def main(options: Options) -> int:
    # A kill costs few seconds: what is tried here is not XLA's optimiser.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    names, found = chosen("jobs", options.jobs, JOBS), {}
    with tempfile.TemporaryDirectory() as scratch:
        tried = Tried(Path(scratch).resolve(), options)
        for turn in range(options.rounds):
            for name in names:
                found[name] = tried.job(name, turn)
                write(options.out / "kills.json", {"jobs": found, "versions": asked(versions)})
    kills = sum(sum(of["kills of each run"]) for of in found.values())
    faults = [fault for of in found.values() for fault in of["faults"]]
    print(f"{kills} kills, {len(faults)} faults", *faults, sep="\n")
    return len(faults)


# --- what is done to a job ------------------------------------------------------------------------


class Tried:
    """Tries jobs in a folder, each beside the same job without kills."""

    def __init__(self, place: Path, options: Options):
        self.place, self.options = place, options
        self.generator = np.random.default_rng(options.seed)
        self.made = Made(options.spec, searches=place)
        for kind, keys in SEARCHES.items():
            text = options.search.read_text("utf-8")
            (place / f"{kind}.toml").write_text(
                f'{text}\n[search]\nby = "{kind}"\n{keys}\n', "utf-8"
            )
        self.number = 0  # of processes
        self.wanted: dict[str, Result] = {}  # by job
        self.found: dict[str, Result] = {}

    def job(self, name: str, turn: int) -> Result:
        """Kills a job at all its moments; returns the findings of all turns so far."""
        job = JOBS[name]
        if job.command in (merge, report) and not self.made.shards:
            self.made = self.made._replace(shards=self.shards())
        if name not in self.wanted:
            peace = self.new("peace")
            self.undisturbed(job, peace)
            self.wanted[name] = asked(digest, peace)
        empty = {"kills of each run": [], "signals": {}, "moments": {}, "missed": 0, "faults": []}
        found = self.found.setdefault(name, empty)
        kinds = [SIGNALS[(turn + i) % len(SIGNALS)] for i in range(len(job.moments))]
        for chain in chains(list(zip(job.moments, kinds, strict=True))):
            in_a_row = [x for x in chain if self.options.moments in x[0].name]
            if not in_a_row:
                continue
            kills, wrong = self.killed(job, in_a_row, self.wanted[name])
            found["kills of each run"].append(len(kills))
            found["missed"] += len(in_a_row) - len(kills)
            found["faults"] += [f"{name}: {relative(text)}" for text in wrong]
            for moment, kind in kills:
                for key, value in (("signals", kind.name), ("moments", moment.name)):
                    found[key][value] = found[key].get(value, 0) + 1
            runs, faults = len(found["kills of each run"]), len(found["faults"])
            print(
                f"{name}: {sum(found['signals'].values())} kills, {runs} runs, {faults} faults",
                flush=True,
            )
        return found

    def shards(self) -> tuple[Path, ...]:
        """The sweep in two parts."""
        found = []
        for i in (1, 2):
            part = lambda made, out, i=i: [*sweep(made, out), "--shard", f"{i}/2"]  # noqa: E731
            found.append(self.new(f"shard{i}"))
            self.undisturbed(Job(part, ()), found[-1])
        return tuple(found)

    def undisturbed(self, job: Job, out: Path) -> None:
        status, said = self.run(job, out, self.place / "cache")
        if status:
            raise RuntimeError(f"in peace it ended with {status}: {said}")

    def new(self, name: str) -> Path:
        """A path for a job's folder; the patterns of moments contain its name."""
        self.number += 1
        (self.place / f"{name}{self.number}").mkdir()
        return self.place / f"{name}{self.number}" / "job"

    def killed(
        self, job: Job, in_a_row: Sequence[tuple[Moment, signal.Signals]], wanted: Result
    ) -> tuple[list[tuple[Moment, signal.Signals]], list[str]]:
        """Kills one run repeatedly, then lets it end; returns the kills and the faults."""
        out, cache = self.new("killed"), self.place / "cache"
        kills, wrong, before, caches = [], [], list[int](), [cache]
        for moment, kind in in_a_row:
            if moment in (COMPILED, CACHED):  # else nothing would be compiled
                cache = self.without_one(cache)
                caches.append(cache)
            trap = self.trap(moment, kind)
            status, said = self.run(job, out, cache, trap, host=int(moment is COMPILED))
            what = f"{moment.name}, {kind.name}, {trap}"
            if status == 0:
                break  # it did not come: there was no more to do, say
            kills.append((moment, kind))
            expected = 130 if kind is signal.SIGINT else -kind
            if status != expected or "Traceback" in said:
                wrong.append(f"{what}: ended with {status}: {shortened(said)}")
            after = asked(chunks, out)
            if isinstance(after, str) or any(x > y for x, y in zip(before, after, strict=False)):
                wrong.append(f"{what}: chunks {before} before, {after} after")
            before = after
        else:
            status, said = self.run(job, out, cache)
        if status or "Traceback" in said:
            wrong.append(f"{what}: what goes on ended with {status}: {shortened(said)}")
        found = asked(digest, out)
        names = sorted(n for n in {*found, *wanted} if found.get(n) != wanted.get(n))
        if names:
            wrong.append(f"{what}: {', '.join(names)} differ")
        if cut := asked(cut_programs, caches):
            wrong.append(f"{what}: {', '.join(cut)} can't be read and stay")
        return kills, wrong

    def without_one(self, cache: Path) -> Path:
        """Copies a folder's programs, without one of the largest, into another folder."""
        new = self.new("programs").parent
        files = sorted(cache.rglob("*-cache"), key=lambda file: file.stat().st_size)
        kept = set(files) - {files[-1 - int(self.generator.integers(4))]}
        for file in kept:
            place = new / file.relative_to(cache)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, place)
        return new

    def trap(self, moment: Moment, kind: signal.Signals) -> Trap:
        """A trap at one of the moment's events, some time after it."""
        event = str(self.generator.choice(moment.events))
        number = int(self.generator.integers(moment.first))
        wait = self.generator.choice([0.0, self.generator.uniform(0, moment.milliseconds)])
        return Trap(event, moment.file, number, float(wait) / 1e3, int(kind))

    def run(
        self, job: Job, out: Path, cache: Path, trap: Trap | None = None, host: int = 0
    ) -> tuple[int, str]:
        """The status of the command, or of the killed host, and its output."""
        begun = job.resume is not None and (out / "run.json").exists()
        command = [job.resume, "--resume", str(out), "--quiet"] if begun else None
        command = command or job.command(self.made, out)
        host %= job.hosts
        logs, processes = [], []
        port = free_port() if job.hosts > 1 else 0
        for i in range(job.hosts):
            one = ("--coordinator", f"127.0.0.1:{port}", "--num-hosts", str(job.hosts), "--host")
            flags = [*one, str(i)] if job.hosts > 1 else []
            logs.append(self.new("log").parent / "said")
            of = ([*command, *flags], logs[-1], cache, trap if i == host else None)
            processes.append(FORKED.Process(target=child, args=of))
            processes[-1].start()
        processes[host].join(LIMIT)
        for process in processes:
            process.join(FAREWELL if processes[host].exitcode else LIMIT)
            process.kill()  # as a scheduler does
            process.join()
        return processes[host].exitcode, logs[host].read_text("utf-8", "replace")


def shortened(said: str) -> str:
    """The end of an output, without the folders of this machine."""
    return relative(said)[-800:]


def relative(said: str) -> str:
    """A text in which every absolute path is cut to its last two parts."""
    return re.sub(r"(?<![\w.:/])(?:/[^\s\"'/]+)+/(?=[^\s\"'/]+/[^\s\"'/]+)", "", said)


def chains(of_turn: Sequence[Any]) -> Iterator[list[Any]]:
    """Groups kills, in order, into ones, twos, threes and fours: the kills of one run."""
    left, length = list(of_turn), 1
    while left:
        step = max(1, len(left) // length)
        yield left[::step][:length]
        left = [x for x in left if x not in left[::step][:length]]
        length = length % 4 + 1


if __name__ == "__main__":
    sys.exit(main(options(Options, __doc__)))
