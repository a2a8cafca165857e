"""Recorded results that are run again: what counts as the same."""

import json

import again
import provenance
import pytest


def record(scores, kl=0.01, seconds=1.0):
    row = {"env": "E", "label": "trpo", "scores": scores, "median": kl}
    other = {"env": "F", "label": "trpo", "scores": [1.0, 1.0], "median": 0.1}
    return {"rows": [row, other], "seconds": {"run": seconds}, "origin": {"commit": "a"}}


def test_times_and_the_order_of_rows_do_not_count():
    now = record([1.0, 2.0], seconds=9.0) | {"origin": {"commit": "b"}}
    now["rows"].reverse()
    same, identical, said = again.compared(record([1.0, 2.0]), now)
    assert same
    assert identical
    assert said.startswith("the same bits, all ")


@pytest.mark.parametrize(("moved", "same"), [(0.1, True), (50.0, False)])
def test_other_bits_are_judged_by_the_scores(moved, same):
    scores = [1.0, 2.0, 3.0, 2.5, 1.5]
    found, identical, said = again.compared(
        record(scores), record([x + moved for x in scores], kl=0.02)
    )
    assert found == same
    assert not identical
    assert said.startswith("6 of ")
    assert ("1 differ: /rows/E, trpo/scores: 2 before, 52 now" in said) != same


def test_other_bits_without_scores_are_another_result():
    same, _, said = again.compared({"rows": [{"hurt": 0.1}]}, {"rows": [{"hurt": 0.2}]})
    assert not same
    assert said == "1 of 1 values differ, most at /rows/0/hurt: 0.1 before, 0.2 now"
    rounded = again.compared({"rows": [{"hurt": 0.1}]}, {"rows": [{"hurt": 0.10001}]})
    assert rounded.same
    assert not rounded.identical
    missing = again.compared({"rows": [{"hurt": 0.1}, {}]}, {"rows": [{"hurt": 0.1}]})
    assert not missing.same


def test_what_is_drawn_takes_minutes_and_is_no_time(monkeypatch):
    origin = {"code": "", "minutes": 5.0}
    long = {"origin": origin | {"minutes": 50.0}}
    found = {"stagger": {"origin": origin}, "phases": {"origin": origin}, "wide": long}
    monkeypatch.setattr(provenance, "results", lambda: found)
    assert again.drawn(5, 0, 0.25) == ["python benchmarks/record.py benchmarks/specs/stagger.toml"]


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """A checkout whose program writes scores of 1 and 2, and its record of given rows and code."""
    (tmp_path / "benchmarks").mkdir()
    write = (
        "json.dump({'rows': [{'env': 'E', 'scores': [1.0, 2.0]}]}, open(out / 'stagger.json', 'w'))"
    )
    lines = ["import json, sys, pathlib", "assert sys.argv[4] == '--folder'"]
    lines += ["out = pathlib.Path(sys.argv[3]); out.mkdir()", write]
    (tmp_path / "benchmarks/record.py").write_text("\n".join(lines), "utf-8")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "ACCEPTED", tmp_path / "accepted.json")
    monkeypatch.setattr(provenance, "refuse_uncommitted", lambda out: None)
    provenance.accepted.cache_clear()

    def made(row, code=""):
        found = {
            "stagger": {"rows": [{"env": "E"} | row], "origin": {"code": code, "minutes": 1.0}}
        }
        monkeypatch.setattr(provenance, "results", lambda: found)
        return found["stagger"]

    yield made
    provenance.accepted.cache_clear()


def test_a_result_is_run_again(recorded):
    recorded({"scores": [1.0, 2.0]})
    assert again.main(again.Options(names=("stagger",))) == 0
    recorded({"hurt": [1.0, 2.0, 3.0]})
    assert again.main(again.Options(names=("stagger",))) == 1
    with pytest.raises(SystemExit, match="no stager; take some of stagger"):
        again.main(again.Options(names=("stager",)))


def test_a_change_that_gives_the_same_bits_is_accepted(recorded, monkeypatch):
    digests = {"kltrust.a": "aa", "kltrust.b": "bb"}
    monkeypatch.setattr(provenance, "checked_out", lambda: digests)
    accept = again.Options(names=("stagger",), accept="Renamed a variable.")
    code = "kltrust.a:a0 kltrust.b:bb kltrust.gone:00"
    # Scores that differ a little are the same result, but no proof that the code is.
    other = recorded({"scores": [1.0, 2.1]}, code)
    assert again.main(accept) == 0
    assert provenance.why_stale(other) == "kltrust.a has changed, and 1 other modules"
    result = recorded({"scores": [1.0, 2.0]}, code)
    assert again.main(accept) == 0
    assert provenance.why_stale(result) is None
    [entry] = json.loads(provenance.ACCEPTED.read_text("utf-8"))
    assert entry["why"] == "Renamed a variable."
    assert entry["shown by"] == {"stagger": "the same bits, all 3 values"}
    assert {c["module"] for c in entry["changes"]} == {"kltrust.a", "kltrust.gone"}
    # The next change makes it stale again, until it is accepted, too.
    digests["kltrust.a"] = "a2"
    assert provenance.why_stale(result) == "kltrust.a has changed"
    assert again.main(accept) == 0
    for then, now in (("a0", "a2"), ("aa", "a2"), ("a2", "a0")):
        digests["kltrust.a"] = now
        assert provenance.why_stale(recorded({}, f"kltrust.a:{then}")) is None
    digests["kltrust.a"] = "a3"
    assert provenance.why_stale(result) == "kltrust.a has changed"
