"""Every bar at its small size, in every place that it names. `make chaos` runs the full sizes."""

from __future__ import annotations

import bars
import pytest
from run import seed_of

CASES = [
    pytest.param(found, place, id=f"{found.number:02}-{bars.name_of(place[0])}-{bars.name_of(place[1])}")
    for found in bars.load()
    for place in found.places["small"]
]


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("found", "place"), CASES)
def test_the_bar_is_met(found, place, capsys):
    if (why := bars.missing(place)) is not None:
        pytest.skip(why)
    row = found.trial("small", place, seed_of())
    with capsys.disabled():
        print(f"\n{row.line()}")
    assert row.ok, row.missed()
