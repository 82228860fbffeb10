"""Version ranges: `>=2.0.0 <3.0.0`, `^1.2 || ~2.0`, `1.x`, `*`, `1.2 - 1.4`.

A space or a comma means and, `||` means or. A prerelease satisfies a range only where a bound of the same
major.minor.patch is a prerelease too, as npm and Cargo have it. Versions are compared by the semver package.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from semver import Version

from metacore.errors import InvalidInput

MAX_LENGTH = 256
MAX_BOUNDS = 64
_NUMBER = r"0|[1-9]\d{0,8}"
_PARTIAL = re.compile(
    rf"v?(?P<major>{_NUMBER}|[xX*])"
    rf"(?:\.(?P<minor>{_NUMBER}|[xX*])(?:\.(?P<patch>{_NUMBER}|[xX*])"
    r"(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?)?)?"
)
_TERM = re.compile(r"\s*(?P<operator>>=|<=|>|<|==|=|!=|\^|~>|~)?\s*(?P<version>[0-9xXvV*][^\s,|<>=^~]*)\s*,?")
_HYPHEN = re.compile(r"\s*(\S+)\s+-\s+(\S+)\s*")
_WILD = frozenset({"x", "X", "*"})


@dataclass(frozen=True, slots=True)
class Bound:
    """One comparison: `operator` is >=, >, <, <=, == or !=."""

    operator: str
    version: Version

    def admits(self, version: Version) -> bool:
        order = version.compare(self.version)
        return {
            ">=": order >= 0,
            ">": order > 0,
            "<": order < 0,
            "<=": order <= 0,
            "==": order == 0,
            "!=": order != 0,
        }[self.operator]


@dataclass(frozen=True, slots=True)
class Range:
    """`alternatives` are or-ed, the bounds within one are and-ed; no bounds admit every release."""

    text: str
    alternatives: tuple[tuple[Bound, ...], ...]

    def admits(self, version: Version) -> bool:
        return any(_all_admit(bounds, version) for bounds in self.alternatives)

    def meets(self, low: Version, high: Version) -> bool:
        """Whether some release from `low` on and below `high` is admitted."""
        for bounds in self.alternatives:
            # A change of the answer can only happen at a bound or just after it.
            edges = [low] + [edge for bound in bounds for edge in (_release(bound.version), _next(bound.version))]
            if any(low <= edge < high and all(bound.admits(edge) for bound in bounds) for edge in edges):
                return True
        return False


def parse_version(text: str) -> Version:
    """A semantic version, all three numbers given.

    Raises:
        InvalidInput: anything else.
    """
    if len(text) <= MAX_LENGTH:
        try:
            return Version.parse(text)
        except (ValueError, TypeError):
            pass
    raise InvalidInput(f"{text[:80]!r} is not a semantic version such as 1.4.0", code="version")


@lru_cache(maxsize=512)
def parse_range(text: str) -> Range:
    """The range that `text` spells.

    Raises:
        InvalidInput: it spells none; empty text, `v1` without operator and wildcards are fine, words are not.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidInput(f"the version range is longer than {MAX_LENGTH} characters", code="version_range")
    alternatives = tuple(_alternative(part, text) for part in text.split("||"))
    if sum(len(bounds) for bounds in alternatives) > MAX_BOUNDS:
        raise InvalidInput(f"the version range has more than {MAX_BOUNDS} bounds", code="version_range")
    return Range(text, alternatives)


def _alternative(part: str, text: str) -> tuple[Bound, ...]:
    hyphen = _HYPHEN.fullmatch(part)
    if hyphen is not None:
        return (*_expand(">=", hyphen[1], text), *_expand("<=", hyphen[2], text))
    if not part.strip():
        if text.strip():
            raise _unreadable(text)
        return ()
    bounds: list[Bound] = []
    position = 0
    while position < len(part):
        term = _TERM.match(part, position)
        if term is None:
            raise _unreadable(text)
        bounds.extend(_expand(term["operator"] or "", term["version"], text))
        position = term.end()
        if position < len(part) and part[position - 1] not in " ,\t" and part[position] not in "<>=!^~ ":
            raise _unreadable(text)
    return tuple(bounds)


def _expand(operator: str, written: str, text: str) -> tuple[Bound, ...]:
    """The bounds that an operator before a possibly partial version stands for."""
    found = _PARTIAL.fullmatch(written)
    if found is None:
        raise _unreadable(text)
    numbers: list[int] = []
    for name in ("major", "minor", "patch"):
        given = found[name]
        if given is None or given in _WILD:
            break
        numbers.append(int(given))
    if not numbers:
        if operator in ("<", ">", "!="):
            raise _unreadable(text)
        return ()
    major, minor, patch = [*numbers, 0, 0][:3]
    low = Version(major, minor, patch, found["pre"])
    after = _after(numbers, len(numbers) - 1)
    whole = len(numbers) == 3
    if operator in (">=", "<"):
        return (Bound(operator, low),)
    if operator == ">":
        return (Bound(">", low) if whole else Bound(">=", after),)
    if operator == "<=":
        return (Bound("<=", low) if whole else Bound("<", after),)
    if operator == "!=":
        if not whole:
            raise _unreadable(text)
        return (Bound("!=", low),)
    if operator == "^":
        first = next((index for index, number in enumerate(numbers) if number), len(numbers) - 1)
        return (Bound(">=", low), Bound("<", _after(numbers, first)))
    if operator in ("~", "~>"):
        return (Bound(">=", low), Bound("<", _after(numbers, min(1, len(numbers) - 1))))
    return (Bound("==", low),) if whole else (Bound(">=", low), Bound("<", after))


def _after(numbers: list[int], index: int) -> Version:
    """The first version that differs from `numbers` at `index` or before it."""
    major, minor, patch = [*numbers[:index], numbers[index] + 1, 0, 0][:3]
    return Version(major, minor, patch)


def _all_admit(bounds: tuple[Bound, ...], version: Version) -> bool:
    if not all(bound.admits(version) for bound in bounds):
        return False
    if version.prerelease is None:
        return True
    return any(
        bound.version.prerelease is not None and bound.version.to_tuple()[:3] == version.to_tuple()[:3]
        for bound in bounds
    )


def _release(version: Version) -> Version:
    return Version(version.major, version.minor, version.patch)


def _next(version: Version) -> Version:
    return Version(version.major, version.minor, version.patch + 1)


def _unreadable(text: str) -> InvalidInput:
    return InvalidInput(
        f"{text[:80]!r} is not a version range such as >=2.0.0 <3.0.0, ^1.2, ~1.2.3 or *", code="version_range"
    )
