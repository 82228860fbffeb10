"""Which migrations of a bundle have not run yet."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from metacore.bundle.read import Bundle
from metacore.installer.plan import targets_of
from metacore.installer.sql_migrations import JudgedMigration, judge
from metacore.installer.state import State


def pending_migrations(
    bundle: Bundle, state: State, organizations: Sequence[uuid.UUID]
) -> dict[str, tuple[JudgedMigration, ...]]:
    """By schema, the migrations that did not run there yet, judged from what the schema really holds.

    Those that ran are not looked at again: what they made is there to be seen, and what they are said to have made
    (by a bundle that leaves one out) may be gone.
    """
    found: dict[str, tuple[JudgedMigration, ...]] = {}
    everybody = tuple(dict.fromkeys((*state.installed, *organizations)))
    for target in targets_of(bundle.manifest, everybody, state.dialect):
        facts = state.schema(target.schema)
        files = [file for file in bundle.migrations if file.version not in facts.applied]
        if files:
            found[target.schema] = judge(files, facts.names)
    return found
