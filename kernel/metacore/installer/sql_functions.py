"""Judges the functions and triggers of an addon.

Only SQL functions can be judged, since their bodies are SQL. A body that is a string is resolved when it is called, by
the caller's search path, so it may hold expressions only; one written as BEGIN ATOMIC … END is bound to the addon's own
tables when it is made. PL/pgSQL could run any text, so it is refused.
"""

from __future__ import annotations

from pglast import ast, parser
from pglast.enums import FunctionParameterMode

from metacore.installer import sql_rules as rules
from metacore.installer.sql_depth import refuse_depth
from metacore.installer.sql_names import NotAllowed, Tree, is_a, one_part
from metacore.installer.sql_walk import QUERIES, Expressions


class Functions(Expressions):
    """Adds what CREATE FUNCTION and CREATE TRIGGER need."""

    def function(self, node: Tree) -> None:
        name = self.new_name(one_part(node.funcname, "function"))
        if node.is_procedure:
            raise NotAllowed("procedures may end transactions; write a function")
        if name in self.known.taken_functions or name in rules.FUNCTIONS | rules.SEQUENCE_FUNCTIONS:
            raise NotAllowed(
                f"a function {name!r} exists outside the addon; calls would be ambiguous, choose another name"
            )
        options = {option.defname: option for option in node.options or ()}
        if "security" in options:
            raise NotAllowed("SECURITY clauses are not allowed; a function runs with the rights of its caller")
        for option in options:
            if option not in rules.FUNCTION_OPTIONS:
                raise NotAllowed(f"{option.upper()} is not allowed on a function")
        language = options["language"].arg.sval.lower() if "language" in options else "sql"
        if language != "sql":
            raise NotAllowed(f"functions in language {language!r} cannot be judged; write LANGUAGE sql")
        for parameter in node.parameters or ():
            if parameter.mode != FunctionParameterMode.FUNC_PARAM_TABLE:
                self.walk(parameter.defexpr)
            self.walk(parameter.argType)
        self.walk(node.returnType)
        self._parameters = frozenset(str(parameter.name) for parameter in node.parameters or () if parameter.name)
        try:
            self._function_body(node, options)
        finally:
            self._parameters = frozenset()
        self.known.functions.add(name)

    def _function_body(self, node: Tree, options: dict[str, Tree]) -> None:
        if node.sql_body is not None:
            body = node.sql_body
            statements = body[0] if isinstance(body, tuple) and body and isinstance(body[0], tuple) else (body,)
            for statement in statements:
                self._body_statement(statement)
            return
        texts: Tree = options["as"].arg if "as" in options else ()
        if len(texts) != 1:
            raise NotAllowed("a function needs one SQL body")
        try:
            refuse_depth(texts[0].sval)
            parsed = parser.parse_sql(texts[0].sval)
        except NotAllowed as refusal:
            # Its place is one in the text of the body.
            raise NotAllowed(refusal.reason) from None
        except parser.ParseError as error:
            raise NotAllowed(f"the function's body does not parse: {error.args[0]}") from None
        self._only_expressions = True
        try:
            for statement in parsed:
                self._body_statement(statement.stmt)
        finally:
            self._only_expressions = False

    def _body_statement(self, statement: Tree) -> None:
        if is_a(statement, ast.ReturnStmt):
            self.walk(statement.returnval)
        elif type(statement) in QUERIES:
            self.query(statement)
        else:
            raise NotAllowed(f"{type(statement).__name__} is not allowed inside a function")

    def trigger(self, node: Tree) -> None:
        name = one_part(node.funcname, "function")
        if name not in rules.TRIGGER_FUNCTIONS:
            raise NotAllowed(
                f"trigger function {name!r} is not allowed: trigger functions cannot be written in SQL; "
                f"only {', '.join(sorted(rules.TRIGGER_FUNCTIONS))}. The kernel keeps updated_at itself"
            )
        self.own_relation(node.relation, tables_only=True)
        if node.constrrel is not None:
            self.own_relation(node.constrrel, tables_only=True)
        self.walk(node.whenClause)
