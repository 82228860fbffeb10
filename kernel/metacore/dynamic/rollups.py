"""Rollups: columns of a parent that say what its children come to, kept true in the transaction of a child's change.

Rows are held from below upwards: the changed one, its parents before it is changed, theirs once these are computed.
So two children of one parent take turns and neither misses the other, and who changes a row in the middle of a chain
meets them in the same order. Parents of several models are held by the level of the model, within a level by id.
What follows from a rollup in the parent (formulas, constraints, rollups of its own parents, its event) is part of the
same transaction, and what a constraint refuses takes the change back.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, TypeAlias

import orjson

from metacore.dynamic.hook_points import HookContext
from metacore.dynamic.query import rows_equal
from metacore.dynamic.rows import Rows, exact
from metacore.dynamic.rules import reached, rules_of
from metacore.dynamic.shape import TEXT_KINDS, UNORDERED_KINDS, ColumnShape, ModelShape, shape_of
from metacore.dynamic.validation import ConstraintBroken, check_update, fitting
from metacore.errors import Conflict, InvalidInput, Refused
from metacore.identity import Principal
from metacore.logs import get_logger
from metacore.manifest.expressions import parse_expression
from metacore.manifest.model import Relation
from metacore.registry import LiveModel, Registry

log = get_logger(__name__)

ATTEMPTS: Final = 5
"""How often a parent that others change in between is computed anew, where rows cannot be held."""
DEEPEST: Final = 64
"""How many rows up a change of a child may reach."""

RowKey: TypeAlias = tuple[str, str]
"""A row of any model: the model's key, the row's id in hexadecimal digits."""

Compute: TypeAlias = Callable[[ModelShape, HookContext, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Values of columns that code computes, for a row that is about to be saved with these."""


@dataclass(frozen=True, slots=True, eq=False)
class RollupRule:
    """A relation of `parent` whose rollups read rows of `child`; `inputs` are the child's columns that they read.

    `level` counts the models below the parent, one below the other, so that a parent stands higher than its children.
    `circular` tells that rows of the parent's model may be above each other.
    """

    child: ModelShape
    parent: ModelShape
    relation: Relation
    inputs: frozenset[str]
    level: int
    circular: bool


@dataclass(frozen=True, slots=True)
class Recomputed:
    """A parent that a change reached, with its row afterwards; `body` is what a reader gets of it."""

    shape: ModelShape
    context: HookContext
    row: dict[str, Any]
    body: bytes


@dataclass(frozen=True, slots=True)
class Parent:
    """One row to compute anew, and what for. It lies `depth` rows above the change, `below` it those on the way."""

    row_id: uuid.UUID
    rules: tuple[RollupRule, ...]
    depth: int = 1
    below: frozenset[RowKey] = frozenset()

    @property
    def shape(self) -> ModelShape:
        return self.rules[0].parent

    @property
    def key(self) -> RowKey:
        return self.shape.model.key, self.row_id.hex

    @property
    def level(self) -> int:
        return self.rules[0].level

    @property
    def place(self) -> tuple[int, int, RowKey]:
        """Where it stands in the order in which everybody holds rows. How far a change came matters only where the
        level does not tell which of two rows is above the other."""
        return self.level, self.depth if self.rules[0].circular else 0, self.key

    def with_more(self, other: Parent) -> Parent:
        """Both in one: the same row, reached from two rows below it."""
        rules = tuple(dict.fromkeys((*self.rules, *other.rules)))
        return Parent(self.row_id, rules, max(self.depth, other.depth), self.below | other.below)


def rollups_of(registry: Registry, child: ModelShape) -> tuple[RollupRule, ...]:
    """The rollups that rows of `child` count in, worked out once per snapshot of the registry."""
    models = registry.snapshot.models
    known: tuple[Mapping[str, LiveModel], tuple[RollupRule, ...]] | None = child.recall("rollups")
    if known is None or known[0] is not models:
        known = child.remember("rollups", (models, tuple(_found(models, child))))
    return known[1]


def affected(rules: Iterable[RollupRule], changed: Collection[str]) -> tuple[RollupRule, ...]:
    """Those that read one of the changed columns of the child."""
    return tuple(rule for rule in rules if not rule.inputs.isdisjoint(changed))


async def held_parents(
    rows: Rows, registry: Registry, principal: Principal, rules: Iterable[RollupRule], *versions: Mapping[str, Any]
) -> list[Parent]:
    """The parents of a child as it is and as it will be, in the order in which everybody holds them, now held.

    When some stand above others, all that a rollup may reach is held: else a row between them would come too late.
    """
    parents = await _parents(rows, principal, rules, *versions)
    tiered = len({parent.level for parent in parents}) > 1
    waiting = {parent.key: parent for parent in parents}
    seen = set(waiting)
    while waiting:
        parent = min(waiting.values(), key=lambda each: each.place)
        del waiting[parent.key]
        current = await rows.current(parent.shape, principal, parent.row_id)
        if not tiered or current is None:
            continue
        targets = [rollup.target for rule in parent.rules for rollup in rule.relation.rollups]
        above = affected(rollups_of(registry, parent.shape), reached(rules_of(parent.shape), targets))
        for each in await _parents(rows, principal, above, current.row):
            if each.key not in seen:
                seen.add(each.key)
                waiting[each.key] = replace(each, depth=parent.depth + 1)
    return parents


async def recomputed(
    rows: Rows, registry: Registry, principal: Principal, parents: Iterable[Parent], compute: Compute
) -> list[Recomputed]:
    """Compute the parents anew once a row below them was changed; gives those that changed, the nearest first.

    Raises:
        Refused: a constraint of a parent does not hold with what its children come to, a row is above itself and
            never settles, or there are too many rows above each other.
        Conflict: others change a parent all the time.
    """
    told: list[Recomputed] = []
    waiting = {parent.key: parent for parent in parents}
    changed: set[RowKey] = set()
    while waiting:
        parent = min(waiting.values(), key=lambda each: each.place)
        del waiting[parent.key]
        if parent.depth > DEEPEST:
            raise Refused(f"rollups reach more than {DEEPEST} rows up", code="too_deep")
        done = await _recompute(rows, principal, parent, compute)
        if done is None:
            continue
        if parent.key in parent.below and parent.key in changed:
            # What it comes to counts in itself. Where that makes no more difference, it is let be.
            raise Refused(
                f"a row of {parent.shape.model.key} is above itself, and its rollups never settle", code="cycle"
            )
        changed.add(parent.key)
        told.append(done)
        before = done.context.before
        columns = [name for name, value in done.row.items() if before is None or before.get(name) != value]
        rules = affected(rollups_of(registry, done.shape), columns)
        for above in await _parents(rows, principal, rules, done.row):
            found = replace(above, depth=parent.depth + 1, below=parent.below | {parent.key})
            known = waiting.get(found.key)
            waiting[found.key] = found if known is None else known.with_more(found)
    return told


async def _parents(
    rows: Rows, principal: Principal, rules: Iterable[RollupRule], *versions: Mapping[str, Any]
) -> list[Parent]:
    found: dict[RowKey, Parent] = {}
    for rule in rules:
        keys = {row[rule.relation.foreign_key] for row in versions if row.get(rule.relation.foreign_key) is not None}
        for key in keys:
            row_id = await _row_id(rows, principal, rule, key)
            if row_id is not None:
                parent = Parent(row_id, (rule,))
                known = found.get(parent.key)
                found[parent.key] = parent if known is None else known.with_more(parent)
    return sorted(found.values(), key=lambda parent: parent.place)


async def _recompute(rows: Rows, principal: Principal, parent: Parent, compute: Compute) -> Recomputed | None:
    shape = parent.shape
    for _ in range(ATTEMPTS):
        current = await rows.current(shape, principal, parent.row_id)
        if current is None:
            return None
        given: dict[str, Any] = {}
        for rule in parent.rules:
            key = current.row[rule.relation.references]
            totals = await rows.aggregate(rule.child, principal, rule.relation, key)
            given |= {name: _fitted(shape, name, value) for name, value in totals.items()}
        given = {name: value for name, value in given.items() if _news(shape, current.row, name, value)}
        if not given:
            return None
        context = HookContext(principal, shape.model, parent.row_id, current.row)
        try:
            columns = check_update(shape, given, current.row, datetime.datetime.now(datetime.UTC))
            columns |= await compute(shape, context, columns)
            body = await rows.update(shape, principal, parent.row_id, columns, current.version)
        except (InvalidInput, Refused) as error:
            raise _refusal(shape, error) from error
        if body is not None:
            return Recomputed(shape, context, exact(body), body)
    raise Conflict("the row above is being changed by others all the time; try again", code="contention")


def _refusal(shape: ModelShape, error: InvalidInput | Refused) -> Refused:
    """What the row above cannot take, told to whoever changes a child, whose columns the named ones are not."""
    kind = ConstraintBroken if isinstance(error, ConstraintBroken) else Refused
    return kind(f"{shape.model.key} above: {error.message}", code="rollup", problems=error.problems)


def _found(models: Mapping[str, LiveModel], child: ModelShape) -> Iterable[RollupRule]:
    own = {model.key: model for model in models.values() if model.addon_key == child.model.addon_key}
    reading = [
        (model, relation)
        for model in own.values()
        for relation in model.definition.relations
        if relation.rollups and _leads_to(relation.through, child.model)
    ]
    levels, circular = _levels(own) if reading else ({}, frozenset[str]())
    for model, relation in reading:
        shape = shape_of(model)
        inputs = _inputs(relation, child)
        targets = {rollup.target for rollup in relation.rollups}
        named = relation.references in shape.readable_names
        if (
            inputs
            and targets <= shape.assignable
            and named
            and _comparable(child.columns[relation.foreign_key], shape.columns[relation.references])
        ):
            yield RollupRule(child, shape, relation, inputs, levels[model.key], model.key in circular)
        else:
            # Tables that migrations make are not known when a manifest is read; the child is served all the same.
            log.warning("rollups.impossible", model=model.key, relation=relation.name, child=child.model.key)


def _levels(models: Mapping[str, LiveModel]) -> tuple[Mapping[str, int], frozenset[str]]:
    """How many models lie below each, one below the other; and which of them lie below themselves. Those have no such
    order; they get some level, always the same."""
    pairs = sorted(
        (child.key, parent.key)
        for parent in models.values()
        for relation in parent.definition.relations
        if relation.rollups
        for child in models.values()
        if _leads_to(relation.through, child)
    )
    levels = dict.fromkeys(models, 0)
    below: dict[str, set[str]] = {key: set() for key in models}
    for _ in models:
        before = dict(levels)
        for child, parent in pairs:
            below[parent] |= {child} | below[child]
            if child != parent:
                levels[parent] = max(levels[parent], levels[child] + 1)
        if levels == before:
            break
    return levels, frozenset(key for key in models if key in below[key])


def _comparable(foreign_key: ColumnShape, references: ColumnShape) -> bool:
    """Whether the one can hold values of the other: texts are not, of what is no text."""
    if foreign_key.kind in TEXT_KINDS:
        return references.kind in TEXT_KINDS
    return foreign_key.kind is references.kind and foreign_key.kind not in UNORDERED_KINDS


def _inputs(relation: Relation, child: ModelShape) -> frozenset[str]:
    """The columns of the child that the rollups read; none when the table lacks one of them."""
    inputs = {relation.foreign_key, *relation.scope}
    for rollup in relation.rollups:
        inputs |= {rollup.source} if rollup.source else set()
        if rollup.expr:
            try:
                inputs |= parse_expression(rollup.expr, child.columns.keys(), comparison=False).columns
            except InvalidInput:
                return frozenset()
    return frozenset(inputs) if inputs <= child.columns.keys() else frozenset()


def _leads_to(through: str, child: LiveModel) -> bool:
    place, _, name = through.rpartition(".")
    return name in child.names and place in ("", child.addon_key, f"addon_{child.addon_key}")


async def _row_id(rows: Rows, principal: Principal, rule: RollupRule, key: Any) -> uuid.UUID | None:
    if rule.relation.references == "id":
        return key if isinstance(key, uuid.UUID) else uuid.UUID(key)
    try:
        query = rows_equal(rule.parent, {rule.relation.references: key}, 1)
    except InvalidInput:
        # A number beyond those that the parent's column can have.
        return None
    found = orjson.loads(await rows.page(rule.parent, principal, query))["data"]
    return uuid.UUID(found[0]["id"]) if found else None


def _fitted(shape: ModelShape, name: str, value: Any) -> Any:
    return fitting(shape.columns[name], Decimal(str(value))) if isinstance(value, int | float | Decimal) else value


def _news(shape: ModelShape, row: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether the column may have the value, and does not have it yet."""
    return row.get(name) != value and (value is not None or shape.columns[name].stored.nullable)
