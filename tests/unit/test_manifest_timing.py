"""When a schedule comes: durations, cron expressions, places."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacore.errors import InvalidInput
from metacore.manifest.timing import check, duration_seconds, next_run

NOON = datetime.datetime(2026, 5, 1, 12, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("5m", 300), ("1d", 86_400), ("0.5h", 1800), ("200ms", 1), ("1500ms", 2)],
)
def test_durations_are_whole_seconds(text: str, seconds: int) -> None:
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["often", "", "0m", "5", "5 m", "-5m", "5x", "* * * *", "* * * * * *", "61 * * * *", "0 0 30 2 *"]
)
def test_what_never_comes_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        check(text)


def test_a_duration_of_more_than_a_year_is_refused() -> None:
    with pytest.raises(InvalidInput, match="longer than a year"):
        check("367d")


@pytest.mark.parametrize(
    ("every", "slot"),
    [
        ("@hourly", "2026-05-01T13:00"),
        ("@daily", "2026-05-02T00:00"),
        ("30 3 * * 1-5", "2026-05-04T03:30"),
        ("0 9 1 * *", "2026-06-01T09:00"),
        ("*/15 * * * *", "2026-05-01T12:15"),
    ],
)
def test_cron_is_read_in_utc(every: str, slot: str) -> None:
    for after in (NOON, NOON.astimezone(datetime.timezone(datetime.timedelta(hours=9)))):
        found, begin = next_run(every, "somebody", after)
        assert found == datetime.datetime.fromisoformat(slot).replace(tzinfo=datetime.UTC)
        assert datetime.timedelta(0) <= begin - found < datetime.timedelta(seconds=60)


@given(
    every=st.sampled_from(["1s", "7s", "5m", "1h30m", "1d", "*/5 * * * *", "@hourly"]),
    place=st.text(max_size=20),
    seconds_after=st.floats(min_value=1_500_000_000, max_value=3_500_000_000),
)
def test_the_next_run_lies_ahead_and_slots_follow_each_other_without_gap(
    every: str, place: str, seconds_after: float
) -> None:
    after = datetime.datetime.fromtimestamp(seconds_after, datetime.UTC)
    slot, begin = next_run(every, place, after)
    assert after < slot <= begin
    assert next_run(every, place, after) == (slot, begin)
    following, _ = next_run(every, place, slot)
    assert following > slot
    seconds = duration_seconds(every)
    if seconds is not None:
        assert slot - after <= datetime.timedelta(seconds=seconds)
        assert following - slot == datetime.timedelta(seconds=seconds)
