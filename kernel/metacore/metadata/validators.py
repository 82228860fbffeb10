"""Custom validators named `$org.<key>`: replaced by what the organization configured."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

from sqlalchemy import select

from metacore.db.database import Database
from metacore.orm.accounts import Organization

PREFIX = "$org."
RULES = ("regex", "min", "max", "custom")
CACHED_ORGANIZATIONS = 1024

OrganizationRules = Mapping[str, Any]
"""By key: `{regex?, min?, max?, message?}`, or the name of a registered validator."""


class ValidatorSource(Protocol):
    async def __call__(self, organization_id: uuid.UUID, /) -> OrganizationRules: ...


class OrganizationValidators:
    """The `validators` column of organizations, kept for `ttl` seconds."""

    def __init__(self, db: Database, *, ttl: float = 300) -> None:
        self._db = db
        self._ttl = ttl
        self._cached: OrderedDict[uuid.UUID, tuple[float, OrganizationRules]] = OrderedDict()

    async def __call__(self, organization_id: uuid.UUID) -> OrganizationRules:
        now = time.monotonic()
        known = self._cached.get(organization_id)
        if known is not None and known[0] > now:
            return known[1]
        async with self._db.transaction(organization_id) as connection:
            stored = await connection.scalar(select(Organization.validators).where(Organization.id == organization_id))
        rules: OrganizationRules = stored or {}
        self._cached[organization_id] = (now + self._ttl, rules)
        self._cached.move_to_end(organization_id)
        while len(self._cached) > CACHED_ORGANIZATIONS:
            self._cached.popitem(last=False)
        return rules

    def invalidate(self, organization_id: uuid.UUID | None = None) -> None:
        """Forget one organization's validators, or everybody's."""
        if organization_id is None:
            self._cached.clear()
        else:
            self._cached.pop(organization_id, None)


def names_organization_rule(shape: Any) -> bool:
    """Whether any validation in `shape` (JSON) is an organization's to define."""
    if isinstance(shape, dict):
        custom = shape.get("custom")
        if isinstance(custom, str) and custom.startswith(PREFIX):
            return True
        return any(names_organization_rule(part) for part in shape.values())
    return isinstance(shape, list) and any(names_organization_rule(item) for item in shape)


def with_organization_rules(shape: Any, rules: OrganizationRules) -> Any:
    """`shape` (JSON) with each `custom: "$org.<key>"` replaced by the rule of that key.

    The organization's `regex`, `min` and `max` win over the author's; a key that it did not configure leaves no rule.
    """
    if isinstance(shape, list):
        return [with_organization_rules(item, rules) for item in shape]
    if not isinstance(shape, dict):
        return shape
    shown = {name: with_organization_rules(part, rules) for name, part in shape.items()}
    validation = shown.get("validation")
    if isinstance(validation, dict):
        merged = replaced(validation, rules)
        if merged:
            shown["validation"] = merged
        else:
            del shown["validation"]
    return shown


def replaced(validation: Mapping[str, Any], rules: OrganizationRules) -> dict[str, Any]:
    """One validation object after the replacement; {} when nothing is left of it."""
    custom = validation.get("custom")
    if not isinstance(custom, str) or not custom.startswith(PREFIX):
        return dict(validation)
    kept = {name: value for name, value in validation.items() if name != "custom"}
    rule = rules.get(custom.removeprefix(PREFIX))
    if isinstance(rule, str):
        return {**kept, "custom": rule}
    if isinstance(rule, Mapping):
        return {**kept, **{name: rule[name] for name in RULES if rule.get(name) not in (None, "")}}
    return kept
