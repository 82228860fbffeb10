"""What is known of one column before anybody asks how to show it: label, options, target, rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metacore.manifest.model import Column, ColumnType, ModelDefinition
from metacore.metadata import widgets
from metacore.metadata.declared import declared_options
from metacore.metadata.labels import humanize
from metacore.metadata.model import OptionDef, ValidationDef

KERNEL_COLUMNS: Mapping[str, ColumnType] = {
    "id": ColumnType.UUID,
    "organization_id": ColumnType.UUID,
    "created_by_id": ColumnType.UUID,
    "created_at": ColumnType.TIMESTAMP,
    "updated_at": ColumnType.TIMESTAMP,
    "deleted_at": ColumnType.TIMESTAMP,
}
"""The columns that the kernel keeps itself: in a table only when the author lists them, in a form never by itself."""


@dataclass(frozen=True, slots=True)
class Facts:
    """`endpoint` is where a client finds values to choose from, '' when there is nothing to choose."""

    name: str
    kind: ColumnType
    label: str
    widget: str = ""
    column: Column | None = None
    options: tuple[OptionDef, ...] = ()
    ref: str = ""
    relation: str = ""
    endpoint: str = ""
    validation: ValidationDef | None = None

    @property
    def secret(self) -> bool:
        return self.column is not None and self.column.secret

    @property
    def dynamic(self) -> bool:
        """Whether the values to choose from are rows of another model."""
        return bool(self.endpoint) and not self.options

    @property
    def field_type(self) -> str:
        """One of the ten field types of contract 4."""
        source = self.column
        if self.options or (source is not None and (source.options_source is not None or source.options_provider)):
            return "select"
        if self.widget in widgets.FIELD_OF_WIDGET:
            return widgets.FIELD_OF_WIDGET[self.widget]
        return "search" if self.ref else widgets.FIELD_OF_TYPE[self.kind]

    @property
    def cell_type(self) -> str:
        if self.widget in widgets.CELL_OF_WIDGET:
            return widgets.CELL_OF_WIDGET[self.widget]
        if self.options:
            return "badge"
        return "search" if self.dynamic else widgets.CELL_OF_TYPE[self.kind]

    @property
    def filter_type(self) -> str:
        if self.options or self.dynamic:
            return "select"
        return widgets.FILTER_OF_TYPE.get(self.kind, "text")

    @property
    def sortable(self) -> bool:
        return self.kind is not ColumnType.JSONB and self.widget not in widgets.UNSORTABLE_WIDGETS and not self.secret

    @property
    def filterable(self) -> bool:
        if self.kind in (ColumnType.JSONB, ColumnType.TEXT) or self.secret:
            return False
        return self.widget not in widgets.UNFILTERABLE_WIDGETS

    @property
    def searchable_text(self) -> bool:
        """Whether a free-text search makes sense here when nobody said so."""
        return (
            self.kind in (ColumnType.STRING, ColumnType.TEXT)
            and not self.options
            and self.widget not in widgets.UNSEARCHABLE_WIDGETS
        )


def facts_of(definition: ModelDefinition, name: str) -> Facts | None:
    """Facts of the column `name`; None when the model has no such column."""
    column = definition.column(name)
    if column is None:
        return _kernel_facts(definition, name)
    relation = next(
        (item for item in definition.relations if item.kind == "belongs_to" and item.foreign_key == name), None
    )
    ref = column.ref or (relation.through if relation is not None else "")
    options = _options(definition, column)
    return Facts(
        name=name,
        kind=column.type,
        label=column.label or humanize(name, reference=bool(ref) or column.type is ColumnType.UUID),
        widget=column.widget,
        column=column,
        options=options,
        ref=ref,
        relation=relation.name if relation is not None else "",
        endpoint=_endpoint(definition, column, ref, options),
        validation=_validation(column),
    )


def _kernel_facts(definition: ModelDefinition, name: str) -> Facts | None:
    kind = KERNEL_COLUMNS.get(name)
    if kind is None:
        return None
    said = next((column for column in definition.kernel_columns if column.name == name), None)
    label = said.label if said is not None and said.label else humanize(name, reference=kind is ColumnType.UUID)
    return Facts(name, kind, label, column=said, widget=said.widget if said is not None else "")


def _options(definition: ModelDefinition, column: Column) -> tuple[OptionDef, ...]:
    if column.options:
        return tuple(
            OptionDef(value=option.value, label=option.label, color=option.color, icon=option.icon)
            for option in column.options
        )
    if column.name == definition.stage_field:
        return _stages(definition)
    if column.options_source is not None or column.options_provider:
        return ()
    return declared_options(definition, column.name)


def _stages(definition: ModelDefinition) -> tuple[OptionDef, ...]:
    details = {stage.key: stage for stage in definition.stage_details}
    return tuple(
        OptionDef(
            value=key,
            label=(details[key].label if key in details else "") or humanize(key),
            color=details[key].color if key in details else "",
        )
        for key in definition.stages
    )


def _endpoint(definition: ModelDefinition, column: Column, ref: str, options: tuple[OptionDef, ...]) -> str:
    if options:
        return ""
    if column.options_source is not None or column.options_provider:
        return f"/options/{definition.key}?field={column.name}"
    return f"/options/{ref}" if ref else ""


def _validation(column: Column) -> ValidationDef | None:
    rules = column.validation
    given: dict[str, Any] = {"regex": rules.regex, "min": rules.min, "max": rules.max, "custom": rules.custom}
    return ValidationDef(**given) if any(value not in (None, "") for value in given.values()) else None
