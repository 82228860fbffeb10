"""Reading the wire objects that authors write: nulls and shorthand are forgiven, a wrong shape is named by its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from metacore.errors import ManifestInvalid, Problem
from metacore.manifest.model import ModelDefinition
from metacore.metadata.labels import humanize
from metacore.metadata.model import ModalMetadata, OptionDef, TableMetadata, Wire

WireT = TypeVar("WireT", bound=Wire)


def read_table(definition: ModelDefinition) -> TableMetadata | None:
    """The declared table, None when there is none.

    Raises:
        ManifestInvalid: a shape that contract 4 does not know; each problem with a path such as
            `models[tickets].table.columns[0].key`.
    """
    return _read(TableMetadata, definition.table_metadata, f"models[{definition.key}].table")


def read_modal(definition: ModelDefinition) -> ModalMetadata | None:
    """The declared modal, None when there is none. Raises as `read_table` does."""
    return _read(ModalMetadata, definition.modal_metadata, f"models[{definition.key}].modal")


def read_shape(kind: type[WireT], raw: Mapping[str, Any], path: str) -> WireT:
    """One wire object out of JSON. Raises ManifestInvalid with paths below `path`."""
    try:
        return kind.model_validate(_cleaned(raw))
    except ValidationError as error:
        problems = [
            Problem(path + _path(item["loc"]), str(item["type"]), str(item["msg"]))
            for item in error.errors(include_url=False)
        ]
        raise ManifestInvalid(f"{problems[0].field}: {problems[0].message}", problems=problems) from None


def declared_options(definition: ModelDefinition, name: str) -> tuple[OptionDef, ...]:
    """The options that the declared form or table gives the column `name`: v2 authors write them there."""
    for raw, part in ((definition.modal_metadata, "fields"), (definition.table_metadata, "columns")):
        items = raw.get(part) if raw is not None else None
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and item.get("key") == name and isinstance(item.get("options"), list):
                shape = read_shape(_Options, {"options": item["options"]}, f"models[{definition.key}].{name}")
                if shape.options:
                    return shape.options
    return ()


class _Options(Wire):
    options: tuple[OptionDef, ...] = ()


def _read(kind: type[WireT], raw: Mapping[str, Any] | None, path: str) -> WireT | None:
    return read_shape(kind, raw, path) if raw is not None else None


def _cleaned(value: Any, key: str = "") -> Any:
    """Without nulls (other writers emit them for empty lists), and with options as objects."""
    if isinstance(value, Mapping):
        return {name: _cleaned(item, str(name)) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        if key == "options":
            return [_option(item) for item in value if item is not None]
        return [_cleaned(item) for item in value if item is not None]
    return value


def _option(item: Any) -> Any:
    if not isinstance(item, Mapping):
        return {"value": item, "label": humanize(str(item))}
    shown = {name: part for name, part in item.items() if part is not None}
    if "value" in shown and not shown.get("label"):
        shown["label"] = humanize(str(shown["value"]))
    return shown


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
