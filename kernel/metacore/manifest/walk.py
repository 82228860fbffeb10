"""Walking a JSON document so that every problem is found and named by its path.

Nothing here raises: a wrong value is reported and replaced by a harmless one, so that the reader goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from metacore.errors import ManifestInvalid, Problem

ROOT = "manifest"
MAX_PROBLEMS = 1_000
"""A hostile manifest could carry a million mistakes; nobody reads past these."""
SHOWN_PROBLEMS = 5
TEXT_LIMIT = 10_000
ARRAY_LIMIT = 5_000
"""Items of one array. Everything that looks at pairs of items stays quick below it."""
KEY_SHOWN = 80
_PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$-]*")


class Report:
    """What was found: `problems` refuse the manifest, `warnings` (keys that nobody reads) do not."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._seen: set[Problem] = set()

    def refuse(self, path: str, code: str, message: str) -> None:
        self._note(self.problems, Problem(path, code, message))

    def warn(self, path: str, code: str, message: str) -> None:
        self._note(self.warnings, Problem(path, code, message))

    def _note(self, to: list[Problem], problem: Problem) -> None:
        # A value that two rules look at is wrong once.
        if problem not in self._seen and len(to) < MAX_PROBLEMS:
            self._seen.add(problem)
            to.append(problem)

    def error(self) -> ManifestInvalid:
        """The refusal. Its message shows the first problems with their paths; `problems` holds all of them."""
        shown = [f"{problem.field}: {problem.message}" for problem in self.problems[:SHOWN_PROBLEMS]]
        rest = len(self.problems) - len(shown)
        if rest > 0:
            shown.append(f"and {rest} more problem{'s' if rest > 1 else ''}")
        return ManifestInvalid("; ".join(shown), problems=self.problems)

    def raise_problems(self) -> None:
        """Raises: ManifestInvalid: there was at least one problem."""
        if self.problems:
            raise self.error()


def join(path: str, key: str | int) -> str:
    """The path of a member: `manifest.models[0].label`, and `manifest.hooks["a::b"]` for keys that are no names."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    key = key if len(key) <= KEY_SHOWN else key[: KEY_SHOWN - 1] + "…"
    return f"{path}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{path}[{json.dumps(key, ensure_ascii=False)}]"


def kind_of(value: Any) -> str:
    """How JSON calls the type of `value`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, int | float):
        return "a number"
    return "an array" if isinstance(value, list | tuple) else "an object"


def shown(value: Any) -> str:
    """`value` as JSON, short enough for a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


class Node:
    """A JSON object at a path. Reading a key marks it as known; null counts as absent."""

    __slots__ = ("_known", "path", "report", "value")

    def __init__(self, value: Mapping[str, Any], path: str, report: Report) -> None:
        self.value = value
        self.path = path
        self.report = report
        self._known: set[str] = set()

    def has(self, key: str) -> bool:
        return self.value.get(key) is not None

    def raw(self, key: str) -> Any:
        self._known.add(key)
        return self.value.get(key)

    def know(self, *keys: str) -> None:
        """These keys are part of the contract; nothing is read from them here."""
        self._known.update(keys)

    def unknown(self) -> list[str]:
        return [key for key in self.value if key not in self._known]

    def warn_unknown(self) -> None:
        for key in self.unknown():
            self.report.warn(join(self.path, key), "unknown_key", "not a key of the contract; it is kept and not used")

    def refuse(self, key: str | None, message: str, code: str = "invalid") -> None:
        self.report.refuse(self.path if key is None else join(self.path, key), code, message)

    def warn(self, key: str, message: str, code: str) -> None:
        self.report.warn(join(self.path, key), code, message)

    def text(
        self,
        key: str,
        default: str = "",
        *,
        required: bool = False,
        pattern: re.Pattern[str] | None = None,
        form: str = "",
        choices: Collection[str] = (),
        limit: int = TEXT_LIMIT,
    ) -> str:
        """A string. `form` says in words what `pattern` wants. An empty string counts as absent."""
        value = self.raw(key)
        if value is None or value == "":
            if required:
                self.refuse(key, "is required", "required")
            return default
        if not isinstance(value, str):
            self.refuse(key, f"must be a string, not {kind_of(value)}", "type")
            return default
        if len(value) > limit:
            self.refuse(key, f"is longer than {limit} characters", "too_long")
            return default
        if choices and value not in choices:
            self.refuse(key, f"{shown(value)} is not one of {', '.join(sorted(choices))}", "choice")
            return default
        if pattern is not None and not pattern.fullmatch(value):
            self.refuse(key, f"{shown(value)} {form or f'does not match {pattern.pattern}'}", "pattern")
            return default
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, f"must be true or false, not {kind_of(value)}", "type")
            return default
        return value

    def whole(self, key: str, default: int, *, low: int, high: int) -> int:
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(key, f"must be a whole number, not {shown(value)}", "type")
            return default
        if not low <= value <= high:
            self.refuse(key, f"must be from {low} to {high}, not {shown(value)}", "range")
            return default
        return value

    def number(self, key: str) -> float | None:
        value = self.raw(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, f"must be a number, not {kind_of(value)}", "type")
            return None
        return float(value) if abs(value) < 1e300 else None

    def free(self, key: str) -> dict[str, Any]:
        """An object whose inside is not looked at here."""
        value = self.raw(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.refuse(key, f"must be an object, not {kind_of(value)}", "type")
            return {}
        return dict(value)

    def node(self, key: str) -> Node | None:
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.refuse(key, f"must be an object, not {kind_of(value)}", "type")
            return None
        return Node(value, join(self.path, key), self.report)

    def members(self, key: str) -> list[tuple[str, Any]]:
        """The items of an array with their paths."""
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            self.refuse(key, f"must be an array, not {kind_of(value)}", "type")
            return []
        if len(value) > ARRAY_LIMIT:
            self.refuse(key, f"holds more than {ARRAY_LIMIT} items", "too_large")
            return []
        path = join(self.path, key)
        return [(join(path, index), item) for index, item in enumerate(value)]

    def nodes(self, key: str) -> list[Node]:
        """The objects of an array."""
        found: list[Node] = []
        for path, item in self.members(key):
            if isinstance(item, Mapping):
                found.append(Node(item, path, self.report))
            else:
                self.report.refuse(path, "type", f"must be an object, not {kind_of(item)}")
        return found

    def texts(self, key: str, *, pattern: re.Pattern[str] | None = None, form: str = "") -> tuple[str, ...]:
        """The strings of an array."""
        found: list[str] = []
        for path, item in self.members(key):
            if not isinstance(item, str) or not item:
                self.report.refuse(path, "type", f"must be a string that is not empty, not {kind_of(item)}")
            elif pattern is not None and not pattern.fullmatch(item):
                self.report.refuse(path, "pattern", f"{shown(item)} {form or f'does not match {pattern.pattern}'}")
            else:
                found.append(item)
        return tuple(found)


def refuse_repeats(named: Sequence[tuple[str, Node]], key: str, what: str) -> None:
    """Report every name that an earlier item has already."""
    seen: dict[str, str] = {}
    for name, node in named:
        if not name:
            continue
        if name in seen:
            node.refuse(key, f"{what} {shown(name)} is declared twice, first at {seen[name]}", "duplicate")
        else:
            seen[name] = node.path
