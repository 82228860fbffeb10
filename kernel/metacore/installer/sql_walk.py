"""Judges queries and expressions of an addon's SQL: every node must be one that `sql_rules` allows.

Names are resolved, not only read. A relation must be one that the addon itself made before that point, or a CTE in
scope: whatever else an unqualified name could reach (the kernel's and the host's tables in `public`, catalogs) is
refused. That holds for views, defaults and function bodies too, which later run with the kernel's role.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from pglast import ast

from metacore.installer import sql_rules as rules
from metacore.installer.sql_names import (
    MAX_NAME_BYTES,
    RESERVED_PREFIXES,
    Names,
    NotAllowed,
    Tree,
    is_a,
    one_part,
    plain_name,
    type_parts,
)

STRING_BODY = (
    "a function whose body is a string finds tables by the caller's search path; write it as BEGIN ATOMIC … END, "
    "which binds them when the function is made"
)
MAY_CALL = "may be the call of a function of that name; a field of a row is to_jsonb(row) -> 'field'"
OPERATOR_NAMES = frozenset({"name", "operName", "useOp", "opclass", "collation"})


QUERIES: frozenset[type] = frozenset(
    {ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt},
)


class Expressions:
    """Judges queries and expressions against the names that the addon made so far."""

    def __init__(self, known: Names) -> None:
        self.known = known
        self._scopes: list[frozenset[str]] = [frozenset()]
        self._location: int | None = None
        self._only_expressions = False
        self._depth = 0
        self._qualified_columns: list[tuple[str, str]] = []
        self._function_columns: dict[str, frozenset[str]] = {}
        self._parameters: frozenset[str] = frozenset()

    # -- the walk ------------------------------------------------------------------------------------------------

    def walk(self, value: Tree) -> None:
        """Judge a node, a tuple of nodes or a plain value."""
        if isinstance(value, tuple):
            for item in value:
                self.walk(item)
            return
        if not is_a(value, ast.Node):
            return
        location = getattr(value, "location", None)
        if isinstance(location, int) and location >= 0:
            self._location = location
        if self.visit(value):
            return
        handler = NODES.get(type(value))
        if handler is not None:
            handler(self, value)
        elif type(value) in rules.EXPRESSIONS:
            self.children(value)
        else:
            raise NotAllowed(f"{type(value).__name__} is not allowed here")

    def visit(self, node: Tree) -> bool:
        """Whether a subclass judged `node` itself."""
        return False

    def used(self, name: str) -> None:
        """For a subclass that wants to know which relations, functions and types of the addon are used."""

    def children(self, node: Tree, skip: Iterable[str] = ()) -> None:
        for name in node.__slots__:
            if name in skip:
                continue
            value = getattr(node, name)
            if name in OPERATOR_NAMES and isinstance(value, tuple) and value and is_a(value[0], ast.String):
                one_part(value, "operator, collation or operator class")
            self.walk(value)

    @contextmanager
    def scope(self, names: frozenset[str]) -> Iterator[None]:
        self._scopes.append(self._scopes[-1] | names)
        try:
            yield
        finally:
            self._scopes.pop()

    # -- names ---------------------------------------------------------------------------------------------------

    def own_relation(self, node: Tree, *, tables_only: bool = False) -> str:
        """The unqualified name of a relation that this addon made."""
        name = plain_name(node)
        if name in self.known.tables or (name in self.known.views and not tables_only):
            self.used(name)
            return name
        if name in self.known.reserved or name.startswith(RESERVED_PREFIXES):
            raise NotAllowed(f"{name!r} is not a table of this addon but the kernel's or the database's own")
        raise NotAllowed(
            f"{name!r} is not a table that this addon's migrations made before this point; "
            "tables declared in the manifest are created after the migrations"
        )

    def new_relation(self, node: Tree) -> str:
        name = plain_name(node)
        if node.relpersistence != "p":
            raise NotAllowed("temporary and unlogged relations are not allowed")
        return self.new_name(name)

    def new_name(self, name: str) -> str:
        if name.lower().startswith(RESERVED_PREFIXES):
            raise NotAllowed(f"the name {name!r} is reserved: {', '.join(RESERVED_PREFIXES)} belong to the system")
        if name in self.known.reserved:
            raise NotAllowed(f"{name!r} is the name of a table of the kernel")
        if len(name.encode()) > MAX_NAME_BYTES:
            raise NotAllowed(f"the name {name[:70]!r} is longer than {MAX_NAME_BYTES} bytes")
        return name

    # -- queries -------------------------------------------------------------------------------------------------

    def query(self, node: Tree) -> None:
        """A SELECT or a data change, with its CTEs in the scope that PostgreSQL gives them."""
        self._depth += 1
        try:
            self._query(node)
        finally:
            self._depth -= 1
        if not self._depth:
            self._check_function_columns()

    def _query(self, node: Tree) -> None:
        if is_a(node, ast.SelectStmt) and node.intoClause is not None:
            raise NotAllowed("SELECT INTO is not allowed; write CREATE TABLE … AS")
        clause = node.withClause
        if clause is None:
            self._body(node)
            return
        tables = clause.ctes or ()
        if clause.recursive:
            with self.scope(frozenset(table.ctename for table in tables)):
                for table in tables:
                    self.children(table, skip=("ctename",))
                self._body(node)
            return
        seen: frozenset[str] = frozenset()
        for table in tables:
            with self.scope(seen):
                self.children(table, skip=("ctename",))
            seen |= {table.ctename}
        with self.scope(seen):
            self._body(node)

    def _body(self, node: Tree) -> None:
        if is_a(node, ast.SelectStmt):
            self.children(node, skip=("withClause", "intoClause"))
            return
        if self._only_expressions:
            raise NotAllowed(STRING_BODY)
        self.own_relation(node.relation)
        self.children(node, skip=("withClause", "relation"))

    def relation(self, node: Tree) -> None:
        """A relation that is read."""
        if node.schemaname is None and node.catalogname is None and node.relname in self._scopes[-1]:
            return
        if self._only_expressions:
            raise NotAllowed(STRING_BODY)
        self.own_relation(node)

    def locking(self, node: Tree) -> None:
        for relation in node.lockedRels or ():
            plain_name(relation)

    def column(self, node: Tree) -> None:
        names = [str(part.sval) for part in node.fields if is_a(part, ast.String)]
        if len(names) > 2:
            raise NotAllowed("a column is named by at most table and column; schemas are not allowed")
        if len(names) == 2:
            if names[0] in self._parameters:
                raise NotAllowed(f"{names[0]}.{names[1]} {MAY_CALL}")
            self._qualified_columns.append((names[0], names[1]))

    # PostgreSQL reads `x.name` and `(x).name` as the call `name(x)` where x has no such column, also for an x that has
    # none at all: a text, a number. So such a name must be that of a column for certain.

    def indirection(self, node: Tree) -> None:
        for part in node.indirection:
            if is_a(part, ast.String) and part.sval not in rules.FIELDS:
                raise NotAllowed(f"(…).{part.sval} {MAY_CALL}")
        self.children(node)

    def from_function(self, node: Tree) -> None:
        """A function in FROM. Its alias may stand for a plain value, so it has these columns only."""
        alias, call = node.alias, node.functions[0][0]
        columns = {str(column.colname) for column in node.coldeflist or ()}
        for _call, definitions in node.functions:
            columns |= {str(column.colname) for column in definitions or ()}
        function = str(call.funcname[-1].sval) if is_a(call, ast.FuncCall) else ""
        if alias is None and not function:
            raise NotAllowed("an expression in FROM needs an alias")
        name = str(alias.aliasname) if alias is not None else function
        if alias is not None and alias.colnames:
            columns |= {str(column.sval) for column in alias.colnames}
        elif alias is None or function in rules.UNNAMED_ROWS:
            columns.add(name)
        # One alias may mean several things in one statement; what is no column of one of them may be a call.
        known = frozenset(columns | rules.FIELDS)
        self._function_columns[name] = self._function_columns.get(name, known) & known
        self.children(node)

    def _check_function_columns(self) -> None:
        columns, qualified = self._function_columns, self._qualified_columns
        self._function_columns, self._qualified_columns = {}, []
        for qualifier, name in qualified:
            if qualifier in columns and name not in columns[qualifier]:
                raise NotAllowed(f"{qualifier}.{name} {MAY_CALL}; name its columns: … AS {qualifier}({name})")

    def call(self, node: Tree) -> None:
        *qualifier, last = [part.sval for part in node.funcname]
        if qualifier and (len(qualifier) > 1 or qualifier[0] not in rules.CATALOG_QUALIFIED):
            raise NotAllowed(
                f"function {'.'.join([*qualifier, last])!r} is qualified; only unqualified names are allowed"
            )
        if last in rules.SEQUENCE_FUNCTIONS:
            self._sequence_call(node, last)
            return
        own = last in self.known.functions and not qualifier and not self._only_expressions
        if last not in rules.FUNCTIONS and not own:
            raise NotAllowed(f"function {last!r} is not on the list of functions that migrations may call")
        if own:
            self.used(last)
        self.children(node, skip=("funcname",))

    def _sequence_call(self, node: Tree, name: str) -> None:
        if self._only_expressions:
            raise NotAllowed(STRING_BODY)
        first: Tree
        first, *others = node.args or (None,)
        if is_a(first, ast.TypeCast) and type_parts(first.typeName) == ["regclass"]:
            first = first.arg
        if not (is_a(first, ast.A_Const) and is_a(first.val, ast.String)):
            raise NotAllowed(f"{name} needs its sequence as a plain literal")
        sequence = first.val.sval.strip()
        bare = sequence[1:-1] if sequence.startswith('"') and sequence.endswith('"') else sequence
        if "." in bare or '"' in bare or bare.startswith(RESERVED_PREFIXES) or not bare:
            raise NotAllowed(f"{name} may name only an unqualified sequence of this addon")
        self.walk(tuple(others))

    def type_name(self, node: Tree) -> None:
        parts = type_parts(node)
        if node.pct_type:
            raise NotAllowed("%TYPE is not allowed")
        if len(parts) == 2 and parts[0] in rules.CATALOG_QUALIFIED and parts[1] in rules.BUILTIN_TYPES:
            pass
        elif len(parts) > 1:
            raise NotAllowed(f"type {'.'.join(parts)!r} is qualified; only unqualified names are allowed")
        elif parts[0] not in rules.BUILTIN_TYPES | self.known.types | self.known.tables:
            raise NotAllowed(f"type {parts[0]!r} is neither a known built-in type nor one that this addon made")
        self.used(parts[-1])
        self.children(node, skip=("names",))

    def sql_value(self, node: Tree) -> None:
        if node.op.name not in rules.SQL_VALUES:
            raise NotAllowed(f"{node.op.name.removeprefix('SVFOP_')} is not allowed")

    def collation(self, node: Tree) -> None:
        one_part(node.collname, "collation")
        self.walk(node.arg)

    def index_element(self, node: Tree) -> None:
        if node.opclassopts:
            raise NotAllowed("options of an operator class are not allowed")
        self.children(node)


NODES: dict[type, Callable[[Expressions, Tree], None]] = {
    ast.A_Indirection: Expressions.indirection,
    ast.RangeFunction: Expressions.from_function,
    **dict.fromkeys(QUERIES, Expressions.query),
    ast.RangeVar: Expressions.relation,
    ast.LockingClause: Expressions.locking,
    ast.ColumnRef: Expressions.column,
    ast.FuncCall: Expressions.call,
    ast.TypeName: Expressions.type_name,
    ast.TypeCast: Expressions.children,
    ast.SQLValueFunction: Expressions.sql_value,
    ast.CollateClause: Expressions.collation,
    ast.IndexElem: Expressions.index_element,
    ast.ParamRef: Expressions.children,
}
