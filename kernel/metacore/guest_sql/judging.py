"""When statements are judged: once each, long ones beside the event loop, and of unknown ones only so many.

Judging 16 KiB takes 20 to 250 ms (measured on one core of 2026), most of it in the parser while it holds the
interpreter's lock. A thread gives the loop turns in between, and a stack that deep nesting cannot use up, but no second
core. So what an invocation may have judged is limited as well.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import Future
from typing import Final, TypeVar

from metacore.guest_sql.callers import Context
from metacore.guest_sql.judge import judge
from metacore.guest_sql.judgement import Judgement, OwnNames, Refused
from metacore.wasm.abi import HostCode
from metacore.wasm.limits import MAX_JUDGED_SQL, MAX_SQL_BYTES
from metacore.wasm.threads import start_guest_thread

K = TypeVar("K")
V = TypeVar("V")

MOST_REMEMBERED: Final = 1024
"""Statements whose judgement and types are kept; each has at most 16 KiB."""
LONG: Final = 1024
"""Characters. What is longer is worth starting a thread, about 0.1 ms."""


class Judgements:
    """What was judged, by text. A statement that is known costs a look into a dictionary, without an await."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[OwnNames, bool, str, str], Judgement] = OrderedDict()
        self._one_at_a_time = asyncio.Lock()

    def known(self, sql: str, own: OwnNames, schema: str, *, writing: bool) -> Judgement | None:
        # Where tenants have schemas, the names in them are the same; only a text that spells one out differs.
        for place in ("", schema):
            key = (own, writing, sql, place)
            made = self._known.get(key)
            if made is not None:
                self._known.move_to_end(key)
                return made
        return None

    async def make(
        self, sql: str, own: OwnNames, schema: str, context: Context, *, writing: bool, seconds: float
    ) -> Judgement:
        """Judge a statement that is not known, at the cost of its invocation, and remember it.

        Raises:
            Refused: by the judge; with `payload_too_large` when the invocation had too much judged already, with
                `query_timeout` when others' statements took too long.
        """
        if len(sql) > MAX_SQL_BYTES:
            return judge(sql, own, physical_schema=schema, writing=writing)  # Refuses it without a look.
        if context.judged.characters + len(sql) > MAX_JUDGED_SQL:
            message = (
                f"this invocation sent more than {MAX_JUDGED_SQL} characters of SQL that was not known yet: "
                "use arguments ($1) and not texts that differ"
            )
            raise Refused(HostCode.PAYLOAD_TOO_LARGE, message)
        context.judged.characters += len(sql)
        if len(sql) <= LONG:
            made = judge(sql, own, physical_schema=schema, writing=writing)
        else:
            try:
                async with asyncio.timeout(seconds), self._one_at_a_time:
                    made = await _beside_the_loop(sql, own, schema, writing=writing)
            except TimeoutError:
                raise Refused(HostCode.QUERY_TIMEOUT, "the statement was not judged in time") from None
        spelled = schema if made.schemas and schema != own.schema else ""
        remember(self._known, (own, writing, sql, spelled), made)
        return made


def remember(known: OrderedDict[K, V], key: K, value: V) -> None:
    known[key] = value
    if len(known) > MOST_REMEMBERED:
        known.popitem(last=False)


async def _beside_the_loop(sql: str, own: OwnNames, schema: str, *, writing: bool) -> Judgement:
    future: Future[Judgement] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(judge(sql, own, physical_schema=schema, writing=writing))
        except BaseException as error:
            future.set_exception(error)

    start_guest_thread(run, "guest SQL judge")
    return await asyncio.wrap_future(future)
