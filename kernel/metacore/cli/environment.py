"""Settings from the environment, refused in words that a person can act on."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from metacore.errors import Misconfigured
from metacore.settings import Settings


def read_settings(**given: Any) -> Settings:
    """The settings of this process; `given` wins over the environment where it is not None.

    Raises:
        Misconfigured: naming the variable, never its value.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(f"{_variable(item['loc'])}: {item['msg']}" for item in error.errors(include_input=False))
        raise Misconfigured(problems) from None


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "settings"
    return name if name.isupper() else f"METACORE_{name.upper()}"
