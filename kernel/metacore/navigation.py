"""The menu: the host's groups with what enabled addons add (contract 17). Pure; whether a caller may is asked above."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from metacore.errors import InvalidInput
from metacore.manifest.model import NavigationGroup, NavigationItem
from metacore.registry import Snapshot

CORE_OWNER = "core"
ADDONS_TITLE = "sidebar.addons"
"""Where groups without a title of their own gather."""


class Item(BaseModel):
    """One entry. `permission` is a capability; `model` implies that model's `read`; `owner` is core or addon:<key>."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    title: str
    url: str = ""
    icon: str = ""
    model: str = ""
    permission: str = ""
    owner: str = CORE_OWNER
    items: tuple[Item, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "url": self.url,
            "icon": self.icon,
            "model": self.model,
            "permission": self.permission,
            "owner": self.owner,
            "items": [item.as_json() for item in self.items],
        }


class Group(BaseModel):
    """A titled list of entries. `target` is the name by which addons append to it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    title: str = ""
    icon: str = ""
    target: str = ""
    items: tuple[Item, ...] = ()

    def as_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"title": self.title, "icon": self.icon}
        if self.target:
            shown["target"] = self.target
        return {**shown, "items": [item.as_json() for item in self.items]}


@dataclass(frozen=True, slots=True)
class AddonNavigation:
    """What the manifest of one addon contributes."""

    key: str
    groups: tuple[NavigationGroup, ...]


def merge(core_groups: Iterable[Group | Mapping[str, Any]], addons: Iterable[AddonNavigation]) -> list[Group]:
    """Core groups in their order, each with what addons append to it, then new groups, then the gathered untitled ones.

    An addon's group appends to the core group whose `target` (or else title) it names. Addons come in key order.

    Raises:
        InvalidInput: a core group that is not of contract 17's shape.
    """
    core = [_core(group) for group in core_groups]
    places = {name: index for index, group in reversed(list(enumerate(core))) for name in (group.title, group.target)}
    places.pop("", None)
    added: list[list[Item]] = [[] for _ in core]
    new: list[Group] = []
    gathered: list[Item] = []
    for addon in sorted(addons, key=lambda item: item.key):
        owner = f"addon:{addon.key}"
        for group in addon.groups:
            items = [_item(item, owner) for item in group.items]
            place = places.get(group.target or ("" if group.title else ADDONS_TITLE))
            if place is not None:
                added[place] += items
            elif group.title:
                new.append(Group(title=group.title, icon=group.icon, target=group.target, items=tuple(items)))
            else:
                gathered += items
    merged = [
        group.model_copy(update={"items": (*group.items, *more)}) if more else group
        for group, more in zip(core, added, strict=True)
    ]
    return [*merged, *new, *([Group(title=ADDONS_TITLE, items=tuple(gathered))] if gathered else [])]


def contributed(snapshot: Snapshot, organization_id: uuid.UUID) -> list[AddonNavigation]:
    """What the addons contribute that the organization has installed and enabled, and that are served."""
    found = []
    for key, installation in sorted(snapshot.installed.get(organization_id, {}).items()):
        addon = snapshot.addons.get(key)
        if addon is not None and installation.enabled and not addon.fenced_reason and not addon.error:
            found.append(AddonNavigation(key, addon.manifest.navigation))
    return found


Resource = Callable[[str], str]
"""The resource of capabilities about a model, by any name of the model."""


def capabilities(groups: Sequence[Group], resource: Resource = str.lower) -> set[str]:
    """Every capability that some entry asks for."""
    return {name for group in groups for item in _flat(group.items) for name in _needs(item, resource)}


def visible(groups: Sequence[Group], held: Iterable[str], resource: Resource = str.lower) -> list[Group]:
    """`groups` for a caller who holds the capabilities `held`.

    An entry goes with all below it when a capability that it asks for is missing. What becomes empty that way goes too:
    a group, or an entry that leads nowhere by itself.
    """
    owned = frozenset(held)
    shown: list[Group] = []
    for group in groups:
        items = _visible(group.items, owned, resource)
        if items or not group.items:
            shown.append(group.model_copy(update={"items": items}))
    return shown


def _core(group: Group | Mapping[str, Any]) -> Group:
    if not isinstance(group, Group):
        try:
            group = Group.model_validate(group)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidInput(f"navigation group: {where}: {first['msg']}") from None
    return group.model_copy(update={"items": tuple(_owned(item, CORE_OWNER) for item in group.items)})


def _owned(item: Item, owner: str) -> Item:
    return item.model_copy(update={"owner": owner, "items": tuple(_owned(child, owner) for child in item.items)})


def _item(item: NavigationItem, owner: str) -> Item:
    return Item(
        title=item.title,
        url=item.url,
        icon=item.icon,
        model=item.model,
        permission=item.permission,
        owner=owner,
        items=tuple(_item(child, owner) for child in item.items),
    )


def _flat(items: Iterable[Item]) -> Iterator[Item]:
    for item in items:
        yield item
        yield from _flat(item.items)


def _needs(item: Item, resource: Resource) -> list[str]:
    needed = [item.permission] if item.permission else []
    return [*needed, f"{resource(item.model)}.read"] if item.model else needed


def _visible(items: Iterable[Item], held: frozenset[str], resource: Resource) -> tuple[Item, ...]:
    shown: list[Item] = []
    for item in items:
        if not held.issuperset(_needs(item, resource)):
            continue
        children = _visible(item.items, held, resource)
        if item.items and not children and not item.url and not item.model:
            continue
        shown.append(item.model_copy(update={"items": children}))
    return tuple(shown)
