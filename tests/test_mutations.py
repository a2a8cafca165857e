"""The edits of benchmarks/mutations.py still apply, and name tests that there are."""

import re
from pathlib import Path

import mutations
import pytest

TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    "edit", mutations.EDITS, ids=lambda edit: f"{edit.file}: {edit.right[:30]}"
)
def test_an_edit_applies_and_its_tests_exist(edit):
    text = mutations.source(edit).read_text("utf-8")
    changed = mutations.planted(edit, text)
    assert changed != text
    compile(changed, edit.file, "exec")
    for test in edit.tests.split():
        file, _, name = test.partition("::")
        written = (TESTS / file).read_text("utf-8")
        assert re.search(rf"^def {name or 'test_'}", written, re.MULTILINE)


def test_a_formula_that_moved_is_noticed():
    with pytest.raises(ValueError, match="0 times"):
        mutations.planted(mutations.EDITS[0], "")


def test_there_are_edits_of_every_part():
    parts = {edit.file.split("/")[0].removesuffix(".py") for edit in mutations.EDITS}
    assert len(mutations.EDITS) >= 20
    assert parts >= {"advantages", "losses", "divergences", "fisher", "solvers", "updates"}
    assert parts >= {"tabular", "experiments", "algorithms", "tokens", "rollout", "critic"}
