"""What judged SQL will have done to the tables of a schema: enough to plan what is missing afterwards.

A prediction, for showing a plan before anything runs. The installer looks again at the real tables once the
migrations ran, so an imprecise guess here can never become a wrong statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pglast import ast
from pglast.enums import AlterTableType, ConstrType, ObjectType

from metacore.db.catalog import StoredColumn, StoredIndex, StoredTable
from metacore.installer.sql_names import Tree, is_a

UNKNOWN_TYPE = ""
"""The type of a predicted column that this module cannot tell; nothing is compared with it."""

SPELLED = {
    "int2": "smallint",
    "smallint": "smallint",
    "smallserial": "smallint",
    "int4": "integer",
    "serial": "integer",
    "serial4": "integer",
    "int8": "bigint",
    "bigserial": "bigint",
    "serial8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "numeric": "numeric",
    "decimal": "numeric",
    "bool": "boolean",
    "varchar": "character varying",
    "bpchar": "character",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "text": "text",
    "uuid": "uuid",
    "date": "date",
    "json": "json",
    "jsonb": "jsonb",
    "bytea": "bytea",
}


@dataclass(frozen=True, slots=True)
class Effect:
    """`kind` is create, drop, rename, add_column, drop_column, rename_column, set_type, nullable or index. `like` are
    tables whose columns a new one takes over."""

    kind: str
    table: str
    name: str = ""
    columns: tuple[StoredColumn, ...] = ()
    index: StoredIndex | None = None
    nullable: bool = True
    like: tuple[str, ...] = ()


def effects_of(statement: Tree) -> list[Effect]:
    """What one statement will change, in order."""
    if is_a(statement, ast.CreateStmt):
        elements = statement.tableElts or ()
        primary = {
            key.sval
            for element in elements
            if is_a(element, ast.Constraint) and element.contype == ConstrType.CONSTR_PRIMARY
            for key in element.keys or ()
        }
        columns = tuple(_column(element, primary) for element in elements if is_a(element, ast.ColumnDef))
        like = tuple(element.relation.relname for element in elements if is_a(element, ast.TableLikeClause))
        return [Effect("create", statement.relation.relname, columns=columns, like=like)]
    if is_a(statement, ast.CreateTableAsStmt):
        return [Effect("create", statement.into.rel.relname, columns=_selected(statement.query))]
    if is_a(statement, ast.AlterTableStmt):
        return [effect for command in statement.cmds for effect in _altered(statement.relation.relname, command)]
    if is_a(statement, ast.DropStmt) and statement.removeType == ObjectType.OBJECT_TABLE:
        return [Effect("drop", names[-1].sval) for names in statement.objects]
    if is_a(statement, ast.RenameStmt):
        if statement.renameType == ObjectType.OBJECT_TABLE:
            return [Effect("rename", statement.relation.relname, statement.newname)]
        if statement.renameType == ObjectType.OBJECT_COLUMN:
            renamed = (StoredColumn(statement.newname, UNKNOWN_TYPE),)
            return [Effect("rename_column", statement.relation.relname, statement.subname, renamed)]
    if is_a(statement, ast.IndexStmt) and statement.idxname:
        columns_of_index = tuple(element.name or "" for element in statement.indexParams)
        index = StoredIndex(statement.idxname, columns_of_index, bool(statement.unique), valid=True)
        return [Effect("index", statement.relation.relname, statement.idxname, index=index)]
    return []


def predict(schema: str, tables: Mapping[str, StoredTable], effects: Iterable[Effect]) -> dict[str, StoredTable]:
    """The tables of `schema` after `effects`."""
    after = dict(tables)
    for effect in effects:
        table = after.get(effect.table)
        if effect.kind == "create":
            if table is None:
                columns = {
                    name: column
                    for like in effect.like
                    if like in after
                    for name, column in after[like].columns.items()
                }
                columns.update({column.name: column for column in effect.columns})
                after[effect.table] = StoredTable(schema, effect.table, columns)
        elif table is None:
            continue
        elif effect.kind == "drop":
            del after[effect.table]
        elif effect.kind == "rename":
            after[effect.name] = replace(after.pop(effect.table), name=effect.name)
        elif effect.kind == "index" and effect.index is not None:
            after[effect.table] = replace(table, indexes={**table.indexes, effect.name: effect.index})
        else:
            after[effect.table] = replace(table, columns=_changed_columns(table, effect))
    return after


def spell_type(name: Tree) -> str:
    """The type as PostgreSQL's `format_type` writes it, or `UNKNOWN_TYPE`."""
    base = SPELLED.get(name.names[-1].sval)
    if base is None or name.arrayBounds or name.setof:
        return UNKNOWN_TYPE
    sizes = [
        modifier.val.ival
        for modifier in name.typmods or ()
        if is_a(modifier, ast.A_Const) and is_a(modifier.val, ast.Integer)
    ]
    if not sizes:
        return base
    if base == "numeric":
        return f"numeric({sizes[0]},{sizes[1] if len(sizes) > 1 else 0})"
    if base.startswith("timestamp"):
        head, _, tail = base.partition(" ")
        return f"{head}({sizes[0]}) {tail}"
    return f"{base}({sizes[0]})"


def _column(element: Tree, primary: Iterable[str] = ()) -> StoredColumn:
    kinds = {constraint.contype for constraint in element.constraints or ()}
    base = element.typeName.names[-1].sval
    required = bool(kinds & {ConstrType.CONSTR_NOTNULL, ConstrType.CONSTR_PRIMARY}) or element.colname in primary
    filled = bool(kinds & {ConstrType.CONSTR_DEFAULT, ConstrType.CONSTR_IDENTITY}) or "serial" in base
    return StoredColumn(
        element.colname,
        spell_type(element.typeName),
        nullable=not required,
        default="(declared by a migration)" if filled else None,
        generated=ConstrType.CONSTR_GENERATED in kinds,
    )


def _selected(query: Tree) -> tuple[StoredColumn, ...]:
    """The columns that a SELECT gives, as far as it names them; behind a `*` the kernel's own may hide."""
    while query.larg is not None:
        query = query.larg
    names: list[str] = []
    for target in query.targetList or ():
        last: Tree = target.val.fields[-1] if is_a(target.val, ast.ColumnRef) else None
        if target.name:
            names.append(target.name)
        elif is_a(last, ast.String):
            names.append(last.sval)
        elif is_a(last, ast.A_Star):
            names.extend(("id", "organization_id"))
    return tuple(StoredColumn(name, UNKNOWN_TYPE) for name in dict.fromkeys(names))


def _altered(table: str, command: Tree) -> list[Effect]:
    if command.subtype == AlterTableType.AT_AddColumn:
        return [Effect("add_column", table, columns=(_column(command.def_),))]
    if command.subtype == AlterTableType.AT_DropColumn:
        return [Effect("drop_column", table, command.name)]
    if command.subtype == AlterTableType.AT_AlterColumnType:
        return [Effect("set_type", table, command.name, (StoredColumn("", spell_type(command.def_.typeName)),))]
    if command.subtype in (AlterTableType.AT_SetNotNull, AlterTableType.AT_DropNotNull):
        nullable = command.subtype == AlterTableType.AT_DropNotNull
        return [Effect("nullable", table, command.name, nullable=nullable)]
    return []


def _changed_columns(table: StoredTable, effect: Effect) -> dict[str, StoredColumn]:
    columns = dict(table.columns)
    if effect.kind == "add_column":
        added = effect.columns[0]
        columns.setdefault(added.name, added)
    elif effect.name not in columns:
        return columns
    elif effect.kind == "drop_column":
        del columns[effect.name]
    elif effect.kind == "rename_column":
        new_name = effect.columns[0].name
        columns[new_name] = replace(columns.pop(effect.name), name=new_name)
    elif effect.kind == "set_type":
        columns[effect.name] = replace(columns[effect.name], type=effect.columns[0].type)
    elif effect.kind == "nullable":
        columns[effect.name] = replace(columns[effect.name], nullable=effect.nullable)
    return columns
