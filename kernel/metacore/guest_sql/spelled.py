"""The text of a statement as PostgreSQL gets it: other schemas in the place of those that it names, and arguments with
the types that the contract gives them where their places say nothing. Pure."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from metacore.db.rls import quoted
from metacore.guest_sql.arguments import Value
from metacore.guest_sql.judgement import Judgement

TYPES: Final[Mapping[type, str]] = {
    bool: "bool",
    int: "int8",
    float: "float8",
    str: "text",
    bytes: "bytea",
    uuid.UUID: "uuid",
    datetime.datetime: "timestamptz",
}
"""Types of arguments (contract 12). A null, which has none, is a text."""
NO_TYPES: Final[Mapping[int, str]] = {}


def types_of(values: Sequence[Value]) -> tuple[str, ...]:
    return tuple(TYPES.get(type(value), "text") for value in values)


def spelled(judgement: Judgement, physical: Callable[[str], str], types: Mapping[int, str] = NO_TYPES) -> str:
    """`judgement.sql` with each schema as `physical` says ('': as it is), and arguments, by number, as `types` say."""
    changes = [(place.start, place.end, physical(place.schema)) for place in judgement.schemas]
    changes = [(start, end, quoted(schema)) for start, end, schema in changes if schema]
    # In brackets: what follows an argument, as in `$1[1]`, must not become part of the type's name.
    changes += [
        (place.start, place.end, f"(${place.number}::pg_catalog.{types[place.number]})")
        for place in judgement.places
        if place.number in types
    ]
    text = judgement.sql
    for start, end, word in sorted(changes, reverse=True):
        text = text[:start] + word + text[end:]
    return text
