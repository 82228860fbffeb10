"""Judges one statement of a guest. Pure: text and names in, a `Judgement` out; nobody is asked and nothing is run."""

from __future__ import annotations

import re
from collections.abc import Callable

from pglast import ast, parser

from metacore.guest_sql import rules
from metacore.guest_sql.judgement import (
    KERNEL_SCHEMA,
    ArgumentPlace,
    Judgement,
    Mention,
    OwnNames,
    Refused,
    Relation,
    SchemaName,
    StatementKind,
)
from metacore.installer import sql_rules
from metacore.installer.sql_migrations import spoken
from metacore.installer.sql_names import KERNEL_TABLES, Names, NotAllowed, Tree, is_a, type_parts
from metacore.installer.sql_walk import Expressions
from metacore.wasm.abi import HostCode
from metacore.wasm.limits import MAX_SQL_ARGUMENTS, MAX_SQL_BYTES

ADDON_PREFIX = "addon_"
_ARGUMENT = re.compile(r"\$[0-9]+")


def judge(sql: str, own: OwnNames, *, physical_schema: str, writing: bool) -> Judgement:
    """What `sql` is and touches. `physical_schema` is where the addon's own tables are for this organization;
    `writing` is what `db_exec` runs, the rest is for `db_query`.

    Raises:
        Refused: it is no single statement of its kind, or names what no grant could allow.
    """
    if len(sql.encode()) > MAX_SQL_BYTES:
        raise Refused(HostCode.PAYLOAD_TOO_LARGE, f"sql has more than {MAX_SQL_BYTES} bytes")
    statement, text, offset = _one_statement(sql)
    kind = rules.KINDS.get(type(statement))
    if kind is None or (kind == "select") is writing:
        wanted = "one INSERT, UPDATE, DELETE or MERGE" if writing else "one SELECT, also with WITH before it"
        called = "db_exec" if writing else "db_query"
        raise Refused(HostCode.INVALID_SQL, f"{called} takes {wanted}; this is {spoken(type(statement).__name__)}")
    walk = _Walk(own, physical_schema, writing=writing)
    try:
        walk.top(statement)
    except RecursionError:
        raise Refused(HostCode.INVALID_SQL, "the statement is nested too deeply to be judged") from None
    except NotAllowed as refusal:
        code = refusal.code if isinstance(refusal, _No) else HostCode.INVALID_SQL
        raise Refused(code, refusal.reason) from None
    if walk.arguments > MAX_SQL_ARGUMENTS:
        raise Refused(HostCode.INVALID_SQL, f"the statement asks for argument {walk.arguments}, at most 64 are given")
    return Judgement(
        kind=StatementKind(kind),
        sql=text,
        arguments=walk.arguments,
        reads=frozenset(walk.reads),
        writes=frozenset(walk.writes),
        own=frozenset(walk.own_relations),
        returning=kind != "select" and statement.returningClause is not None,
        mentions=frozenset(walk.mentions),
        aliases=frozenset(walk.aliases),
        schemas=_schema_names(sql, walk.qualified, offset),
        places=_argument_places(sql, walk.asked, offset),
        organizations=frozenset(walk.organizations),
        organization_arguments=frozenset(walk.organization_arguments),
    )


def _one_statement(sql: str) -> tuple[Tree, str, int]:
    """The statement's tree, its text, and where that begins."""
    if "\x00" in sql:
        # The parser would stop reading here and never see the rest.
        raise Refused(HostCode.INVALID_SQL, "the statement holds a NUL character")
    try:
        parsed = parser.parse_sql(sql)
    except parser.ParseError as error:
        raise Refused(HostCode.INVALID_SQL, f"does not parse: {error.args[0]}") from None
    except RecursionError:
        raise Refused(HostCode.INVALID_SQL, "the statement is nested too deeply to be judged") from None
    if len(parsed) != 1:
        what = "nothing" if not parsed else f"{len(parsed)} statements"
        raise Refused(HostCode.INVALID_SQL, f"exactly one statement is taken; this is {what}")
    start = parsed[0].stmt_location or 0
    end = start + parsed[0].stmt_len if parsed[0].stmt_len else len(sql)
    return parsed[0].stmt, sql[start:end], start


def _schema_names(sql: str, places: list[tuple[int, str]], offset: int) -> tuple[SchemaName, ...]:
    if not places:
        return ()
    ends = {token.start: token.end + 1 for token in parser.scan(sql)}
    return tuple(
        SchemaName(start - offset, ends[start] - offset, schema) for start, schema in sorted(places) if start in ends
    )


def _argument_places(sql: str, asked: list[tuple[int, int]], offset: int) -> tuple[ArgumentPlace, ...]:
    found = [(_ARGUMENT.match(sql, start), number) for start, number in sorted(set(asked))]
    return tuple(
        ArgumentPlace(place.start() - offset, place.end() - offset, number) for place, number in found if place
    )


class _No(NotAllowed):
    """A refusal with a code of its own; without one the statement is merely not one that is taken."""

    def __init__(self, code: HostCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def _forbidden(reason: str) -> _No:
    return _No(HostCode.FORBIDDEN, reason)


class _Walk(Expressions):
    """The walk of migrations, for statements that may name relations of others."""

    def __init__(self, own: OwnNames, physical_schema: str, *, writing: bool) -> None:
        super().__init__(
            Names(tables=set(own.tables), views=set(own.views), types=set(own.types), functions=set(own.functions))
        )
        self._own_schemas = frozenset({own.schema, physical_schema})
        self._schema = own.schema
        self._writing = writing
        self._at_top = True
        self._locks = False
        self.arguments = 0
        self.asked: list[tuple[int, int]] = []
        self.reads: set[Relation] = set()
        self.writes: set[Relation] = set()
        self.own_relations: set[str] = set()
        self.mentions: set[Mention] = set()
        self.aliases: set[tuple[str, str]] = set()
        self.qualified: list[tuple[int, str]] = []
        self.organizations: set[str] = set()
        self.organization_arguments: set[int] = set()

    def top(self, statement: Tree) -> None:
        if not is_a(statement, ast.SelectStmt):
            self._refuse_moves(statement)
        self.query(statement)
        if self._locks and self.reads:
            raise NotAllowed("FOR UPDATE and FOR SHARE are for tables of the addon itself")

    def visit(self, node: Tree) -> bool:
        handler = PARTS.get(type(node))
        if handler is None:
            return False
        handler(self, node)
        return True

    # -- statements ----------------------------------------------------------------------------------------------

    def query(self, node: Tree) -> None:
        at_top, self._at_top = self._at_top, False
        if not is_a(node, ast.SelectStmt) and not at_top:
            raise NotAllowed(f"{spoken(type(node).__name__)} stands inside another statement; send it by itself")
        if is_a(node, ast.SelectStmt) and node.intoClause is not None:
            raise NotAllowed("SELECT INTO makes a table; only migrations make tables")
        super().query(node)

    def _refuse_moves(self, node: Tree) -> None:
        """A row never changes its organization."""
        changed = list(node.targetList or ()) if is_a(node, ast.UpdateStmt) else []
        if is_a(node, ast.InsertStmt) and node.onConflictClause is not None:
            changed += node.onConflictClause.targetList or ()
        if is_a(node, ast.MergeStmt):
            for clause in node.mergeWhenClauses or ():
                if clause.commandType.name == "CMD_UPDATE":
                    changed += clause.targetList or ()
        if any(target.name == rules.TENANT_COLUMN for target in changed):
            raise _No(HostCode.MISSING_ORG_FILTER, f"{rules.TENANT_COLUMN} is changed: a row stays in its organization")

    # -- relations -----------------------------------------------------------------------------------------------

    def own_relation(self, node: Tree, *, tables_only: bool = False) -> str:
        """What a data change is about; `relation` for what is read. Comes from the walk of data changes."""
        found = self._resolve(node)
        if found is None:
            if node.relname not in self.known.tables:
                raise NotAllowed(f"{node.relname!r} is a view; change the rows of its table")
        else:
            self.writes.add(found)
        self._called(node, found)
        return str(node.relname)

    def relation(self, node: Tree) -> None:
        if node.schemaname is None and node.catalogname is None and node.relname in self._scopes[-1]:
            return
        found = self._resolve(node)
        if found is not None:
            self.reads.add(found)
        self._called(node, found)

    def _called(self, node: Tree, found: Relation | None) -> None:
        name = node.alias.aliasname if node.alias is not None else node.relname
        self.aliases.add((found.target if found is not None else str(node.relname), str(name)))
        if node.alias is not None:
            self.children(node.alias)

    def _resolve(self, node: Tree) -> Relation | None:
        """The relation of another schema; None for one of the addon's own."""
        schema, name = node.schemaname, str(node.relname)
        if node.catalogname is not None:
            raise _forbidden(f"relation {node.catalogname}.{schema}.{name} names a database")
        if schema is not None and node.location is not None and node.location >= 0:
            self.qualified.append((node.location, schema))
        if schema is None or schema in self._own_schemas:
            if name in self.known.tables or name in self.known.views:
                self.own_relations.add(name)
                return None
            if schema is None and name in KERNEL_TABLES:
                return Relation(KERNEL_SCHEMA, name)
            if name.startswith("pg_"):
                raise _forbidden(f"relation {name!r} belongs to the database itself")
            raise NotAllowed(
                f"there is no table {name!r} in {self._schema}; those of other addons are written addon_<key>.<table>"
            )
        if schema == KERNEL_SCHEMA and name in KERNEL_TABLES:
            return Relation(KERNEL_SCHEMA, name)
        if schema.startswith(ADDON_PREFIX):
            return Relation(schema, name)
        raise _forbidden(f"relation {schema}.{name} is out of reach: it belongs to no addon")

    def locking(self, node: Tree) -> None:
        if not self._writing:
            raise NotAllowed("FOR UPDATE and FOR SHARE lock rows; db_query only reads")
        self._locks = True
        super().locking(node)

    # -- expressions ---------------------------------------------------------------------------------------------

    def column(self, node: Tree) -> None:
        super().column(node)
        *before, last = node.fields
        qualifier = str(before[-1].sval) if before else ""
        self.mentions.add(Mention(qualifier, "*" if is_a(last, ast.A_Star) else str(last.sval)))

    def assigned(self, node: Tree) -> None:
        """A column that is written; in a RETURNING list the name of an output column, which looks the same."""
        if self._writing and node.name is not None:
            self.mentions.add(Mention("", str(node.name), written=True))
        self.children(node)

    def join(self, node: Tree) -> None:
        for column in node.usingClause or ():
            self.mentions.add(Mention("", str(column.sval)))
        self.children(node)

    def call(self, node: Tree) -> None:
        *qualifier, last = [str(part.sval) for part in node.funcname]
        if last in rules.SEQUENCE_FUNCTIONS and not qualifier:
            if not self._writing:
                raise NotAllowed(f"{last} counts on; db_query only reads")
            super().call(node)
            return
        own = last in self.known.functions and not qualifier
        listed = last in rules.FUNCTIONS and (not qualifier or qualifier == ["pg_catalog"])
        if not own and not listed:
            name = ".".join([*qualifier, last])
            raise _forbidden(f"function {name!r} is not on the list of functions that guests may call")
        self.children(node, skip=("funcname",))

    def type_name(self, node: Tree) -> None:
        parts = type_parts(node)
        known = rules.TYPES | self.known.types | self.known.tables
        if parts[-1] not in known and not node.pct_type:
            raise _forbidden(f"type {'.'.join(parts)!r} is neither a plain built-in type nor one of this addon's")
        super().type_name(node)

    def sql_value(self, node: Tree) -> None:
        if node.op.name not in sql_rules.SQL_VALUES:
            raise _forbidden(f"{node.op.name.removeprefix('SVFOP_')} tells what guests need not know")

    def column_definition(self, node: Tree) -> None:
        """A column of a function's rows: a name and a type."""
        if node.constraints or node.raw_default is not None or node.fdwoptions:
            raise NotAllowed("a column of a function's rows has a name and a type only")
        self.walk(node.typeName)
        self.walk(node.collClause)

    def argument(self, node: Tree) -> None:
        self.arguments = max(self.arguments, node.number)
        self.asked.append((node.location, node.number))

    def expression(self, node: Tree) -> None:
        if any(_is_tenant_column(side) for side in (node.lexpr, node.rexpr)):
            for side in (node.lexpr, node.rexpr):
                for value in side if isinstance(side, tuple) else (side,):
                    self._compared(value)
        self.children(node)

    def _compared(self, value: Tree) -> None:
        while is_a(value, ast.TypeCast):
            value = value.arg
        if is_a(value, ast.ParamRef):
            self.organization_arguments.add(value.number)
        elif is_a(value, ast.A_Const) and is_a(value.val, ast.String):
            self.organizations.add(value.val.sval)


def _is_tenant_column(node: Tree) -> bool:
    return (
        is_a(node, ast.ColumnRef) and is_a(node.fields[-1], ast.String) and node.fields[-1].sval == rules.TENANT_COLUMN
    )


PARTS: dict[type, Callable[[_Walk, Tree], None]] = {
    **dict.fromkeys(rules.KINDS, _Walk.query),
    ast.RangeVar: _Walk.relation,
    ast.LockingClause: _Walk.locking,
    ast.ColumnRef: _Walk.column,
    ast.ResTarget: _Walk.assigned,
    ast.JoinExpr: _Walk.join,
    ast.FuncCall: _Walk.call,
    ast.TypeName: _Walk.type_name,
    ast.SQLValueFunction: _Walk.sql_value,
    ast.ColumnDef: _Walk.column_definition,
    ast.ParamRef: _Walk.argument,
    ast.A_Expr: _Walk.expression,
}
