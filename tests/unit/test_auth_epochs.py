"""The counter tells what notifications missed, and nothing when they missed nothing."""

from __future__ import annotations

from metacore.orm.epochs import EpochWatch


def test_the_first_reading_counts_as_missed() -> None:
    assert EpochWatch().missed(0)


def test_a_counter_that_notifications_explain_missed_nothing() -> None:
    watch = EpochWatch()
    watch.missed(5)
    watch.notified()
    watch.notified()
    assert not watch.missed(7)
    assert not watch.missed(7)


def test_a_lost_notification_shows_at_the_next_reading() -> None:
    watch = EpochWatch()
    watch.missed(5)
    watch.notified()
    assert watch.missed(7)
    assert not watch.missed(7)


def test_a_late_notification_costs_a_drop_and_then_agrees() -> None:
    watch = EpochWatch()
    watch.missed(5)
    assert watch.missed(6)
    watch.notified()
    assert watch.missed(6)
    assert not watch.missed(6)


def test_notifications_before_the_first_reading_are_not_counted_twice() -> None:
    watch = EpochWatch()
    watch.notified()
    assert watch.missed(9)
    assert not watch.missed(9)
