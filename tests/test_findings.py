"""What a judge says: planted faults under their names, and nothing of healthy ones."""

import pytest
from planted import updates

import kltrust
from kltrust.findings import CATALOGUE


def found(name):
    return kltrust.judge_update(**updates.arrays(name))


@pytest.mark.parametrize("name", updates.UPDATES)
def test_a_planted_update_is_found_under_its_name(name):
    _, _, finding, _ = updates.UPDATES[name]
    said = found(name)
    assert finding in said.names
    worst = CATALOGUE[finding].severity
    # Not hidden: nothing that is worse, and it is among the lines that are printed.
    assert said.severity == worst or worst == "note"
    assert finding in said.at_least(worst).names[:3]


@pytest.mark.parametrize("of", updates.HEALTHY)
def test_a_healthy_update_is_left_alone(of):
    assert kltrust.judge_update(**updates.HEALTHY[of]()).at_least("warning").names == []
