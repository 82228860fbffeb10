"""Whole models: columns, relations, rules and stages put together, once all models of the manifest are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from metacore.manifest import names
from metacore.manifest.columns import read_column, read_visible_when
from metacore.manifest.model import Backend, Isolation, ModelDefinition
from metacore.manifest.relations import read_foreign_keys, read_indices, read_relations
from metacore.manifest.rules import check_columns, read_formulas, read_seed, read_sequences
from metacore.manifest.scope import Outline, Scope, read_outline
from metacore.manifest.stages import read_stages
from metacore.manifest.walk import Node, kind_of, refuse_repeats

FORM_MODES = ("sections", "steps")


def read_models(
    root: Node, addon_key: str, isolation: Isolation, backend: Backend | None, *, v3: bool
) -> tuple[tuple[ModelDefinition, ...], Scope]:
    """Every model of the manifest, and their names for those who point at them."""
    outlines = [read_outline(node, v3=v3) for node in root.nodes("models" if v3 else "model_definitions")]
    if not v3:
        outlines.extend(_listed(root, outlines))
    scope = Scope(addon_key, outlines)
    scope.check_names()
    relations = {outline.table: outline.node.path for outline in outlines}
    return tuple(_read_model(outline, scope, relations, isolation, backend) for outline in outlines), scope


def extended_models(root: Node) -> frozenset[str]:
    """The models of others that `extensions[]` name, on the manifest (v2) or on its models (v3)."""
    found: set[str] = set()
    models = root.value.get("models")
    holders = [root.value, *(models if isinstance(models, list | tuple) else ())]
    for holder in holders:
        items = holder.get("extensions") if isinstance(holder, Mapping) else None
        for item in items if isinstance(items, list | tuple) else ():
            if isinstance(item, Mapping):
                found.update(str(item[key]) for key in ("model", "target_model") if isinstance(item.get(key), str))
    return frozenset(found)


def read_extensions(node: Node) -> tuple[dict[str, Any], ...]:
    """Columns for models of others, as written; the columns are checked like one's own."""
    found: list[dict[str, Any]] = []
    for inner in node.nodes("extensions"):
        if not inner.text("target_model") and not inner.text("model"):
            inner.refuse("target_model", "is required", "required")
        columns = [(read_column(column, v3=True).name, column) for column in inner.nodes("columns")]
        refuse_repeats(columns, "name", "column")
        found.append(dict(inner.value))
    return tuple(found)


def _listed(root: Node, outlines: list[Outline]) -> list[Outline]:
    """Models that v2's `models[]` names without defining them: a migration makes their tables."""
    defined = {name for outline in outlines for name in (outline.key, outline.table)}
    found: list[Outline] = []
    for path, item in root.members("models"):
        if isinstance(item, str):
            node = Node({"key": item}, path, root.report)
        elif isinstance(item, Mapping):
            node = Node(item, path, root.report)
        else:
            root.report.refuse(path, "type", f"must be a model, not {kind_of(item)}")
            continue
        word = "key" if node.has("key") or not node.has("model_key") else "model_key"
        key = node.text(word, required=True, pattern=names.MODEL_KEY, form=names.MODEL_KEY_FORM)
        table_word = "table" if node.has("table") else "table_name"
        if not key or key in defined:
            node.know("table", "table_name", "label")
            node.warn_unknown()
            continue
        table = node.text(table_word, pattern=names.TABLE, form=names.TABLE_FORM)
        if not table and names.TABLE.fullmatch(key):
            table = key
        elif not table and not node.has(table_word):
            node.refuse("table_name", "is required: the key cannot be the name of a table", "required")
        node.know("name", "description", "icon", "model_key")
        found.append(Outline(node, key, table, key_word=word, table_word=table_word, listed_only=True))
    return found


def _read_model(
    outline: Outline, scope: Scope, relations: dict[str, str], isolation: Isolation, backend: Backend | None
) -> ModelDefinition:
    node = outline.node
    sequences = read_sequences(outline)
    form_layout, sections = _form_layout(node, outline)
    check_columns(outline, sequences, sections)
    formulas = read_formulas(outline, backend)
    related = read_relations(outline, scope)
    provided = (
        {formula.target for formula in formulas}
        | {column.name for _, column in outline.declared if column.sequence or column.generated}
        | {rollup.target for relation in related for rollup in relation.rollups}
    )
    org_scoped = node.flag("org_scoped", True)
    model = ModelDefinition(
        key=outline.key,
        table=outline.table,
        label=node.text("label"),
        # In a shared schema every row says whose it is, whatever the manifest says.
        org_scoped=org_scoped or isolation is Isolation.SHARED,
        soft_delete=outline.soft_delete,
        declared=not outline.listed_only,
        columns=tuple(column for _, column in outline.declared),
        relations=related,
        indices=read_indices(outline, relations),
        foreign_keys=read_foreign_keys(outline, scope),
        extensions=read_extensions(node),
        seed=read_seed(outline, frozenset(provided)),
        formulas=formulas,
        sequences=sequences,
        form_layout=form_layout,
        locking=cast("Literal['', 'row']", node.text("locking", choices=("row",))),
        importable=_importable(node),
        table_metadata=_metadata(node, "table") if outline.table_word == "table_name" else None,
        modal_metadata=_metadata(node, "modal"),
        kernel_columns=tuple(outline.kernel),
        **read_stages(outline, backend),
    )
    node.warn_unknown()
    return model


def _form_layout(node: Node, outline: Outline) -> tuple[dict[str, Any], frozenset[str]]:
    inner = node.node("form_layout")
    if inner is None:
        return {}, frozenset()
    inner.text("mode", "sections", choices=FORM_MODES)
    named: list[tuple[str, Node]] = []
    for section in inner.nodes("sections"):
        named.append((section.text("key", required=True, pattern=names.NAME, form=names.NAME_FORM), section))
        visible = read_visible_when(section)
        if visible is not None and visible.field:
            outline.need_column(section, "visible_when", visible.field)
    refuse_repeats(named, "key", "section")
    return dict(inner.value), frozenset(name for name, _ in named)


def _importable(node: Node) -> dict[str, Any] | bool:
    value = node.raw("import")
    if value is None or isinstance(value, bool):
        return value is not False
    return node.free("import")


def _metadata(node: Node, key: str) -> dict[str, Any] | None:
    """A table or modal object of contract 4, as written; lists of things with a key are looked at."""
    inner = node.node(key)
    if inner is None:
        return None
    for part in ("columns", "filters", "fields", "actions", "customActions"):
        for item in inner.nodes(part):
            item.text("key", required=True)
    return dict(inner.value)
