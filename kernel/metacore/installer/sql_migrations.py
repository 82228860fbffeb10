"""The judgement over an addon's SQL migrations: all of them, before the first one runs.

PostgreSQL's own parser reads the file; `sql_statements` judges each statement against allow lists. What is judged is
what runs: each statement is cut out, parsed again by itself, and sent alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pglast import parser

from metacore.errors import MigrationRefused, Problem
from metacore.installer.sql_depth import refuse_depth
from metacore.installer.sql_effects import Effect, effects_of
from metacore.installer.sql_names import Names, NotAllowed
from metacore.installer.sql_statements import Statements

MAX_SQL_CHARACTERS = 4 * 1024 * 1024
MAX_PROBLEMS = 100


class Migration(Protocol):
    """What a bundle says of one file; `metacore.bundle.read.MigrationFile` is one."""

    @property
    def version(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def sql(self) -> str: ...
    @property
    def checksum(self) -> str: ...


@dataclass(frozen=True, slots=True)
class JudgedStatement:
    """`line` is where it starts in its file, from 1; `kind` the parser's word for it, such as `CreateStmt`."""

    sql: str
    line: int
    kind: str


@dataclass(frozen=True, slots=True)
class JudgedMigration:
    """A migration that may run. `risks` say which data it takes away, `rewrites` which it writes over, `effects` how it
    changes tables."""

    version: str
    name: str
    path: str
    checksum: str
    statements: tuple[JudgedStatement, ...]
    effects: tuple[Effect, ...] = ()
    risks: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()


def judge(migrations: Sequence[Migration], known: Names) -> tuple[JudgedMigration, ...]:
    """Judge `migrations` in their order, starting from the objects in `known`, which is left as it is.

    Raises:
        MigrationRefused: at least one statement may not run. `problems` names each: `field` is `path:line`, and the
            message says the statement's kind and the reason.
    """
    names = known.copy()
    problems: list[Problem] = []
    judged = [_judge_file(migration, names, problems) for migration in migrations]
    if problems:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise MigrationRefused(f"{first.field}: {first.message}{more}", problems=problems[:MAX_PROBLEMS])
    return tuple(judged)


def _judge_file(migration: Migration, names: Names, problems: list[Problem]) -> JudgedMigration:
    statements: list[JudgedStatement] = []
    effects: list[Effect] = []
    risks: list[str] = []
    rewrites: list[str] = []
    for text, start in _split(migration, problems):
        line = _line(migration.sql, start)
        try:
            parsed = parser.parse_sql(text)
            if len(parsed) != 1:
                raise NotAllowed("the statement does not stand alone")
            tree = parsed[0].stmt
        except (parser.ParseError, NotAllowed) as error:
            problems.append(
                Problem(f"{migration.path}:{line}", "migration_refused", f"does not parse: {error.args[0]}")
            )
            continue
        kind = type(tree).__name__
        walk = Statements(names)
        try:
            walk.judge(tree)
        except NotAllowed as refusal:
            at = line if refusal.location is None else _line(migration.sql, start + refusal.location)
            problems.append(Problem(f"{migration.path}:{at}", "migration_refused", f"{spoken(kind)}: {refusal.reason}"))
            continue
        statements.append(JudgedStatement(text, line, kind))
        effects.extend(effects_of(tree))
        risks.extend(f"{migration.path}:{line} {risk}" for risk in walk.risks)
        rewrites.extend(f"{migration.path}:{line} {rewrite}" for rewrite in walk.rewrites)
    return JudgedMigration(
        version=migration.version,
        name=migration.name,
        path=migration.path,
        checksum=migration.checksum,
        statements=tuple(statements),
        effects=tuple(effects),
        risks=tuple(risks),
        rewrites=tuple(rewrites),
    )


def _split(migration: Migration, problems: list[Problem]) -> list[tuple[str, int]]:
    """The statements of a file and where each starts, without the comments before it."""
    sql = migration.sql
    if len(sql) > MAX_SQL_CHARACTERS:
        problems.append(Problem(migration.path, "migration_refused", f"longer than {MAX_SQL_CHARACTERS} characters"))
        return []
    if "\x00" in sql:
        # The parser would stop reading here and never see the rest.
        at = _line(sql, sql.index("\x00"))
        problems.append(Problem(f"{migration.path}:{at}", "migration_refused", "holds a NUL character"))
        return []
    try:
        refuse_depth(sql)
        parsed = parser.parse_sql(sql)
    except NotAllowed as refusal:
        at = _line(sql, refusal.location or 0)
        problems.append(Problem(f"{migration.path}:{at}", "migration_refused", refusal.reason))
        return []
    except parser.ParseError as error:
        at = _line(sql, error.args[1] if len(error.args) > 1 and isinstance(error.args[1], int) else 0)
        problems.append(Problem(f"{migration.path}:{at}", "migration_refused", f"does not parse: {error.args[0]}"))
        return []
    found = []
    for raw in parsed:
        place = raw.stmt_location or 0
        end = place + raw.stmt_len if raw.stmt_len else len(sql)
        text = sql[place:end]
        start = place + len(text) - len(text.lstrip())
        found.append((sql[start:end].rstrip(), start))
    return found


def spoken(kind: str) -> str:
    """A parse node's name as people write it: `AlterTableStmt` becomes `ALTER TABLE`."""
    words = "".join(f" {letter}" if letter.isupper() else letter for letter in kind.removesuffix("Stmt"))
    return SPOKEN.get(kind, words.strip().upper())


SPOKEN = {
    "CreateStmt": "CREATE TABLE",
    "IndexStmt": "CREATE INDEX",
    "ViewStmt": "CREATE VIEW",
    "RuleStmt": "CREATE RULE",
    "DoStmt": "DO",
    "CreateTrigStmt": "CREATE TRIGGER",
    "CreateEventTrigStmt": "CREATE EVENT TRIGGER",
    "CreateSeqStmt": "CREATE SEQUENCE",
    "AlterSeqStmt": "ALTER SEQUENCE",
    "CompositeTypeStmt": "CREATE TYPE",
    "CreateEnumStmt": "CREATE TYPE",
    "AlterEnumStmt": "ALTER TYPE",
    "VariableSetStmt": "SET",
    "VariableShowStmt": "SHOW",
    "SecLabelStmt": "SECURITY LABEL",
    "GrantStmt": "GRANT or REVOKE",
    "GrantRoleStmt": "GRANT or REVOKE",
    "AlterOwnerStmt": "ALTER … OWNER TO",
    "AlterObjectSchemaStmt": "ALTER … SET SCHEMA",
    "AlterFunctionStmt": "ALTER FUNCTION",
    "TransactionStmt": "a transaction statement",
    "DeclareCursorStmt": "DECLARE",
}


def _line(sql: str, offset: int) -> int:
    return sql.count("\n", 0, max(0, offset)) + 1
