"""The stage machine of a model at a save: is the move allowed, and what does it bring with it. Pure."""

from __future__ import annotations

import datetime
from typing import Any

from metacore.dynamic.shape import Kind, ModelShape
from metacore.errors import Problem
from metacore.manifest.model import ModelDefinition

NOW = "now()"


def entry_problem(definition: ModelDefinition, stage: Any) -> Problem | None:
    """What is wrong with starting in `stage`, or with moving to a stage that does not exist."""
    if definition.stages and stage is not None and stage not in definition.stages:
        allowed = ", ".join(definition.stages)
        return Problem(definition.stage_field, "unknown_stage", f"{stage!r} is not a stage; there are {allowed}")
    return None


def move_problem(definition: ModelDefinition, before: Any, after: Any) -> Problem | None:
    """What is wrong with moving a row from one stage to another. A row without a stage may enter any."""
    if before == after:
        return None
    if (problem := entry_problem(definition, after)) is not None:
        return problem
    if not definition.transitions or before is None:
        return None
    targets = [move.target for move in definition.transitions if move.source == before]
    if after in targets:
        return None
    allowed = f"from there to {', '.join(targets)}" if targets else "there is no move from there"
    to = "no stage" if after is None else repr(after)
    return Problem(definition.stage_field, "transition", f"{before!r} to {to} is not allowed: {allowed}")


def set_by_move(shape: ModelShape, before: Any, after: Any, now: datetime.datetime) -> dict[str, Any]:
    """The values that `on_transition` sets on this move; later entries win. `now()` is the moment of the move."""
    definition = shape.model.definition
    values: dict[str, Any] = {}
    if before == after:
        return values
    for step in definition.on_transition:
        if step.source in ("", before) and step.target in ("", after):
            for name, value in step.set.items():
                if name in shape.assignable:
                    values[name] = _moment(shape, name, now) if value == NOW else value
    return values


def _moment(shape: ModelShape, name: str, now: datetime.datetime) -> Any:
    match shape.columns[name].kind:
        case Kind.INSTANT | Kind.CLOCK:
            return now
        case Kind.DATE:
            return now.date()
        case _:
            return NOW
