"""Formulas and constraints: column names, decimal numbers, `+ - * /`, parentheses; a constraint also one comparison.

Nothing else parses, so an expression can be computed here and rendered into SQL without a thought for what is in it.
"""

from __future__ import annotations

import datetime
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from typing import Any

from metacore.errors import InvalidInput

MAX_LENGTH = 1_000
MAX_TOKENS = 250
MAX_DEPTH = 30
PRECISION = 50
"""Digits of a computed value, well beyond numeric(18,4)."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<comparison>>=|<=|<>|!=|==|=|<|>)|(?P<symbol>[-+*/()]))"
)
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SPELLINGS = {"==": "=", "!=": "<>"}


@dataclass(frozen=True, slots=True)
class Number:
    value: Decimal


@dataclass(frozen=True, slots=True)
class Name:
    column: str


@dataclass(frozen=True, slots=True)
class Negated:
    operand: Operand


@dataclass(frozen=True, slots=True)
class Binary:
    """`symbol` is one of + - * /."""

    symbol: str
    left: Operand
    right: Operand


Operand = Number | Name | Negated | Binary


@dataclass(frozen=True, slots=True)
class Comparison:
    """`symbol` is one of = <> < <= > >=."""

    symbol: str
    left: Operand
    right: Operand


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression. `columns` holds the names in it."""

    text: str
    root: Operand | Comparison
    columns: frozenset[str]

    @property
    def is_comparison(self) -> bool:
        return isinstance(self.root, Comparison)

    def evaluate(self, row: Mapping[str, Any]) -> Decimal | bool | None:
        """The value for one row; a bool for a comparison.

        None where a column is missing, null or no number, for a division by zero and for a result that is no finite
        number: a constraint that gives None is not broken, as with CHECK in SQL. Two bare columns are compared as what
        they are, so dates can be, too.
        """
        if not isinstance(self.root, Comparison):
            return _compute(self.root, row)
        left, right = self.root.left, self.root.right
        if isinstance(left, Name) and isinstance(right, Name):
            return _compare(self.root.symbol, _natural(row.get(left.column)), _natural(row.get(right.column)))
        return _compare(self.root.symbol, _compute(left, row), _compute(right, row))

    def to_sql(self, quote: Callable[[str], str]) -> str:
        """The same as SQL, with `quote` around every column name; a division by zero gives NULL.

        Integers are divided as decimals, which `* 1.0` brings about in PostgreSQL and SQLite alike.
        """
        if isinstance(self.root, Comparison):
            return f"{_render(self.root.left, quote)} {self.root.symbol} {_render(self.root.right, quote)}"
        return _render(self.root, quote)


def parse_expression(text: str, columns: Collection[str], *, comparison: bool | None = None) -> Expression:
    """Parse `text`, which may name only `columns`. `comparison` true wants one comparison, false none, None either.

    Raises:
        InvalidInput: too long, too deep, a character or word that is not part of the grammar, an unknown column.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidInput(f"the expression is longer than {MAX_LENGTH} characters", code="expression")
    parser = _Parser(text, columns)
    root = parser.whole()
    if comparison is True and not isinstance(root, Comparison):
        raise InvalidInput("the expression must be a comparison, such as quantity >= 0", code="expression")
    if comparison is False and isinstance(root, Comparison):
        raise InvalidInput("a comparison is not allowed here, only arithmetic", code="expression")
    return Expression(text, root, frozenset(parser.used))


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    position = 0
    end = len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            place = position + len(text[position:]) - len(text[position:].lstrip())
            raise InvalidInput(f"{text[place]!r} at position {place + 1} is not allowed", code="expression")
        kind = found.lastgroup or ""
        yield kind, found[kind], found.start(kind)
        position = found.end()


class _Parser:
    """Recursive descent; each parenthesis and sign deepens it, so the depth is counted."""

    def __init__(self, text: str, columns: Collection[str]) -> None:
        self._columns = columns
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0
        self.used: set[str] = set()
        if not self._tokens:
            raise InvalidInput("the expression is empty", code="expression")
        if len(self._tokens) > MAX_TOKENS:
            raise InvalidInput(f"the expression has more than {MAX_TOKENS} parts", code="expression")

    def whole(self) -> Operand | Comparison:
        left = self._sum()
        symbol = self._take("comparison", None)
        root: Operand | Comparison = left
        if symbol is not None:
            root = Comparison(_SPELLINGS.get(symbol, symbol), left, self._sum())
        if self._next < len(self._tokens):
            raise self._unexpected()
        return root

    def _sum(self) -> Operand:
        left = self._product()
        while (symbol := self._take("symbol", "+-")) is not None:
            left = Binary(symbol, left, self._product())
        return left

    def _product(self) -> Operand:
        left = self._factor()
        while (symbol := self._take("symbol", "*/")) is not None:
            left = Binary(symbol, left, self._factor())
        return left

    def _factor(self) -> Operand:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidInput(f"the expression is nested deeper than {MAX_DEPTH} levels", code="expression")
        try:
            if (sign := self._take("symbol", "+-")) is not None:
                operand = self._factor()
                return Negated(operand) if sign == "-" else operand
            if self._take("symbol", "(") is not None:
                inner = self._sum()
                if self._take("symbol", ")") is None:
                    raise self._unexpected()
                return inner
            if (number := self._take("number", None)) is not None:
                return Number(Decimal(number))
            if (name := self._take("name", None)) is not None:
                if name not in self._columns:
                    raise InvalidInput(f"{name[:64]!r} is not a column that can be used here", code="expression")
                self.used.add(name)
                return Name(name)
            raise self._unexpected()
        finally:
            self._depth -= 1

    def _take(self, kind: str, symbols: str | None) -> str | None:
        if self._next == len(self._tokens):
            return None
        token_kind, text, _ = self._tokens[self._next]
        if token_kind != kind or (symbols is not None and text not in symbols):
            return None
        self._next += 1
        return text

    def _unexpected(self) -> InvalidInput:
        if self._next == len(self._tokens):
            return InvalidInput("the expression ends too early", code="expression")
        _, text, place = self._tokens[self._next]
        return InvalidInput(f"{text[:64]!r} at position {place + 1} is not allowed there", code="expression")


def _context() -> Context:
    return Context(prec=PRECISION, Emax=999, Emin=-999, traps=[])


def _compute(node: Operand, row: Mapping[str, Any]) -> Decimal | None:
    match node:
        case Number(value):
            return value
        case Name(column):
            return _decimal(row.get(column))
        case Negated(operand):
            inner = _compute(operand, row)
            return None if inner is None else _finite(_context().minus(inner))
        case Binary(symbol, left, right):
            first, second = _compute(left, row), _compute(right, row)
            if first is None or second is None:
                return None
            context = _context()
            if symbol == "/":
                return None if second == 0 else _finite(context.divide(first, second))
            steps = {"+": context.add, "-": context.subtract, "*": context.multiply}
            return _finite(steps[symbol](first, second))


def _finite(value: Decimal) -> Decimal | None:
    return value if value.is_finite() else None


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, Decimal):
        return _finite(value)
    if isinstance(value, int):
        return Decimal(value)
    if isinstance(value, float | str):
        try:
            return _finite(Decimal(repr(value) if isinstance(value, float) else value.strip()))
        except InvalidOperation:
            return None
    return None


def _natural(value: Any) -> Any:
    if isinstance(value, datetime.date | str):
        return value
    return _decimal(value)


def _compare(symbol: str, left: Any, right: Any) -> bool | None:
    if left is None or right is None:
        return None
    try:
        return _COMPARE[symbol](left, right)
    except TypeError:
        return None


def _render(node: Operand, quote: Callable[[str], str]) -> str:
    match node:
        case Number(value):
            return format(value, "f")
        case Name(column):
            return quote(column)
        case Negated(operand):
            return f"(- {_render(operand, quote)})"
        case Binary(symbol, left, right):
            first, second = _render(left, quote), _render(right, quote)
            if symbol == "/":
                return f"({first} * 1.0 / nullif({second}, 0))"
            return f"({first} {symbol} {second})"
