"""Rollups: columns of a parent that say what its children come to, kept true in the transaction of a child's change.

A parent is held before the child is changed, so that two children of one parent take turns and neither misses the
other; several parents are held in one order. What follows from a rollup in the parent (formulas, constraints, rollups
of its own parents, its event) is part of the same transaction, and what a constraint refuses takes the change back.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeAlias

import orjson

from metacore.dynamic.hook_points import HookContext
from metacore.dynamic.query import rows_equal
from metacore.dynamic.rows import Rows, exact
from metacore.dynamic.shape import ModelShape, shape_of
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
DEEPEST: Final = 8
"""Parents of parents that a change of a child may reach."""

Compute: TypeAlias = Callable[[ModelShape, HookContext, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Values of columns that code computes, for a row that is about to be saved with these."""


@dataclass(frozen=True, slots=True, eq=False)
class RollupRule:
    """A relation of `parent` whose rollups read rows of a child; `inputs` are the child's columns that they read."""

    parent: ModelShape
    relation: Relation
    inputs: frozenset[str]


@dataclass(frozen=True, slots=True)
class Recomputed:
    """A parent that a change reached, with its row afterwards."""

    shape: ModelShape
    context: HookContext
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Parent:
    """One row to compute anew, and what for."""

    row_id: uuid.UUID
    rules: tuple[RollupRule, ...]

    @property
    def shape(self) -> ModelShape:
        return self.rules[0].parent


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
    rows: Rows, principal: Principal, rules: Iterable[RollupRule], *versions: Mapping[str, Any] | None
) -> list[Parent]:
    """The parents of a child as it is and as it will be, in the order in which everybody holds them, now held."""
    found: dict[tuple[str, str], tuple[uuid.UUID, list[RollupRule]]] = {}
    for rule in rules:
        keys = {str(row[rule.relation.foreign_key]) for row in versions if row and row.get(rule.relation.foreign_key)}
        for key in keys:
            row_id = await _row_id(rows, principal, rule, key)
            if row_id is not None:
                place = found.setdefault((rule.parent.model.key, row_id.hex), (row_id, []))
                place[1].append(rule)
    parents = [Parent(row_id, tuple(dict.fromkeys(which))) for _, (row_id, which) in sorted(found.items(), key=_place)]
    for parent in parents:
        await rows.current(parent.shape, principal, parent.row_id)
    return parents


async def recomputed(
    rows: Rows,
    registry: Registry,
    principal: Principal,
    child: ModelShape,
    parents: Iterable[Parent],
    compute: Compute,
    *,
    depth: int = 1,
) -> list[Recomputed]:
    """Compute the parents anew once a row of `child` was changed; gives those that changed, the nearest first.

    Raises:
        Refused: a constraint of a parent does not hold with what its children come to.
        Conflict: others change a parent all the time.
    """
    if depth > DEEPEST:
        raise Refused(f"rollups reach more than {DEEPEST} rows up", code="too_deep")
    told: list[Recomputed] = []
    for parent in parents:
        done = await _recompute(rows, principal, child, parent, compute)
        if done is None:
            continue
        told.append(done)
        shape, before = done.shape, done.context.before
        changed = [name for name, value in done.row.items() if before is None or before.get(name) != value]
        rules = affected(rollups_of(registry, shape), changed)
        above = await held_parents(rows, principal, rules, done.row)
        told += await recomputed(rows, registry, principal, shape, above, compute, depth=depth + 1)
    return told


async def _recompute(
    rows: Rows, principal: Principal, child: ModelShape, parent: Parent, compute: Compute
) -> Recomputed | None:
    shape = parent.shape
    for _ in range(ATTEMPTS):
        current = await rows.current(shape, principal, parent.row_id)
        if current is None:
            return None
        given: dict[str, Any] = {}
        for rule in parent.rules:
            key = current.row[rule.relation.references]
            totals = await rows.aggregate(child, principal, rule.relation, key)
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
            return Recomputed(shape, context, exact(body))
    raise Conflict("the row above is being changed by others all the time; try again", code="contention")


def _refusal(shape: ModelShape, error: InvalidInput | Refused) -> Refused:
    """What the row above cannot take, told to whoever changes a child, whose columns the named ones are not."""
    kind = ConstraintBroken if isinstance(error, ConstraintBroken) else Refused
    return kind(f"{shape.model.key} above: {error.message}", code="rollup", problems=error.problems)


def _found(models: Mapping[str, LiveModel], child: ModelShape) -> Iterable[RollupRule]:
    own = {model.key: model for model in models.values() if model.addon_key == child.model.addon_key}
    for model in own.values():
        for relation in model.definition.relations:
            if not relation.rollups or not _leads_to(relation.through, child.model):
                continue
            shape = shape_of(model)
            inputs = _inputs(relation, child)
            targets = {rollup.target for rollup in relation.rollups}
            if inputs and targets <= shape.assignable and relation.references in shape.readable_names:
                yield RollupRule(shape, relation, inputs)
            else:
                # Tables that migrations make are not known when a manifest is read; the child is served all the same.
                log.warning("rollups.impossible", model=model.key, relation=relation.name, child=child.model.key)


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


async def _row_id(rows: Rows, principal: Principal, rule: RollupRule, key: str) -> uuid.UUID | None:
    if rule.relation.references == "id":
        return uuid.UUID(key)
    query = rows_equal(rule.parent, {rule.relation.references: key}, 1)
    found = orjson.loads(await rows.page(rule.parent, principal, query))["data"]
    return uuid.UUID(found[0]["id"]) if found else None


def _fitted(shape: ModelShape, name: str, value: Any) -> Any:
    return fitting(shape.columns[name], Decimal(str(value))) if isinstance(value, int | float | Decimal) else value


def _news(shape: ModelShape, row: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether the column may have the value, and does not have it yet."""
    return row.get(name) != value and (value is not None or shape.columns[name].stored.nullable)


def _place(item: tuple[tuple[str, str], Any]) -> tuple[str, str]:
    return item[0]
