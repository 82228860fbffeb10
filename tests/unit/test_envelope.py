"""What leaves as JSON (contract 1): times in UTC that say so, decimals as numbers with every digit."""

from __future__ import annotations

import datetime
from decimal import Decimal

from metacore.api import envelope


def test_every_time_says_that_it_is_utc() -> None:
    noon = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC).replace(tzinfo=None)
    east = datetime.timezone(datetime.timedelta(hours=2))
    for time in (noon, noon.replace(tzinfo=datetime.UTC)):
        assert envelope.dumps({"at": time}) == b'{"at":"2026-01-31T12:00:00Z"}'
    assert envelope.dumps([noon.replace(tzinfo=east)]) == b'["2026-01-31T12:00:00+02:00"]'


def test_decimals_are_numbers_with_every_digit() -> None:
    assert envelope.dumps([Decimal("12345678901234.5678"), Decimal("0.10")]) == b"[12345678901234.5678,0.10]"
