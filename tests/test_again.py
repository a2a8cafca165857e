"""Recorded results that are run again: what counts as the same."""

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
    same, said = again.compared(record([1.0, 2.0]), now)
    assert same
    assert said.startswith("the same bits, all ")


@pytest.mark.parametrize(("moved", "same"), [(0.1, True), (50.0, False)])
def test_other_bits_are_judged_by_the_scores(moved, same):
    scores = [1.0, 2.0, 3.0, 2.5, 1.5]
    found, said = again.compared(record(scores), record([x + moved for x in scores], kl=0.02))
    assert found == same
    assert said.startswith("6 of ")
    assert ("1 differ: /rows/E, trpo/scores: 2 before, 52 now" in said) != same


def test_other_bits_without_scores_are_another_result():
    same, said = again.compared({"rows": [{"hurt": 0.1}]}, {"rows": [{"hurt": 0.2}]})
    assert not same
    assert said == "1 of 1 values differ, most at /rows/0/hurt: 0.1 before, 0.2 now"
    rounded, _ = again.compared({"rows": [{"hurt": 0.1}]}, {"rows": [{"hurt": 0.10001}]})
    assert rounded
    missing, _ = again.compared({"rows": [{"hurt": 0.1}, {}]}, {"rows": [{"hurt": 0.1}]})
    assert not missing


def test_what_is_drawn_takes_minutes_and_is_no_time(monkeypatch):
    origin = {"code": "", "minutes": 5.0}
    long = {"origin": origin | {"minutes": 50.0}}
    found = {"stagger": {"origin": origin}, "phases": {"origin": origin}, "wide": long}
    monkeypatch.setattr(provenance, "results", lambda: found)
    assert again.drawn(5, 0, 0.25) == ["python benchmarks/record.py benchmarks/specs/stagger.toml"]


def test_a_result_is_run_again(monkeypatch, tmp_path, capsys):
    (tmp_path / "benchmarks").mkdir()
    write = "json.dump({'rows': [{'scores': [1.0, %s]}]}, open(out / 'stagger.json', 'w'))"
    lines = ["import json, sys, pathlib", "assert sys.argv[4] == '--folder'"]
    lines += ["out = pathlib.Path(sys.argv[3]); out.mkdir()", write % "2.0"]
    (tmp_path / "benchmarks/record.py").write_text("\n".join(lines), "utf-8")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    for known, status in (([1.0, 2.0], 0), ([1.0, 2.0, 3.0], 1)):
        of = {"stagger": {"rows": [{"hurt" if status else "scores": known}], "origin": None}}
        monkeypatch.setattr(provenance, "results", lambda of=of: of)
        assert again.main(again.Options(names=("stagger",))) == status
    with pytest.raises(SystemExit, match="no stager; take some of stagger"):
        again.main(again.Options(names=("stager",)))
