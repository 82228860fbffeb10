"""The stage machine of a model: stages, the moves between them that are allowed, and what follows a move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from metacore.manifest import names
from metacore.manifest.handlers import read_handler
from metacore.manifest.model import Backend, Column, ColumnType, OnTransition, Stage, Transition
from metacore.manifest.scope import Outline
from metacore.manifest.values import value_problem
from metacore.manifest.walk import Node, kind_of, shown

ANY = "*"


class StageMachine(TypedDict):
    stage_field: str
    stages: tuple[str, ...]
    stage_details: tuple[Stage, ...]
    transitions: tuple[Transition, ...]
    on_transition: tuple[OnTransition, ...]


def read_stages(model: Outline, backend: Backend | None) -> StageMachine:
    node = model.node
    field = node.text("stage_field")
    stages = _stages(node)
    keys = tuple(stage.key for stage in stages)
    _check_field(model, field, keys)
    transitions = tuple(
        Transition(source=_stage(inner, "from", keys), target=_stage(inner, "to", keys))
        for inner in node.nodes("transitions")
    )
    if transitions and not keys:
        node.refuse("stages", "is required where there are transitions", "required")
    columns = model.columns
    hooks = tuple(_hook(inner, model, columns, keys, backend) for inner in node.nodes("on_transition"))
    if hooks and not keys:
        node.refuse("stages", "is required where there is on_transition", "required")
    return StageMachine(
        stage_field=field, stages=keys, stage_details=stages, transitions=transitions, on_transition=hooks
    )


def _stages(node: Node) -> tuple[Stage, ...]:
    found: list[Stage] = []
    seen: set[str] = set()
    for path, item in node.members("stages"):
        if isinstance(item, str):
            stage = Stage(key=item)
        elif isinstance(item, Mapping):
            inner = Node(item, path, node.report)
            stage = Stage(
                key=inner.text("key", required=True),
                label=inner.text("label"),
                color=inner.text("color"),
                order=inner.whole("order", len(found), low=-1_000_000, high=1_000_000),
                final=inner.flag("is_final") or inner.flag("final"),
            )
            inner.warn_unknown()
        else:
            node.report.refuse(path, "type", f"must be a stage, not {kind_of(item)}")
            continue
        if stage.key in seen:
            node.report.refuse(path, "duplicate", f"stage {shown(stage.key)} is declared twice")
        elif stage.key in ("", ANY):
            node.report.refuse(path, "pattern", f"{shown(stage.key)} cannot be the key of a stage")
        else:
            seen.add(stage.key)
            found.append(stage)
    return tuple(sorted(found, key=lambda stage: stage.order))


def _check_field(model: Outline, field: str, keys: tuple[str, ...]) -> None:
    node = model.node
    if keys and not field:
        node.refuse("stage_field", "is required where there are stages", "required")
    if not field or not model.need_column(node, "stage_field", field):
        return
    if field in names.KERNEL_COLUMNS:
        node.refuse("stage_field", f"{shown(field)} is the kernel's own column", "reserved")
    column = model.columns.get(field)
    if column is None:
        return
    if column.type not in (ColumnType.STRING, ColumnType.TEXT):
        node.refuse("stage_field", f"{shown(field)} must be a string or text column", "type")
    for key in keys:
        if column.size is not None and len(key) > column.size:
            node.refuse("stages", f"{shown(key)} does not fit the {column.size} characters of {field}", "too_long")
    start = column.default.strip("'") if column.default is not None else None
    if keys and start is not None and start not in keys:
        node.refuse("stage_field", f"the default {shown(start)} of {field} is not one of the stages", "unknown_stage")


def _stage(node: Node, key: str, keys: tuple[str, ...], *, wild: bool = False) -> str:
    written = node.text(key, required=not wild)
    if wild and written in ("", ANY):
        return ""
    if written and written not in keys:
        node.refuse(key, f"{shown(written)} is not one of the stages", "unknown_stage")
    return written


def _hook(
    node: Node, model: Outline, columns: Mapping[str, Column], keys: tuple[str, ...], backend: Backend | None
) -> OnTransition:
    values = _values(node, model, columns)
    do = read_handler(node, "do", backend)
    required = node.flag("required")
    if do is None and not values:
        node.refuse(None, "needs set or do", "required")
    hook = OnTransition(
        source=_stage(node, "from", keys, wild=True),
        target=_stage(node, "to", keys, wild=True),
        set=values,
        do=do,
        required=required,
    )
    node.warn_unknown()
    return hook


def _values(node: Node, model: Outline, columns: Mapping[str, Column]) -> dict[str, Any]:
    values = node.free("set")
    for name, value in values.items():
        if name in names.KERNEL_COLUMNS:
            node.refuse("set", f"{shown(name)} is the kernel's own column", "reserved")
        elif model.need_column(node, "set", name) and name in columns:
            column = columns[name]
            if column.generated:
                node.refuse("set", f"{shown(name)} is generated and cannot be set", "generated")
            # `now()` is the moment of the move; everything else is a value of the column.
            elif value == "now()" and column.type in (ColumnType.TIMESTAMP, ColumnType.DATE):
                continue
            elif value is None and column.required:
                node.refuse("set", f"{shown(name)} is required and cannot be null", "required")
            elif value is not None and (problem := value_problem(value, column)):
                node.refuse("set", f"{name}: {problem}", "type")
    return values
