from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.durations import format_duration, parse_duration_s


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90),
        (0.25, 0.25),
        ("90", 90),
        ("90s", 90),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("10m", 600),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("PT1H", 3600),
        ("P1DT1S", 86_401),
        (" 5s ", 5),
        ("-5s", -5),
        ("0", 0),
        (timedelta(minutes=2), 120),
    ],
)
def test_a_duration_is_read_as_people_write_it(written, seconds):
    assert parse_duration_s(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        "",
        "soon",
        "5 parsecs",
        "10x",
        "s",
        "5s5",
        "1h30",
        "--5s",
        "+-5s",
        "1e3",
        "P",
        "PT",
        "٣s",
        "٣",
        "9" * 400,
        float("nan"),
        float("inf"),
        True,
        None,
        [5],
    ],
)
def test_what_is_no_duration_is_refused_with_the_right_forms(written):
    with pytest.raises(ValueError, match="is not a duration; write 90, '90s', '10m', '1h30m', '7d' or 'PT1H'"):
        parse_duration_s(written)


@given(st.text(max_size=12))
def test_any_text_is_a_finite_duration_or_a_value_error(text):
    try:
        seconds = parse_duration_s(text)
    except ValueError:
        return
    assert abs(seconds) < float("inf")


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (None, "–"),
        (0.0123, "12 ms"),
        (0.9999, "1.0 s"),
        (6.14, "6.1 s"),
        (59.99, "1 m 0 s"),
        (250, "4 m 10 s"),
        (3599.9, "1 h 0 m"),
        (7500, "2 h 5 m"),
        (273_600, "3 d 4 h"),
        (-250, "-4 m 10 s"),
    ],
)
def test_seconds_are_written_for_people(seconds, written):
    assert format_duration(seconds) == written
