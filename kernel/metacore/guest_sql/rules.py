"""What a guest's statement may consist of, beyond what `metacore.installer.sql_rules` lists for migrations.

Everything that is not named is refused, so syntax and functions of a later PostgreSQL are refused until somebody looked
at them.
"""

from __future__ import annotations

from pglast import ast

from metacore.installer import sql_rules

FUNCTIONS = sql_rules.FUNCTIONS - {
    "current_setting",  # Settings hold the organization, paths of files, and what other rooms put there.
    "crypt",
    "gen_salt",  # Made to be slow: they would only serve to keep the database busy.
}
"""Functions of PostgreSQL and of well-known extensions that read nothing but their arguments and change nothing."""

TYPES = sql_rules.BUILTIN_TYPES - {
    "serial",
    "serial2",
    "serial4",
    "serial8",
    "smallserial",
    "bigserial",
    "void",
    "record",
    "name",
}

SEQUENCE_FUNCTIONS = frozenset({"nextval", "currval"})
"""On a sequence of the addon itself, written as a plain literal. `setval` could make numbers come twice."""

KINDS: dict[type, str] = {
    ast.SelectStmt: "select",
    ast.InsertStmt: "insert",
    ast.UpdateStmt: "update",
    ast.DeleteStmt: "delete",
    ast.MergeStmt: "merge",
}

TENANT_COLUMN = "organization_id"
