"""Slots of which no owner holds all."""

from __future__ import annotations

import pytest

from metacore.dynamic.fair_slots import FairSlots
from metacore.errors import TooManyRequests


def slots(total: int, each: int) -> FairSlots:
    return FairSlots(total, each, wait_seconds=0.01, what="things", code="busy", retry_after=7)


async def test_nobody_has_more_than_its_share_and_all_together_not_more_than_there_are() -> None:
    fair = slots(3, 2)
    async with fair.of("a"), fair.of("a"):
        with pytest.raises(TooManyRequests) as refused:
            async with fair.of("a"):
                pytest.fail("a third of one owner")
        assert (refused.value.code, refused.value.retry_after) == ("busy", 7)
        async with fair.of("b"):
            with pytest.raises(TooManyRequests):
                async with fair.of("c"):
                    pytest.fail("a fourth of all")
        async with fair.of("c"):
            pass


async def test_what_is_given_back_early_is_given_back_once() -> None:
    fair = slots(1, 1)
    async with fair.of("a") as give_back:
        give_back()
        give_back()
        async with fair.of("a"):
            with pytest.raises(TooManyRequests):
                async with fair.of("b"):
                    pytest.fail("there is one only")
    async with fair.of("b"):
        with pytest.raises(TooManyRequests):
            async with fair.of("a"):
                pytest.fail("the end of the block gave back what was gone already")
