"""Judges the statements that a migration of an addon may consist of."""

from __future__ import annotations

from collections.abc import Callable

from pglast import ast
from pglast.enums import AlterTableType, CmdType, ConstrType, DropBehavior, ObjectType

from metacore.installer import sql_rules as rules
from metacore.installer.sql_names import (
    KEPT_COLUMNS,
    Names,
    NotAllowed,
    Tree,
    is_a,
    object_name,
    one_part,
    plain_name,
    type_parts,
)
from metacore.installer.sql_rewrites import Rewrites, merge_clauses


class Statements(Rewrites):
    """One statement's judgement. `judge` raises `NotAllowed`, or brings `known` up to date and fills `risks` with what
    is taken away, and `rewrites`."""

    def __init__(self, known: Names) -> None:
        super().__init__(known)
        self.risks: list[str] = []

    def judge(self, statement: Tree) -> None:
        kind = type(statement).__name__
        handler = STATEMENTS.get(type(statement))
        if handler is None:
            reason = rules.FORBIDDEN_STATEMENTS.get(kind, "statements of this kind are not allowed in migrations")
            raise NotAllowed(reason)
        try:
            handler(self, statement)
        except RecursionError:
            raise NotAllowed("the statement is nested too deeply to be judged") from None
        except NotAllowed as refusal:
            if refusal.location is None:
                refusal.location = self._location
            raise

    def visit(self, node: Tree) -> bool:
        handler = PARTS.get(type(node))
        if handler is None:
            return False
        handler(self, node)
        return True

    def cascade(self, behavior: DropBehavior) -> None:
        """CASCADE may take views, types and functions along, so from here on none of them is known to exist."""
        if behavior == DropBehavior.DROP_CASCADE:
            self.known.views.clear()
            self.known.functions.clear()

    # -- tables --------------------------------------------------------------------------------------------------

    def create_table(self, node: Tree) -> None:
        name = self.new_relation(node.relation)
        if node.inhRelations or node.partspec or node.partbound or node.ofTypename:
            raise NotAllowed("inherited, partitioned and typed tables are not allowed")
        if node.tablespacename or node.accessMethod:
            raise NotAllowed("tablespaces and access methods belong to the database's administrator")
        _storage_options(node.options)
        self.table_made(name, node)
        self.known.tables.add(name)  # Before its elements: a table may refer to itself.
        self.walk(node.tableElts)
        self.walk(node.constraints)

    def table_as(self, node: Tree) -> None:
        if node.objtype != ObjectType.OBJECT_TABLE:
            raise NotAllowed("a materialized view cannot carry row security")
        into = node.into
        if into.options or into.tableSpaceName or into.accessMethod:
            raise NotAllowed("storage options are not allowed here")
        if not is_a(node.query, ast.SelectStmt):
            raise NotAllowed("only CREATE TABLE … AS SELECT is allowed")
        name = self.new_relation(into.rel)
        self.query(node.query)
        self.table_made(name, node)
        self.known.tables.add(name)

    def table_made(self, name: str, node: Tree) -> None:
        there = self.known.tables | self.known.views
        self.known.fresh.table_made(name, there, if_missing=bool(node.if_not_exists))

    def like(self, node: Tree) -> None:
        self.own_relation(node.relation)

    def column_definition(self, node: Tree) -> None:
        if node.fdwoptions:
            raise NotAllowed("options of foreign data are not allowed")
        self.children(node)

    def constraint(self, node: Tree) -> None:
        if node.indexspace:
            raise NotAllowed("tablespaces belong to the database's administrator")
        if node.contype == ConstrType.CONSTR_FOREIGN:
            self.own_relation(node.pktable, tables_only=True)
        if node.contype == ConstrType.CONSTR_IDENTITY:
            _identity_options(node.options)
        else:
            _storage_options(node.options)
        for element, operator in node.exclusions or ():
            one_part(operator, "operator")
            self.walk(element)
        self.children(node, skip=("pktable", "options", "exclusions"))

    def alter_table(self, node: Tree) -> None:
        if node.objtype == ObjectType.OBJECT_TYPE:
            if plain_name(node.relation) not in self.known.types:
                raise NotAllowed(f"{node.relation.relname!r} is not a type of this addon")
            name = node.relation.relname
        elif node.objtype == ObjectType.OBJECT_TABLE:
            name = self.own_relation(node.relation, tables_only=True)
        else:
            raise NotAllowed("only tables and composite types may be altered")
        for command in node.cmds:
            self._alter_command(name, command)

    def _alter_command(self, table: str, command: Tree) -> None:
        kind = AlterTableType(command.subtype)
        if kind not in rules.ALTER_TABLE:
            words = kind.name.removeprefix("AT_")
            raise NotAllowed(rules.ALTER_TABLE_REASONS.get(kind, f"ALTER TABLE … {words} is not allowed"))
        if kind in (AlterTableType.AT_DropColumn, AlterTableType.AT_AlterColumnType) and command.name in KEPT_COLUMNS:
            raise NotAllowed(f"column {command.name!r} belongs to the kernel once it is there")
        if kind == AlterTableType.AT_DropColumn:
            self.risks.append(f"drops column {table}.{command.name} and its values")
            self.cascade(command.behavior)
        if kind == AlterTableType.AT_AlterColumnType:
            self.risks.append(f"changes the type of {table}.{command.name} and rewrites its values")
        if kind == AlterTableType.AT_SetExpression:
            self.written_over(table, [command.name], "computes anew")
        if kind == AlterTableType.AT_AddConstraint:
            self.cascades(table, command.def_)
        if kind == AlterTableType.AT_AddColumn and table in self.known.tables:
            self.known.fresh.column_made(table, command.def_.colname, if_missing=bool(command.missing_ok))
        if kind == AlterTableType.AT_DropConstraint:
            self.cascade(command.behavior)
        if kind == AlterTableType.AT_SetIdentity:
            _identity_options(command.def_)
            return
        if command.newowner is not None:
            raise NotAllowed("an addon's objects keep their owner")
        self.walk(command.def_)

    def index(self, node: Tree) -> None:
        if node.concurrent:
            raise NotAllowed("CONCURRENTLY cannot run inside a migration's transaction; leave it out")
        if node.tableSpace:
            raise NotAllowed("tablespaces belong to the database's administrator")
        if node.accessMethod not in rules.INDEX_METHODS:
            raise NotAllowed(f"index method {node.accessMethod!r} is not allowed")
        if node.idxname:
            self.new_name(node.idxname)
        _storage_options(node.options)
        self.own_relation(node.relation, tables_only=True)
        self.walk((*node.indexParams, *(node.indexIncludingParams or ())))
        self.walk(node.whereClause)

    def truncate(self, node: Tree) -> None:
        for relation in node.relations:
            name = self.own_relation(relation, tables_only=True)
            self.risks.append(f"empties table {name}")

    def _body(self, node: Tree) -> None:
        """Rows go wherever a query says so: in a CTE, in a MERGE and in the body of a function, too."""
        super()._body(node)
        merged = any(clause.commandType == CmdType.CMD_DELETE for clause in merge_clauses(node))
        if merged or is_a(node, ast.DeleteStmt):
            self.risks.append(f"deletes rows of {node.relation.relname}")

    # -- other objects -------------------------------------------------------------------------------------------

    def view(self, node: Tree) -> None:
        name = self.new_relation(node.view)
        options = {option.defname: option for option in node.options or ()}
        invoker = options.pop("security_invoker", None)
        if invoker is None or not _is_true(invoker.arg):
            raise NotAllowed(
                "a view must be made WITH (security_invoker = true), so that row security of the reader holds"
            )
        if set(options) - {"security_barrier", "check_option"}:
            raise NotAllowed(f"view options {', '.join(sorted(options))} are not allowed")
        if not is_a(node.query, ast.SelectStmt):
            raise NotAllowed("a view must be a SELECT")
        self.query(node.query)
        self.known.views.add(name)
        self.known.fresh.view_made(name)

    def sequence(self, node: Tree) -> None:
        if is_a(node, ast.CreateSeqStmt):
            self.new_relation(node.sequence)
        else:
            plain_name(node.sequence)
        _identity_options(node.options)

    def new_type(self, node: Tree) -> None:
        if is_a(node, ast.CompositeTypeStmt):
            name = self.new_relation(node.typevar)
            self.walk(node.coldeflist)
        elif is_a(node, ast.CreateDomainStmt):
            name = self.new_name(one_part(node.domainname, "type"))
            self.children(node, skip=("domainname", "collClause"))
            self.walk(node.collClause)
        else:
            name = self.new_name(one_part(node.typeName, "type"))
        self.known.types.add(name)
        self.known.fresh.types.add(name)

    def alter_type(self, node: Tree) -> None:
        if one_part(node.typeName, "type") not in self.known.types:
            raise NotAllowed(f"{node.typeName[-1].sval!r} is not a type of this addon")
        if is_a(node, ast.AlterDomainStmt):
            self.walk(node.def_)
        elif node.oldVal is not None and node.typeName[-1].sval not in self.known.fresh.types:
            self.rewrites.append(f"makes {node.newVal!r} of every {node.oldVal!r} of type {node.typeName[-1].sval}")

    def rename(self, node: Tree) -> None:
        kind = ObjectType(node.renameType)
        if kind not in rules.RENAMES:
            raise NotAllowed(f"renaming a {kind.name.removeprefix('OBJECT_').lower()} is not allowed")
        old = plain_name(node.relation) if node.relation is not None else one_part(node.object, "type")
        if kind == ObjectType.OBJECT_COLUMN and node.subname in KEPT_COLUMNS:
            raise NotAllowed(f"column {node.subname!r} belongs to the kernel once it is there")
        self.new_name(node.newname)
        self.renamed(kind, old, node)
        moved = {
            ObjectType.OBJECT_TABLE: (self.known.tables, self.known.views),
            ObjectType.OBJECT_VIEW: (self.known.views, self.known.tables),
            ObjectType.OBJECT_TYPE: (self.known.types,),
            ObjectType.OBJECT_DOMAIN: (self.known.types,),
        }.get(kind)
        for known in moved or ():
            if old in known:
                known.discard(old)
                known.add(node.newname)
                return
        if moved is not None:
            raise NotAllowed(f"{old!r} is not an object of this addon")

    def drop(self, node: Tree) -> None:
        kind = ObjectType(node.removeType)
        if kind not in rules.DROPS:
            raise NotAllowed(f"DROP {kind.name.removeprefix('OBJECT_')} is not allowed")
        if node.concurrent:
            raise NotAllowed("CONCURRENTLY cannot run inside a migration's transaction; leave it out")
        self.cascade(node.behavior)
        parts = 2 if kind == ObjectType.OBJECT_TRIGGER else 1
        for target in node.objects:
            names = object_name(target)
            if len(names) != parts:
                raise NotAllowed(f"{'.'.join(names)!r} is qualified; only unqualified names are allowed")
            self._dropped(kind, names, bool(node.missing_ok))

    def _dropped(self, kind: ObjectType, names: list[str], missing_ok: bool) -> None:
        name = names[0]
        if name in self.known.reserved and name not in self.known.tables:
            raise NotAllowed(f"{name!r} is a table of the kernel")
        known = {
            ObjectType.OBJECT_TABLE: self.known.tables,
            ObjectType.OBJECT_VIEW: self.known.views,
            ObjectType.OBJECT_TYPE: self.known.types,
            ObjectType.OBJECT_DOMAIN: self.known.types,
            ObjectType.OBJECT_FUNCTION: self.known.functions,
            ObjectType.OBJECT_TRIGGER: self.known.tables,
        }.get(kind)
        if known is not None and name not in known and not missing_ok:
            raise NotAllowed(f"{name!r} is not an object of this addon")
        if kind == ObjectType.OBJECT_TRIGGER:
            return
        if kind == ObjectType.OBJECT_TABLE and name in self.known.tables:
            self.risks.append(f"drops table {name} and its rows")
        if known is not None:
            known.discard(name)

    def comment(self, node: Tree) -> None:
        parts = rules.COMMENTS.get(ObjectType(node.objtype))
        if parts is None:
            raise NotAllowed(
                "comments are allowed on tables, columns, views, indexes, types, functions and constraints"
            )
        names = object_name(node.object)
        if len(names) != parts:
            raise NotAllowed(f"{'.'.join(names)!r} is qualified; only unqualified names are allowed")


def _is_true(value: Tree) -> bool:
    if value is None:
        return True
    if is_a(value, ast.Integer):
        return bool(value.ival == 1)
    if is_a(value, ast.Boolean):
        return bool(value.boolval)
    return is_a(value, ast.String) and value.sval.lower() in ("true", "on", "yes", "1")


def _storage_options(options: Tree) -> None:
    for option in options or ():
        if option.defnamespace is not None or option.defname not in rules.STORAGE_OPTIONS:
            raise NotAllowed(f"storage option {option.defname!r} is not allowed")


def _identity_options(options: Tree) -> None:
    for option in options or ():
        if option.defname in ("sequence_name", "logged"):
            raise NotAllowed("the sequence of an identity column gets its name from the table")
        if option.defname == "owned_by" and len(option.arg) > 2:
            raise NotAllowed("OWNED BY takes an unqualified table and column")
        if option.defname == "as" and type_parts(option.arg)[-1] not in rules.BUILTIN_TYPES:
            raise NotAllowed("a sequence counts in a built-in integer type")


STATEMENTS: dict[type, Callable[[Statements, Tree], None]] = {
    ast.SelectStmt: Statements.query,
    ast.InsertStmt: Statements.query,
    ast.UpdateStmt: Statements.query,
    ast.DeleteStmt: Statements.query,
    ast.MergeStmt: Statements.query,
    ast.TruncateStmt: Statements.truncate,
    ast.CreateStmt: Statements.create_table,
    ast.CreateTableAsStmt: Statements.table_as,
    ast.AlterTableStmt: Statements.alter_table,
    ast.IndexStmt: Statements.index,
    ast.ViewStmt: Statements.view,
    ast.CreateSeqStmt: Statements.sequence,
    ast.AlterSeqStmt: Statements.sequence,
    ast.CreateEnumStmt: Statements.new_type,
    ast.CreateDomainStmt: Statements.new_type,
    ast.CompositeTypeStmt: Statements.new_type,
    ast.AlterEnumStmt: Statements.alter_type,
    ast.AlterDomainStmt: Statements.alter_type,
    ast.CreateFunctionStmt: Statements.function,
    ast.CreateTrigStmt: Statements.trigger,
    ast.RenameStmt: Statements.rename,
    ast.DropStmt: Statements.drop,
    ast.CommentStmt: Statements.comment,
}

PARTS: dict[type, Callable[[Statements, Tree], None]] = {
    ast.TableLikeClause: Statements.like,
    ast.ColumnDef: Statements.column_definition,
    ast.Constraint: Statements.constraint,
}
