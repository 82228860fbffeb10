"""Taking turns: what is compared runs in short slots, one after the other and again, through the same noise."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from tests.bench.load import Result

Side = Callable[[int, float], Awaitable[Result]]
"""Keeps so many callers busy for so many seconds."""

SLOT_SECONDS = 0.25
WARM_UP_SECONDS = 0.5
FEWEST_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Standing:
    """One side's requests per second, round by round."""

    rates: tuple[float, ...]
    failed: int
    problem: str = ""

    @property
    def per_second(self) -> float:
        return statistics.median(self.rates)

    def against(self, other: Standing) -> float:
        """How many times quicker than `other`: the median of the rounds' ratios, which drift together."""
        pairs = zip(self.rates, other.rates, strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs if theirs) if any(other.rates) else 0.0


async def _settled() -> None:
    return None


async def take_turns(
    sides: Mapping[str, Side],
    *,
    connections: int,
    seconds: float,
    settle: Callable[[], Awaitable[None]] = _settled,
) -> dict[str, Standing]:
    """Run every side for about `seconds` in all. `settle` is awaited after each slot and counts for nobody."""
    rounds = max(FEWEST_ROUNDS, round(seconds / SLOT_SECONDS))
    slot = seconds / rounds
    rates: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, list[Result]] = {name: [] for name in sides}
    order = list(sides)
    for name in order:
        results[name].append(await sides[name](connections, WARM_UP_SECONDS))
        await settle()
    for _ in range(rounds):
        for name in order:
            result = await sides[name](connections, slot)
            await settle()
            rates[name].append(result.per_second)
            results[name].append(result)
        # Nobody is always the one that follows the same neighbour.
        order = [*order[1:], order[0]] if len(order) > 2 else order[::-1]
    return {
        name: Standing(
            tuple(rates[name]),
            sum(result.failed for result in results[name]),
            next((result.problem for result in results[name] if result.problem), ""),
        )
        for name in sides
    }
