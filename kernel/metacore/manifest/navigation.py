"""Navigation groups and items that an addon adds to the shell."""

from __future__ import annotations

from metacore.manifest import names
from metacore.manifest.model import NavigationGroup, NavigationItem
from metacore.manifest.scope import Outline, Scope
from metacore.manifest.walk import Node, shown

MAX_LEVELS = 4
VIEWS = ("table", "kanban")
_BAD_SCHEMES = ("javascript", "data", "vbscript")


def read_navigation(node: Node, scope: Scope) -> tuple[NavigationGroup, ...]:
    found: list[NavigationGroup] = []
    for inner in node.nodes("navigation"):
        group = NavigationGroup(
            title=inner.text("title"),
            icon=inner.text("icon"),
            target=inner.text("target"),
            items=_items(inner, scope, 1),
        )
        inner.warn_unknown()
        found.append(group)
    return tuple(found)


def _items(node: Node, scope: Scope, level: int) -> tuple[NavigationItem, ...]:
    if level > MAX_LEVELS:
        node.refuse("items", f"is nested deeper than {MAX_LEVELS} levels", "too_deep")
        return ()
    found: list[NavigationItem] = []
    for inner in node.nodes("items"):
        model = _model(inner, scope)
        view = inner.text("view_type", choices=VIEWS)
        group_by = inner.text("group_by")
        if view == "kanban" and not group_by:
            inner.refuse("group_by", "is required for a kanban", "required")
        if model is not None and group_by:
            model.need_column(inner, "group_by", group_by)
        found.append(
            NavigationItem(
                title=inner.text("title", required=True),
                url=_url(inner),
                icon=inner.text("icon"),
                model=inner.text("model"),
                permission=inner.text("permission"),
                view_type=view,
                group_by=group_by,
                filter=inner.free("filter"),
                items=_items(inner, scope, level + 1),
            )
        )
        inner.warn_unknown()
    return tuple(found)


def _model(node: Node, scope: Scope) -> Outline | None:
    """The model of an item; one that is not in the manifest may belong to the host or to another addon."""
    name = node.text("model", pattern=names.REFERENCE, form=names.REFERENCE_FORM)
    model = scope.find(name) if name else None
    if name and model is None and "." not in name:
        node.warn("model", f"{shown(name)} is not a model of this manifest", "unknown_model")
    return model


def _url(node: Node) -> str:
    url = node.text("url")
    if url.split(":")[0].strip().lower() in _BAD_SCHEMES or any(character < " " for character in url):
        node.refuse("url", f"{shown(url)} is not a link", "url")
        return ""
    return url
