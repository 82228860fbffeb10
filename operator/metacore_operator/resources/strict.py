"""The base of everything in a resource: camelCase on the wire, frozen, unknown keys and loose types refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


class Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
    )


def exactly_one(model: BaseModel, names: tuple[str, ...]) -> None:
    given = [to_camel(name) for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        choice = ", ".join(to_camel(name) for name in names)
        found = f"found {' and '.join(given)}" if given else "found none"
        raise PydanticCustomError(
            "exactly_one", "exactly one of {choice} is needed, {found}", {"choice": choice, "found": found}
        )
