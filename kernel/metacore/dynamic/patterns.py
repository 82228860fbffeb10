"""Regular expressions of manifests and tenants, matched in time that grows with the text's length and no faster.

Python's `re` backtracks: a pattern such as `(a+)+$` keeps it busy for minutes over thirty characters, and the whole
process with it. So a pattern is read by `re`'s own parser and run as a state machine, whose states are worked out as
they are met and kept (Thompson 1968; the lazy DFA of RE2). Lookarounds, back references, word boundaries and the like
have no such machine; a pattern with them runs on `re` if none of its repeats stands inside another, over short texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Protocol

MAX_PATTERN = 1_000
MAX_STATES = 600
MAX_KEPT = 4_096
"""Transitions kept per pattern; beyond that they are forgotten and worked out again."""

MAX_TEXT = 10_000
"""Characters that a pattern may look at; longer texts do not match."""

BACKTRACKING_TEXT = 256
"""The same for a pattern outside the state machine."""

MAX_BACKTRACKING_REPEATS = 2
WIDE = 16
"""A repeat with more than so many choices counts as unbounded."""

_TEXT_END = re.compile(r"(?<!\\)((?:\\\\)*)\\z")
_NAMED_GROUP = re.compile(r"(?<!\\)((?:\\\\)*)\(\?<(?=[A-Za-z_])")

_parser: Any = re._parser  # type: ignore[attr-defined]
_codes: Any = re._constants  # type: ignore[attr-defined]

Accepts = Callable[[str], bool]


class Pattern(Protocol):
    def search(self, text: str) -> bool:
        """Whether the pattern is found anywhere in `text`, as Go's MatchString and JavaScript's test do."""
        ...


class Unsupported(Exception):
    """The state machine has no way to say this."""


@lru_cache(maxsize=2_048)
def compile_pattern(text: str) -> Pattern | None:
    """A matcher for `text`; None when it is no regular expression or one that could take forever."""
    if len(text) > MAX_PATTERN:
        return None
    try:
        tree = _parser.parse(_in_python(text))
    except (re.error, RecursionError, OverflowError):
        return None
    try:
        return _Machine(tree)
    except Unsupported:
        repeats, nested = _repeats(tree, inside=False)
        if nested or repeats > MAX_BACKTRACKING_REPEATS:
            return None
        return _Backtracking(re.compile(_in_python(text)))


def _in_python(text: str) -> str:
    """Go and JavaScript spell two things otherwise: the end of the text and named groups."""
    return _NAMED_GROUP.sub(r"\1(?P<", _TEXT_END.sub(r"\1\\Z", text))


class _Backtracking:
    def __init__(self, compiled: re.Pattern[str]) -> None:
        self._compiled = compiled

    def search(self, text: str) -> bool:
        return len(text) <= BACKTRACKING_TEXT and self._compiled.search(text) is not None


class _Node:
    """A state. With `accepts` it consumes one character; `anchor` is '' or where the text must be: start, end, last."""

    __slots__ = ("accepts", "anchor", "number", "out")

    def __init__(self, number: int, accepts: Accepts | None = None, anchor: str = "") -> None:
        self.number = number
        self.accepts = accepts
        self.anchor = anchor
        self.out: list[_Node] = []


class _Machine:
    """States from the parse tree, and transitions between sets of them by character, as they turn up."""

    def __init__(self, tree: Any) -> None:
        self._count = 0
        self._flags = tree.state.flags
        self._final = self._node()
        self._start = self._sequence(tree, self._final)
        self._moves: dict[tuple[frozenset[_Node], str], frozenset[_Node]] = {}

    def search(self, text: str) -> bool:
        length = len(text)
        if length > MAX_TEXT:
            return False
        # A line end as the last character: `$` holds before it, too, as in Python and Perl.
        last = length - 1 if text.endswith("\n") else length
        states = self._closure([self._start], at_start=True, at_end=length == 0, at_last=last == 0)
        for index, character in enumerate(text, 1):
            if self._final in states:
                return True
            near_end = index >= last
            key = (states, character)
            following = None if near_end else self._moves.get(key)
            if following is None:
                reached = [node for state in states if state.accepts and state.accepts(character) for node in state.out]
                reached.append(self._start)
                following = self._closure(reached, at_start=False, at_end=index == length, at_last=near_end)
                if not near_end:
                    if len(self._moves) >= MAX_KEPT:
                        self._moves.clear()
                    self._moves[key] = following
            states = following
        return self._final in states

    def _closure(self, nodes: Iterable[_Node], *, at_start: bool, at_end: bool, at_last: bool) -> frozenset[_Node]:
        """Everything that can be reached without a character. Only consuming states and the final one are kept."""
        holds = {"": True, "start": at_start, "end": at_end, "last": at_last}
        seen: set[_Node] = set()
        pending = list(nodes)
        kept: set[_Node] = set()
        while pending:
            node = pending.pop()
            if node in seen or not holds[node.anchor]:
                continue
            seen.add(node)
            if node.accepts is not None or node is self._final:
                kept.add(node)
            else:
                pending.extend(node.out)
        return frozenset(kept)

    def _node(self, accepts: Accepts | None = None, anchor: str = "") -> _Node:
        self._count += 1
        if self._count > MAX_STATES:
            raise Unsupported
        return _Node(self._count, accepts, anchor)

    def _sequence(self, items: Any, following: _Node) -> _Node:
        for operation, argument in reversed(list(items)):
            following = self._one(operation, argument, following)
        return following

    def _one(self, operation: Any, argument: Any, following: _Node) -> _Node:
        if operation is _codes.SUBPATTERN:
            _group, added, removed, inner = argument
            if added or removed:
                raise Unsupported
            return self._sequence(inner, following)
        if operation is _codes.BRANCH:
            fork = self._node()
            fork.out = [self._sequence(branch, following) for branch in argument[1]]
            return fork
        if operation in (_codes.MAX_REPEAT, _codes.MIN_REPEAT):
            low, high, inner = argument
            return self._repeat(low, high, inner, following)
        if operation is _codes.AT:
            anchor = {
                _codes.AT_BEGINNING: "start",
                _codes.AT_BEGINNING_STRING: "start",
                _codes.AT_END: "last",
                _codes.AT_END_STRING: "end",
            }.get(argument)
            if anchor is None or self._flags & re.MULTILINE:
                raise Unsupported
            node = self._node(anchor=anchor)
        else:
            node = self._node(_accepting(operation, argument, self._flags))
        node.out = [following]
        return node

    def _repeat(self, low: int, high: int, inner: Any, following: _Node) -> _Node:
        if high == _codes.MAXREPEAT:
            loop = self._node()
            loop.out = [self._sequence(inner, loop), following]
            entry = loop
        else:
            if high > MAX_STATES:
                raise Unsupported
            entry = following
            for _ in range(high - low):
                optional = self._node()
                optional.out = [self._sequence(inner, entry), following]
                entry = optional
        if low > MAX_STATES:
            raise Unsupported
        for _ in range(low):
            entry = self._sequence(inner, entry)
        return entry


def _accepting(operation: Any, argument: Any, flags: int) -> Accepts:
    """A test of one character."""
    ignore_case = bool(flags & re.IGNORECASE)
    if operation is _codes.ANY:
        return (lambda _: True) if flags & re.DOTALL else (lambda character: character != "\n")
    if operation is _codes.LITERAL:
        return _either_case(chr(argument).__eq__, ignore_case)
    if operation is _codes.NOT_LITERAL:
        same = _either_case(chr(argument).__eq__, ignore_case)
        return lambda character: not same(character)
    if operation is _codes.IN:
        negated = bool(argument) and argument[0][0] is _codes.NEGATE
        tests = [_member(code, value, flags) for code, value in argument[1 if negated else 0 :]]
        found = _either_case(lambda character: any(test(character) for test in tests), ignore_case)
        return (lambda character: not found(character)) if negated else found
    raise Unsupported


def _member(operation: Any, argument: Any, flags: int) -> Accepts:
    if operation is _codes.LITERAL:
        return chr(argument).__eq__
    if operation is _codes.RANGE:
        low, high = chr(argument[0]), chr(argument[1])
        return lambda character: low <= character <= high
    if operation is _codes.CATEGORY:
        word = {
            _codes.CATEGORY_DIGIT: r"\d",
            _codes.CATEGORY_NOT_DIGIT: r"\D",
            _codes.CATEGORY_SPACE: r"\s",
            _codes.CATEGORY_NOT_SPACE: r"\S",
            _codes.CATEGORY_WORD: r"\w",
            _codes.CATEGORY_NOT_WORD: r"\W",
        }.get(argument)
        if word is not None:
            single = re.compile(word, flags & re.ASCII)
            return lambda character: single.match(character) is not None
    raise Unsupported


def _either_case(test: Callable[[str], Any], ignore_case: bool) -> Accepts:
    if not ignore_case:
        return lambda character: test(character) is True
    return lambda character: any(test(form) is True for form in {character, character.lower(), character.upper()})


def _repeats(items: Any, *, inside: bool) -> tuple[int, bool]:
    """How many wide repeats can multiply each other's work, and whether one stands inside another.

    Of lookarounds only the costliest counts: each is left for good once it was decided.
    """
    count, aside, nested = 0, 0, False
    for operation, argument in items:
        wide = operation in (_codes.MAX_REPEAT, _codes.MIN_REPEAT) and argument[1] - argument[0] > WIDE
        count += wide
        nested |= wide and inside
        for part in _parts(operation, argument):
            inner_count, inner_nested = _repeats(part, inside=inside or wide)
            nested |= inner_nested
            if operation in (_codes.ASSERT, _codes.ASSERT_NOT):
                aside = max(aside, inner_count)
            else:
                count += inner_count
    return count + aside, nested


def _parts(operation: Any, argument: Any) -> list[Any]:
    if operation is _codes.BRANCH:
        return list(argument[1])
    if operation in (_codes.MAX_REPEAT, _codes.MIN_REPEAT, _codes.POSSESSIVE_REPEAT):
        return [argument[2]]
    if operation is _codes.SUBPATTERN:
        return [argument[3]]
    if operation in (_codes.ASSERT, _codes.ASSERT_NOT):
        return [argument[1]]
    if operation is _codes.ATOMIC_GROUP:
        return [argument]
    if operation is _codes.GROUPREF_EXISTS:
        return [part for part in argument[1:] if part is not None]
    return []
