"""Whether a judged statement may run for this addon and organization, and as which role."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Protocol

from metacore.capabilities.access import Access, CapabilityKind, Gate, Mode
from metacore.db.grants import GUEST_COLUMNS
from metacore.guest_sql.arguments import Value
from metacore.guest_sql.callers import Context
from metacore.guest_sql.catalog import Catalog
from metacore.guest_sql.judgement import Judgement, OwnNames, Refused, Relation, StatementKind
from metacore.guest_sql.rules import TENANT_COLUMN
from metacore.installer import names
from metacore.wasm.abi import HostCode

READ, WRITE = CapabilityKind.DB_READ, CapabilityKind.DB_WRITE


class SqlGate(Gate, Protocol):
    """The enforcer, as far as it also writes down what no grant allows."""

    def covers(self, access: Access) -> bool: ...

    def record_refused(self, access: Access, reason: str) -> None: ...


class Permits:
    def __init__(self, catalog: Catalog, gate: SqlGate) -> None:
        self._catalog = catalog
        self._gate = gate

    async def role_for(self, context: Context, own: OwnNames, judgement: Judgement, values: Sequence[Value]) -> str:
        """The role that the statement runs as.

        Raises:
            Refused: with `forbidden`, when something it touches was not granted or is nobody's to grant; with
                `missing_org_filter`, when a change is about another organization's rows.
        """
        if judgement.kind is not StatementKind.SELECT:
            _refuse_other_organizations(judgement, values, context.organization_id)
        self._refuse_secrets(own, judgement, context)
        for kind, relations in ((WRITE, judgement.writes), (READ, judgement.reads)):
            for relation in sorted(relations, key=lambda found: found.target):
                self._ask(kind, relation, context)
        database = await self._catalog.database_name()
        if self._gate.mode_of(context.addon_key) is Mode.ENFORCE:
            return names.guest_role(database, context.addon_key)
        return names.shadow_role(database, context.addon_key)

    def _ask(self, kind: CapabilityKind, relation: Relation, context: Context) -> None:
        access = Access(context.addon_key, kind, relation.target, context.organization_id, context.caller)
        if relation.of_kernel:
            if kind is WRITE or relation.table not in GUEST_COLUMNS:
                self._never(access, f"{relation.target!r} is the kernel's own")
            if not self._gate.covers(access):
                self._never(access, f"{relation.target!r} is the kernel's own, and {kind} for it was not granted")
            return
        if not self._catalog.physical_schema(relation.schema, context.organization_id):
            raise Refused(HostCode.FORBIDDEN, f"{relation.target}: {relation.schema!r} is no addon's schema")
        if not self._gate.decide(access).allowed:
            raise Refused(HostCode.FORBIDDEN, f"{kind} for {relation.target!r} was not granted")

    def _refuse_secrets(self, own: OwnNames, judgement: Judgement, context: Context) -> None:
        mine = (Relation(own.schema, name) for name in judgement.own)
        for relation in sorted({*mine, *judgement.reads, *judgement.writes}, key=lambda found: found.target):
            secrets = self._catalog.secrets(relation)
            if not secrets:
                continue
            ours = relation.schema == own.schema
            column = _secret_mentioned(judgement, relation, secrets, ours=ours)
            if column:
                access = Access(
                    context.addon_key, READ, f"{relation.target}.{column}", context.organization_id, context.caller
                )
                self._never(access, f"column {relation.target}.{column} is secret")
            if _stars(judgement, relation, ours=ours):
                message = f"* would read secret columns of {relation.target}: name the columns"
                raise Refused(HostCode.FORBIDDEN, message)

    def _never(self, access: Access, reason: str) -> None:
        self._gate.record_refused(access, reason)
        raise Refused(HostCode.FORBIDDEN, reason)


def _secret_mentioned(judgement: Judgement, relation: Relation, secrets: Iterable[str], *, ours: bool) -> str:
    """A secret column of `relation` that the statement names, ''. An addon may write its own."""
    for mention in judgement.mentions:
        if (
            mention.name in secrets
            and not (ours and mention.written)
            and _means(judgement, mention.qualifier, relation, ours)
        ):
            return mention.name
    return ""


def _stars(judgement: Judgement, relation: Relation, *, ours: bool) -> bool:
    return any(
        mention.name == "*" and _means(judgement, mention.qualifier, relation, ours) for mention in judgement.mentions
    )


def _means(judgement: Judgement, qualifier: str, relation: Relation, ours: bool) -> bool:
    """Whether a column behind `qualifier` could be one of `relation`: unless another relation is called so."""
    if not qualifier:
        return True
    called = {target for target, alias in judgement.aliases if alias == qualifier}
    name = relation.table if ours else relation.target
    return name in called or not called


def _refuse_other_organizations(judgement: Judgement, values: Sequence[Value], organization_id: uuid.UUID) -> None:
    compared: list[Value] = [*judgement.organizations]
    compared += [values[number - 1] for number in judgement.organization_arguments]
    for value in compared:
        try:
            same = (value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))) == organization_id
        except ValueError:
            same = False
        if not same:
            raise Refused(HostCode.MISSING_ORG_FILTER, f"{TENANT_COLUMN} is compared with another organization's")
