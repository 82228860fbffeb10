"""Creating many rows from one file, each through the normal path of a create (contract 6)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from metacore.dynamic.fair_slots import FairSlots
from metacore.dynamic.import_files import ImportLimits, read_table
from metacore.dynamic.import_values import match_headers, values_of
from metacore.dynamic.rules import rules_of
from metacore.dynamic.shape import ModelShape, shape_of
from metacore.dynamic.validation import Custom, CustomValidator, check_create
from metacore.errors import InvalidInput, MetacoreError, Problem, Refused
from metacore.identity import Principal
from metacore.metadata.validators import ValidatorSource
from metacore.permissions.service import PermissionService
from metacore.registry import LiveModel, Registry

logger = logging.getLogger(__name__)

CONCURRENT_ROWS = 8
"""Creates under way at once: they share statements, and an import must not take every connection."""
PARSED_AT_ONCE = 2
"""Files of one process: a thread that parses leaves little of the interpreter to others, and takes much memory."""
CONCURRENT_IMPORTS = 8
"""Of one process, whose files are parsed or about to be: their rows are kept until the last one is created."""
RECEIVED_AT_ONCE = 8
"""Files of one process that come or have not been parsed yet. Each is on the disk until then."""
IMPORTS_OF_ONE_ORGANIZATION = 2
SLOT_WAIT_SECONDS = 10.0
"""How long an import waits for others; then its caller is told to come back."""
ROWS_PER_SLICE = 500
"""Rows that a thread checks before it looks for others who want to run."""
INTERNAL_ERROR = "internal error"

Read = Callable[[], bytes]


class Creator(Protocol):
    """What creates a row, with hooks and validation. It is called for callers who hold `<model>.import`, so it should
    ask for nothing else: a `DynamicService` without permissions does."""

    async def create(self, principal: Principal, name: str, values: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True, slots=True)
class RowResult:
    """`row` counts data rows from 1; `error` is '' for a good row. `input` never holds what may not be read back."""

    row: int
    input: dict[str, Any]
    error: str = ""
    problems: tuple[Problem, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """`{row, error, input, errors?}`."""
        shown: dict[str, Any] = {"row": self.row, "error": self.error, "input": self.input}
        if self.problems:
            shown["errors"] = [problem.as_json() for problem in self.problems]
        return shown


@dataclass(frozen=True, slots=True)
class ImportReport:
    """One result per row, in order. `ignored` are headers of the file that name no column to be filled."""

    rows: tuple[RowResult, ...]
    ignored: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[RowResult, ...]:
        return tuple(row for row in self.rows if row.error)

    def imported_json(self) -> dict[str, Any]:
        """`{created, failed, failures, ignored}`."""
        failed = [row.as_json() for row in self.failures]
        return {
            "created": len(self.rows) - len(failed),
            "failed": len(failed),
            "failures": failed,
            "ignored": list(self.ignored),
        }

    def validated_json(self) -> dict[str, Any]:
        """`{total, valid, invalid, rows, ignored}`; a good row is `{row, valid}`."""
        failed = len(self.failures)
        return {
            "total": len(self.rows),
            "valid": len(self.rows) - failed,
            "invalid": failed,
            "rows": [
                {"row": row.row, "valid": True} if not row.error else {**row.as_json(), "valid": False}
                for row in self.rows
            ],
            "ignored": list(self.ignored),
        }


@dataclass(frozen=True, slots=True)
class _Prepared:
    number: int
    values: dict[str, Any]
    problem: str = ""


class Import:
    """One import into one model that was let in. `read` gives the file's content; it is called once, from a thread, as
    soon as the file may be parsed.
    """

    def __init__(self, service: ImportService, principal: Principal, shape: ModelShape) -> None:
        self._service = service
        self._principal = principal
        self._shape = shape

    async def run(self, read: Read, filename: str) -> ImportReport:
        """Create a row for each row of the file; a row that fails does not keep the others from being created.

        Raises:
            InvalidInput, PayloadTooLarge: the file as a whole cannot be read, or none of its headers is a column.
            TooManyRequests: others are parsed and do not end in time; nothing was created.
        """
        return await self._service._run(self._principal, self._shape, read, filename)

    async def validate(self, read: Read, filename: str) -> ImportReport:
        """What `run` would refuse because of the values alone: nothing is written and no hook runs.

        Raises as `run` does.
        """
        return await self._service._validate(self._principal, self._shape, read, filename)


class ImportService:
    """Imports into live models. `validators` and `custom_validators` are those of the dynamic service."""

    def __init__(
        self,
        creator: Creator,
        registry: Registry,
        *,
        permissions: PermissionService | None = None,
        validators: ValidatorSource | None = None,
        custom_validators: Mapping[str, CustomValidator] | None = None,
        limits: ImportLimits | None = None,
        slot_wait_seconds: float = SLOT_WAIT_SECONDS,
    ) -> None:
        self._creator = creator
        self._registry = registry
        self._permissions = permissions
        self._validators = validators
        # Not a copy: a host may register more of them later.
        self._custom_validators = custom_validators if custom_validators is not None else {}
        self.limits = limits or ImportLimits()
        waiting: dict[str, Any] = {"wait_seconds": slot_wait_seconds, "what": "imports", "code": "imports_busy"}
        self._receiving = FairSlots(RECEIVED_AT_ONCE, IMPORTS_OF_ONE_ORGANIZATION, **waiting)
        self._running = FairSlots(CONCURRENT_IMPORTS, IMPORTS_OF_ONE_ORGANIZATION, **waiting)
        self._parsing = FairSlots(PARSED_AT_ONCE, 1, **waiting)

    @asynccontextmanager
    async def receiving(self, principal: Principal, name: str) -> AsyncIterator[Callable[[], None]]:
        """The caller's turn to send a file, while the block runs or until what it gets is called, since the file is on
        the disk no more. Routes enter it before they read a body, and are admitted when it has come: one that trickles
        in keeps nobody's rows from being created.

        Raises:
            NotFound, PermissionDenied, Refused: no such model, not the caller's to import, or it takes no imports.
            TooManyRequests: others send files and do not end in time.
        """
        await self.open(principal, name)
        async with self._receiving.of(principal.organization_id) as received:
            yield received

    @asynccontextmanager
    async def admitted(self, principal: Principal, name: str) -> AsyncIterator[Import]:
        """An import of the caller's, which holds its slot while the block runs.

        Raises:
            NotFound, PermissionDenied, Refused: no such model, not the caller's to import, or it takes no imports.
            TooManyRequests: others import and do not end in time.
        """
        shape = await self.open(principal, name)
        async with self._running.of(principal.organization_id):
            yield Import(self, principal, shape)

    async def run(self, principal: Principal, name: str, content: bytes, filename: str) -> ImportReport:
        """`Import.run` of one that is admitted. Raises as both do."""
        async with self.admitted(principal, name) as one:
            return await one.run(lambda: content, filename)

    async def validate(self, principal: Principal, name: str, content: bytes, filename: str) -> ImportReport:
        """`Import.validate` of one that is admitted. Raises as both do."""
        async with self.admitted(principal, name) as one:
            return await one.validate(lambda: content, filename)

    async def _run(self, principal: Principal, shape: ModelShape, read: Read, filename: str) -> ImportReport:
        prepared, ignored = await self._prepared(principal, shape, read, filename)
        results: list[RowResult | None] = [None] * len(prepared)
        waiting = iter(enumerate(prepared))

        async def work() -> None:
            for index, row in waiting:
                results[index] = await self._create(principal, shape, row)

        await asyncio.gather(*(work() for _ in range(min(CONCURRENT_ROWS, len(prepared)))))
        return ImportReport(tuple(result for result in results if result is not None), ignored)

    async def _validate(self, principal: Principal, shape: ModelShape, read: Read, filename: str) -> ImportReport:
        prepared, ignored = await self._prepared(principal, shape, read, filename)
        organization: Mapping[str, Any] = {}
        if rules_of(shape).organization_columns and self._validators is not None:
            organization = await self._validators(principal.organization_id)
        custom = Custom(self._custom_validators, organization)
        results: list[RowResult] = []
        waiting = iter(prepared)
        while part := list(islice(waiting, ROWS_PER_SLICE)):
            results += await asyncio.to_thread(_checked, shape, part, custom)
        return ImportReport(tuple(results), ignored)

    async def open(self, principal: Principal, name: str) -> ModelShape:
        """The model, if the caller may import into it.

        Raises:
            NotFound, PermissionDenied, Refused.
        """
        model = self._registry.model_for(name, principal.organization_id)
        shape = shape_of(model)
        if self._permissions is not None:
            await self._permissions.require(principal, shape.capabilities["import"])
        if not _takes_imports(model):
            raise Refused(f"model {model.key!r} takes no imports", code="import_disabled")
        return shape

    async def _prepared(
        self, principal: Principal, shape: ModelShape, read: Read, filename: str
    ) -> tuple[list[_Prepared], tuple[str, ...]]:
        async with self._parsing.of(principal.organization_id):
            return await asyncio.to_thread(self._prepare, shape, read, filename)

    def _prepare(self, shape: ModelShape, read: Read, filename: str) -> tuple[list[_Prepared], tuple[str, ...]]:
        model = shape.model
        # Only here, and only as long as it is parsed, the file is in memory as a whole.
        table = read_table(read(), filename, self.limits)
        headers = match_headers(table.headers, model.definition, model.table, model.modal)
        if not headers.targets:
            known = ", ".join(column.name for column in model.definition.columns if column.name in shape.accepted)
            raise InvalidInput(f"no header names a column of {model.key!r}; there are {known}", code="unknown_headers")
        rows = [
            _Prepared(
                row.number,
                {
                    name: value
                    for name, value in values_of(row.values, headers, typed=table.typed).items()
                    if name in shape.accepted
                },
                row.problem,
            )
            for row in table.rows
        ]
        return rows, headers.ignored

    async def _create(self, principal: Principal, shape: ModelShape, row: _Prepared) -> RowResult:
        if row.problem:
            return _result(shape, row, row.problem)
        try:
            await self._creator.create(principal, shape.model.key, row.values)
        except MetacoreError as error:
            return _result(shape, row, error.message, error.problems)
        except Exception:
            # The rows before it are committed: the caller must learn which, so this one fails alone.
            logger.exception("import into %s: row %d failed", shape.model.key, row.number)
            return _result(shape, row, INTERNAL_ERROR)
        return _result(shape, row)


def _checked(shape: ModelShape, rows: Sequence[_Prepared], custom: Custom) -> list[RowResult]:
    return [_check(shape, row, custom) for row in rows]


def _check(shape: ModelShape, row: _Prepared, custom: Custom) -> RowResult:
    if row.problem:
        return _result(shape, row, row.problem)
    try:
        check_create(shape, row.values, custom)
    except MetacoreError as error:
        return _result(shape, row, error.message, error.problems)
    return _result(shape, row)


def _result(shape: ModelShape, row: _Prepared, error: str = "", problems: Sequence[Problem] = ()) -> RowResult:
    shown = {name: value for name, value in row.values.items() if name in shape.readable_names} if error else {}
    return RowResult(row.number, shown, error, tuple(problems))


def _takes_imports(model: LiveModel) -> bool:
    declared = model.definition.importable
    return declared.get("enabled", True) is not False if isinstance(declared, dict) else declared
