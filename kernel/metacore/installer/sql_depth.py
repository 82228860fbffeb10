"""Refuses SQL that is nested so deeply that reading it would end the process: parsers recurse on the stack of C."""

from __future__ import annotations

from pglast import parser

from metacore.installer.sql_names import NotAllowed

SHORT = 16_384
"""Characters; whatever is no longer than that fits the stack of a thread, 8 MiB."""

MOST_TOGETHER = 8_000
"""Tokens between commas, semicolons and brackets of one level: `1 + 1 + …` nests as deeply as it is long."""

MOST_OPEN = 2_000
"""Brackets that are open at once."""

MOST_COMBINED = 1_000
"""Queries that one statement combines on one level; a comma ends an expression, but none of these."""

COMBINING = frozenset({"UNION", "INTERSECT", "EXCEPT"})
COMMENTS = frozenset({"SQL_COMMENT", "C_COMMENT"})

OPENING, CLOSING = frozenset({"ASCII_40", "ASCII_91"}), frozenset({"ASCII_41", "ASCII_93"})
COMMA, SEMICOLON = "ASCII_44", "ASCII_59"


def refuse_depth(sql: str) -> None:
    """
    Raises:
        NotAllowed: it is too deep; `location` says where.
        parser.ParseError: it cannot be cut into tokens.
    """
    if len(sql) <= SHORT:
        return
    together, combined = [0], [0]
    for token in parser.scan(sql):
        if token.name in COMMENTS:
            continue
        if token.name in OPENING:
            together.append(0)
            combined.append(0)
        elif token.name in CLOSING and len(together) > 1:
            together.pop()
            combined.pop()
            together[-1] += 1
        elif token.name == SEMICOLON:
            together, combined = [0], [0]
        elif token.name == COMMA:
            together[-1] = 0
        else:
            together[-1] += 1
            combined[-1] += token.name in COMBINING
        if together[-1] > MOST_TOGETHER or len(together) > MOST_OPEN or combined[-1] > MOST_COMBINED:
            raise NotAllowed("an expression is too long or too deeply nested to be judged", token.start)
