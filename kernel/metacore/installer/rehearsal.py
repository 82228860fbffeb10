"""Tries an addon's pending migrations on a copy of its schema, and tells what they would do to the real one.

What a statement locks is read from `pg_locks`, a table that is written anew is one whose file changed, and one that is
read through has more scans than before: all measured in the transaction of the migration itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from metacore.errors import Unavailable
from metacore.installer import scratch as scratches
from metacore.installer.failures import retryable, said, sqlstate
from metacore.installer.migration_role import refuse_two
from metacore.installer.names import quoted
from metacore.installer.scratch import Scratch, Size, copy_of
from metacore.installer.sql_migrations import JudgedMigration, JudgedStatement, spoken
from metacore.installer.steps import Impact, Plan, Rehearsal, Risk, RiskKind, StepKind
from metacore.installer.verify import findings

MODES = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
"""PostgreSQL's table locks, weakest first."""
FIRST_TOLD = MODES.index("RowExclusiveLock")
FIRST_BLOCKING = MODES.index("ShareLock")
"""From here on a lock keeps others from writing."""
FOREIGN_KEY_VIOLATION = "23503"
UNKNOWN = Size(0, more=False, sampled=False)


async def rehearse(
    direct_url: str, key: str, schema: str, migrations: Sequence[JudgedMigration], *, others: int = 0
) -> Rehearsal:
    """Try `migrations` on a copy of `schema`; nothing of it is left afterwards. `others` schemas are not tried.

    Raises:
        Unavailable: it cannot be tried now.
    """
    notes = [f"only schema {schema} was tried, not {others} more of other organizations"] if others else []
    try:
        async with copy_of(direct_url, key, schema) as scratch:
            notes += _notes(schema, scratch.sizes)
            return await _try(scratch, schema, migrations, notes)
    except asyncpg.PostgresError as error:
        if retryable(error) or isinstance(error, asyncpg.PostgresConnectionError):
            raise Unavailable(f"the migrations of addon {key!r} cannot be tried now: {said(error)}") from error
        return Rehearsal(notes=(*notes, f"schema {schema} could not be copied, so nothing was tried: {said(error)}"))
    except (OSError, asyncpg.InterfaceError) as error:
        raise Unavailable(f"the migrations of addon {key!r} cannot be tried now: {type(error).__name__}") from error


async def rewritten(direct_url: str, plan: Plan) -> Rehearsal:
    """What the installer's own statements write anew, by the rows that are there."""
    widened = {risk.subject.rpartition(".")[0] for risk in plan.risks if risk.kind is RiskKind.REWRITE}
    steps = [step for step in plan.steps if step.kind is StepKind.TABLE and f"{step.schema}.{step.table}" in widened]
    if not steps:
        return Rehearsal()
    impacts = []
    owner = await scratches.connect_owner(direct_url, "metacore-count")
    try:
        for step in steps:
            rows = await scratches.count_rows(owner, f"{quoted(step.schema)}.{quoted(step.table)}")
            most = scratches.COUNTED_ROWS
            impacts.append(
                Impact(
                    step.name,
                    "ALTER TABLE",
                    f"{step.schema}.{step.table}",
                    MODES[-1],
                    rewrites=True,
                    scans=True,
                    rows=min(rows, most),
                    more=rows > most,
                )
            )
    finally:
        await owner.close(timeout=10)
    risks = [risk for impact in impacts if (risk := _risk(impact, blocking=True)) is not None]
    return Rehearsal(tuple(impacts), tuple(risks))


def _notes(schema: str, sizes: Mapping[str, Size]) -> list[str]:
    return [f"{schema}.{name}: tried with some of its rows" for name, size in sizes.items() if size.sampled]


@dataclass(slots=True)
class _Table:
    """One table of the copy that was there before: as it was after the last statement."""

    name: str
    file: int
    scans: int
    lock: int = -1


@dataclass(slots=True)
class _Seen:
    impacts: list[Impact] = field(default_factory=list)
    risks: dict[tuple[RiskKind, str, str], Risk] = field(default_factory=dict)


async def _try(scratch: Scratch, schema: str, migrations: Sequence[JudgedMigration], notes: list[str]) -> Rehearsal:
    seen = _Seen()
    failure = ""
    names: dict[int, str] = {
        row["oid"]: row["relname"] for row in await scratch.connection.fetch(TABLES, scratch.schema)
    }
    for migration in migrations:
        failure = await _one(scratch, schema, migration, names, seen, notes)
        if failure:
            break
    return Rehearsal(tuple(seen.impacts), tuple(seen.risks.values()), failure, tuple(notes))


async def _one(
    scratch: Scratch, schema: str, migration: JudgedMigration, names: dict[int, str], seen: _Seen, notes: list[str]
) -> str:
    """Run one migration in a transaction, as it would really run. Returns what failed, '' when nothing did."""
    connection = scratch.connection
    place = migration.path
    try:
        async with connection.transaction():
            tables = await _tables(connection, names)
            for statement in migration.statements:
                place = f"{migration.path}:{statement.line}"
                await refuse_two(connection, statement.sql)
                await connection.execute(statement.sql)
                _compare(place, statement, schema, tables, await connection.fetch(LOOK, list(names)), scratch, seen)
            problems = await findings(connection, scratch.schema, scratch.role)
            if problems:
                return f"{migration.path} would be taken back: {problems[0]}"
    except asyncpg.PostgresError as error:
        if retryable(error) or isinstance(error, asyncpg.PostgresConnectionError):
            raise
        if sqlstate(error) == FOREIGN_KEY_VIOLATION and any(size.sampled for size in scratch.sizes.values()):
            notes.append(f"{place}: a foreign key did not hold among some of the rows, which proves nothing")
            return ""
        return f"{place}: {said(error)}"
    return ""


async def _tables(connection: asyncpg.Connection[asyncpg.Record], names: Mapping[int, str]) -> dict[int, _Table]:
    return {
        row["oid"]: _Table(names[row["oid"]], row["relfilenode"], row["scans"])
        for row in await connection.fetch(LOOK, list(names))
    }


def _compare(
    place: str,
    statement: JudgedStatement,
    schema: str,
    tables: dict[int, _Table],
    rows: Sequence[asyncpg.Record],
    scratch: Scratch,
    seen: _Seen,
) -> None:
    """What the statement did to each table that was there before it."""
    for row in rows:
        table = tables[row["oid"]]
        held = max((MODES.index(mode) for mode in row["modes"] if mode in MODES), default=-1)
        rewrites, scans = row["relfilenode"] != table.file, row["scans"] > table.scans
        size = scratch.sizes.get(table.name, UNKNOWN)
        if rewrites or (held > table.lock and held >= FIRST_TOLD) or (scans and held >= FIRST_BLOCKING):
            mode = MODES[held] if held >= 0 else ""
            words = spoken(statement.kind)
            subject = f"{schema}.{table.name}"
            impact = Impact(place, words, subject, mode, rewrites, scans, size.rows, size.more)
            seen.impacts.append(impact)
            risk = _risk(impact, blocking=held >= FIRST_BLOCKING)
            if risk is not None:
                seen.risks.setdefault((risk.kind, risk.subject, place), risk)
        table.file, table.scans, table.lock = row["relfilenode"], row["scans"], max(table.lock, held)


def _risk(impact: Impact, *, blocking: bool) -> Risk | None:
    """Only with many rows does anybody wait."""
    if not impact.more or not blocking:
        return None
    what = f"{impact.place} {impact.statement}: {impact.table} has more than {impact.rows} rows and"
    if impact.rewrites:
        return Risk(RiskKind.REWRITE, impact.table, f"{what} is written anew under {impact.lock}")
    if impact.scans:
        return Risk(RiskKind.LOCK, impact.table, f"{what} is read through under {impact.lock}, while nobody can write")
    return None


TABLES = """
SELECT c.oid, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind = 'r'
"""

LOOK = """
SELECT c.oid, c.relfilenode, pg_catalog.pg_stat_get_xact_numscans(c.oid) AS scans,
  ARRAY(SELECT l.mode FROM pg_catalog.pg_locks l
        WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.relation = c.oid AND l.granted
          AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
  ) AS modes
FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1::oid[])
"""
