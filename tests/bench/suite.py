"""The whole run: who is needed is started, what is compared takes turns, and every comparison becomes a row."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from tests.bench import fanout, goals, wasm
from tests.bench.goals import COMPARISONS, Comparison
from tests.bench.report import Row
from tests.bench.rig import Rig, rigged
from tests.bench.rounds import take_turns
from tests.bench.world import prepared

MEGABYTE = 1_000_000

Say = Callable[[str], None]

WASM_GOALS: Mapping[str, Mapping[str, float]] = {
    "warm call": {"at_most": 15.0},
    "fresh instance + 1 KiB, in the thread": {"at_most": 60.0},
    "fresh instance + 1 KiB, from the loop": {"at_most": 250.0},
    "cached load": {"at_least": 100.0},
    "overshoot": {"at_most": 15.0},
}


async def run(groups: Collection[str], *, rows: int, seconds: float, fast: bool, say: Say) -> list[Row]:
    """Measure `groups`: `rows` in each of two organizations, `seconds` of load per side of a comparison. With `fast`
    PostgreSQL does not wait for the disk. `say` hears how it goes on."""
    chosen = [comparison for comparison in COMPARISONS if comparison.group in groups]
    found: list[Row] = []
    if chosen or goals.MEMORY in groups:
        memory = goals.MEMORY in groups
        carried = goals.ADDONS_IN_MEMORY - 1 if memory else 0
        single = [each for each in chosen if each.ours != goals.TWO]
        async with prepared(rows=rows, carried=carried, fast=fast, say=say) as world:
            if single or memory:
                async with rigged(world, _taking_part(single) | ({goals.KERNEL} if memory else set()), say) as rig:
                    found += await _compare(rig, single, seconds, say)
                    if memory:
                        found.append(_memory(rig, worked=bool(single)))
            # Each kernel process reads every event of the others, so these are not there while those are measured.
            if double := [each for each in chosen if each.ours == goals.TWO]:
                async with rigged(world, _taking_part(double), say) as rig:
                    found += await _compare(rig, double, seconds, say)
        found.sort(key=lambda row: goals.GROUPS.index(row.group))
    if goals.HUB in groups:
        with tempfile.TemporaryDirectory(prefix="metacore-bench-") as folder:
            found += await fanout.measure(Path(folder), say)
    if goals.WASM in groups:
        say("sandbox")
        found += [_wasm_row(*row) for row in await wasm.measure()]
    return found


def _taking_part(comparisons: Sequence[Comparison]) -> set[str]:
    return {who for each in comparisons for who in (each.ours, each.yardstick)}


def _memory(rig: Rig, *, worked: bool) -> Row:
    resident = rig.servers[goals.KERNEL].resident_bytes() / MEGABYTE
    what = f"a kernel with {rig.world.addons} addons, resident" + (" (after all of the above)" if worked else "")
    return Row(group=goals.MEMORY, what=what, ours=resident, unit="MB", at_most=goals.MEMORY_GOAL)


async def _compare(rig: Rig, chosen: Sequence[Comparison], seconds: float, say: Say) -> list[Row]:
    """Everybody who does the same work with the same number of connections takes turns."""
    places = list(dict.fromkeys((comparison.work, comparison.connections) for comparison in chosen))
    # What is written changes the plans of what is read, and keeps every kernel busy for a while.
    places.sort(key=lambda place: place[0] in goals.WRITES)
    rows: dict[Comparison, Row] = {}
    for number, (work, connections) in enumerate(places, 1):
        here = [each for each in chosen if (each.work, each.connections) == (work, connections)]
        names = list(dict.fromkeys(who for each in here for who in (each.ours, each.yardstick)))
        say(f"{number}/{len(places)} {work}, {_connections(connections)}: {', '.join(names)}")
        longer = goals.MORE_ROUNDS if any(each.group in goals.NEEDS_MORE_ROUNDS for each in here) else 1
        standings = await take_turns(
            {who: rig.side(who, work, connections) for who in names},
            connections=connections,
            seconds=seconds * longer,
            **({"settle": rig.settle} if work in goals.WRITES else {}),
        )
        for who, standing in standings.items():
            if standing.problem:
                say(f"{who} failed {standing.failed} times, such as with:\n{standing.problem}")
        for each in here:
            ours, yardstick = standings[each.ours], standings[each.yardstick]
            rows[each] = Row(
                group=each.group,
                what=f"{work}, {_connections(connections)}" + (f", {each.ours}" if each.ours == goals.TWO else ""),
                ours=ours.per_second,
                unit="/s",
                against=each.yardstick,
                yardstick=yardstick.per_second,
                ratio=ours.against(yardstick),
                at_least=each.goal,
                failed=ours.failed + yardstick.failed,
            )
    return [rows[comparison] for comparison in chosen]


def _connections(number: int) -> str:
    return "1 connection" if number == 1 else f"{number} connections"


def _wasm_row(what: str, value: float, unit: str, yardstick: float, ratio: float) -> Row:
    goal = next((goal for name, goal in WASM_GOALS.items() if what.startswith(name)), {})
    return Row(
        group=goals.WASM,
        what=what,
        ours=value,
        unit=unit,
        against="public API",
        yardstick=yardstick,
        ratio=ratio,
        at_least=goal.get("at_least"),
        at_most=goal.get("at_most"),
    )
