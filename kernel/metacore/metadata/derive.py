"""From a model's declaration to its table and its form: what the author wrote wins, what is missing is filled in.

Pure. Booleans are no gaps: a column that the author listed without `sortable` is not sortable.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from metacore.manifest.model import ActionDefinition, ColumnType, ModelDefinition
from metacore.metadata.declared import read_modal, read_shape, read_table
from metacore.metadata.facts import Facts, facts_of
from metacore.metadata.labels import humanize
from metacore.metadata.model import (
    ActionDef,
    ColumnDef,
    FieldDef,
    FilterDef,
    ModalMetadata,
    TableMetadata,
    ValidationDef,
)
from metacore.metadata.widgets import FIELD_OF_WIDGET, FIELD_TYPES

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_QUOTED = re.compile(r"'([^']*)'")


def derive_table(definition: ModelDefinition, actions: Sequence[ActionDefinition] = ()) -> TableMetadata:
    """The table of a model. `actions` are the manifest's; those of other models are passed over.

    Columns that hold secrets appear nowhere: not as a column, a filter or a search column.

    Raises:
        ManifestInvalid: the declared table has a shape that contract 4 does not know.
    """
    declared = read_table(definition) or TableMetadata()
    given = declared.model_fields_set
    if "columns" in given:
        columns = [_filled_column(column, facts_of(definition, column.key)) for column in declared.columns]
    else:
        columns = [_column(facts) for facts in _all_facts(definition) if _in_table(facts)]
    columns = [column for column in columns if not _is_secret(definition, column.key)]
    return declared.model_copy(
        update={
            "title": declared.title or _title(definition),
            "columns": columns,
            "search_columns": _search_columns(definition, declared),
            "filters": (
                [_filled_filter(item, facts_of(definition, item.column or item.key)) for item in declared.filters]
                if "filters" in given
                else [_filter(column, facts_of(definition, column.key)) for column in columns if _in_filters(column)]
            ),
            "actions": _placed(declared.actions, definition, actions, ("", "row", "table")),
        }
    )


def derive_modal(definition: ModelDefinition, actions: Sequence[ActionDefinition] = ()) -> ModalMetadata:
    """The form of a model. Fields of secret columns are written, never shown. Raises as `derive_table` does."""
    declared = read_modal(definition) or ModalMetadata()
    if "fields" in declared.model_fields_set:
        fields = [_filled_field(field, facts_of(definition, field.key)) for field in declared.fields]
    else:
        fields = [_field(facts) for facts in _all_facts(definition) if _in_form(definition, facts)]
    title = declared.title or _title(definition)
    # A key such as models.tickets.title is translated as a whole: no words can be put in front of it.
    plain = not title.startswith("models.")
    return declared.model_copy(
        update={
            "title": title,
            "create_title": declared.create_title or (f"Create {title}" if plain else ""),
            "edit_title": declared.edit_title or (f"Edit {title}" if plain else ""),
            "delete_title": declared.delete_title or (f"Delete {title}" if plain else ""),
            "fields": fields,
            "custom_actions": _placed(declared.custom_actions, definition, actions, ("create",)),
        }
    )


def _title(definition: ModelDefinition) -> str:
    return definition.label or humanize(definition.key)


def _all_facts(definition: ModelDefinition) -> list[Facts]:
    found = (facts_of(definition, column.name) for column in definition.columns)
    return [facts for facts in found if facts is not None]


def _is_secret(definition: ModelDefinition, name: str) -> bool:
    column = definition.column(name)
    return column is not None and column.secret


def _in_table(facts: Facts) -> bool:
    return facts.column is not None and facts.column.visibility in ("all", "table", "list") and not facts.secret


def _in_filters(column: ColumnDef) -> bool:
    return column.filterable and not column.hidden


def _in_form(definition: ModelDefinition, facts: Facts) -> bool:
    """Whether a person fills it in: not what the kernel computes, numbers or keeps for itself."""
    column = facts.column
    if column is None or column.visibility not in ("all", "modal"):
        return False
    computed = {formula.target for formula in definition.formulas}
    computed |= {rollup.target for relation in definition.relations for rollup in relation.rollups}
    return not (column.generated or column.readonly or column.sequence or column.name in computed)


def _column(facts: Facts) -> ColumnDef:
    hidden = facts.column is not None and facts.column.visibility == "list"
    blank = ColumnDef(key=facts.name, type="", sortable=facts.sortable, filterable=facts.filterable, hidden=hidden)
    return _filled_column(blank, facts)


def _filled_column(column: ColumnDef, facts: Facts | None) -> ColumnDef:
    typed = column.type if "type" in column.model_fields_set else ""
    if facts is None:
        return column.model_copy(update={"label": column.label or humanize(column.key), "type": typed or "text"})
    source = facts.column
    options = column.options or list(facts.options)
    endpoint = "" if options else facts.endpoint
    update: dict[str, Any] = {
        "label": column.label or facts.label,
        "type": typed or facts.cell_type,
        "options": options,
        "ref": column.ref or facts.ref,
        "relation_path": column.relation_path or facts.relation,
        "search_endpoint": column.search_endpoint or endpoint,
        "validation": _rules(column.validation, facts.validation),
    }
    if "use_options" not in column.model_fields_set:
        update["use_options"] = bool(endpoint) and not column.search_endpoint
    if source is not None:
        update["cell_style"] = column.cell_style or source.display
        update["style_config"] = column.style_config or dict(source.display_config)
        update["tooltip"] = column.tooltip or source.tooltip
        update["description"] = column.description or source.description
    return column.model_copy(update=update)


def _field(facts: Facts) -> FieldDef:
    return _filled_field(FieldDef(key=facts.name), facts)


def _filled_field(field: FieldDef, facts: Facts | None) -> FieldDef:
    given = field.model_fields_set
    typed = _field_type(field.type) if "type" in given else ""
    if facts is None:
        return field.model_copy(update={"label": field.label or humanize(field.key), "type": typed or "text"})
    column = facts.column
    options = field.options or list(facts.options)
    update: dict[str, Any] = {
        "label": field.label or facts.label,
        "type": typed or facts.field_type,
        "options": options,
        "ref": field.ref or facts.ref,
        "search_endpoint": field.search_endpoint or ("" if options else facts.endpoint),
        "validation": (
            field.validation if isinstance(field.validation, str) else _rules(field.validation, facts.validation)
        ),
        "hide_in_view": field.hide_in_view or facts.secret,
    }
    if column is not None and "required" not in given:
        update["required"] = column.required and column.default is None and facts.kind is not ColumnType.BOOL
    if column is not None and "default_value" not in given:
        update["default_value"] = _literal(column.default)
    return field.model_copy(update=update)


def _field_type(declared: str) -> str:
    """Authors write widgets where a field type belongs; clients know the ten only."""
    return declared if declared in FIELD_TYPES else FIELD_OF_WIDGET.get(declared, "text")


def _rules(declared: ValidationDef | None, known: ValidationDef | None) -> ValidationDef | None:
    if declared is None or known is None:
        return declared or known
    gaps = {name: getattr(known, name) for name in ValidationDef.model_fields if name not in declared.model_fields_set}
    return declared.model_copy(update=gaps)


def _literal(default: str | None) -> Any:
    """The value that a form can show for a SQL default; None for functions such as `now()`."""
    text = (default or "").strip()
    if quoted := _QUOTED.fullmatch(text):
        return quoted.group(1)
    if number := _NUMBER.fullmatch(text):
        return float(text) if number.group(1) else int(text)
    return {"true": True, "false": False}.get(text.lower())


def _search_columns(definition: ModelDefinition, declared: TableMetadata) -> list[str]:
    if "search_columns" in declared.model_fields_set:
        return [name for name in declared.search_columns if not _is_secret(definition, name)]
    facts = [item for item in _all_facts(definition) if not item.secret]
    named = [item.name for item in facts if item.column is not None and item.column.searchable]
    return named or [item.name for item in facts if item.searchable_text]


def _filter(column: ColumnDef, facts: Facts | None) -> FilterDef:
    blank = FilterDef(key=column.key, label=column.label, type="", column=column.key, options=column.options)
    return _filled_filter(blank, facts)


def _filled_filter(item: FilterDef, facts: Facts | None) -> FilterDef:
    typed = item.type if "type" in item.model_fields_set else ""
    update: dict[str, Any] = {"label": item.label or humanize(item.key), "column": item.column or item.key}
    if facts is None:
        return item.model_copy(update={**update, "type": typed or "text"})
    kind = typed or facts.filter_type
    update |= {"label": item.label or facts.label, "type": kind}
    if kind == "select":
        options = item.options or list(facts.options)
        update |= {"options": options, "search_endpoint": item.search_endpoint or ("" if options else facts.endpoint)}
    return item.model_copy(update=update)


def _placed(
    declared: list[ActionDef],
    definition: ModelDefinition,
    actions: Sequence[ActionDefinition],
    placements: tuple[str, ...],
) -> list[ActionDef]:
    """The declared actions, completed from the manifest's of the same key, then the manifest's others."""
    own = {
        action.key: derive_action(action)
        for action in actions
        if action.model in (definition.key, definition.table) and action.placement in placements
    }
    shown = []
    for action in declared:
        known = own.pop(action.key, None)
        gaps = _gaps(action, known) if known is not None else {}
        label = action.label or gaps.get("label") or humanize(action.key)
        shown.append(action.model_copy(update={**gaps, "name": action.name or action.key, "label": label}))
    return [*shown, *own.values()]


def _gaps(action: ActionDef, known: ActionDef) -> dict[str, Any]:
    return {name: getattr(known, name) for name in ActionDef.model_fields if name not in action.model_fields_set}


def derive_action(action: ActionDefinition) -> ActionDef:
    """A declared action as clients see it, its steps' fields among its own."""
    path = f"actions[{action.key}]"
    raw_fields = [*action.fields, *(field for step in action.steps for field in step.get("fields", ()))]
    fields = [read_shape(FieldDef, _keyed(raw), f"{path}.fields[{index}]") for index, raw in enumerate(raw_fields)]
    shape = {
        "key": action.key,
        "name": action.name or action.key,
        "label": action.label or humanize(action.key),
        "icon": action.icon,
        "class": action.css_class,
        "color": action.color,
        "type": action.type,
        "linkUrl": action.link_url,
        "condition": action.condition,
        "confirm": action.confirm,
        "confirmMessage": action.confirm_message,
        "fields": [_filled_field(field, None) for field in fields],
        "requiresState": list(action.requires_state),
        "isCollection": action.placement in ("table", "create"),
    }
    return ActionDef.model_validate(shape)


def _keyed(raw: dict[str, Any]) -> dict[str, Any]:
    return {**raw, "key": raw["name"]} if "key" not in raw and "name" in raw else raw
