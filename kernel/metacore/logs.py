"""Structured logs: one line an event, JSON for machines or text for people, with the id of the request in each.

`configure` sends the whole process through one pipeline: our own loggers, uvicorn's and every other one of the standard
library. An embedding host does not call it: then `get_logger` writes ordinary records, fields as `extra`, and the
host's own handlers decide. Nothing secret is written: values under keys that look secret, tokens in URLs, passwords in
database URLs, bearer tokens and JWTs anywhere in a line, tracebacks included, become `[redacted]`.
"""

from __future__ import annotations

import asyncio
import atexit
import datetime
import json
import logging
import re
import sys
import time
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Final, Literal, Protocol, TextIO, cast

import orjson
import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["console", "json"]

REDACTED: Final = "[redacted]"
ACCESS_LOGGER: Final = "metacore.access"
QUIET_LOGGERS: Final = ("uvicorn.access", "watchfiles", "asyncio", "httpcore2")
"""Loggers heard from warnings on: requests have our own access line, the others tell what nobody asked, or headers."""

LEVELS: Final = {"WARNING": "warn"}
"""Names of levels in lines, where they are not Python's (contract 11: `level=warn`)."""

request_id: ContextVar[str] = ContextVar("metacore_request_id", default="")

_SECRET_KEY = re.compile(
    r"(pass(word|wd|phrase)?|secrets?|token|authorization|cookie|signature|credentials?|jwt"
    r"|(api|private|master|signing)_?key)$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"""(?P<query>[?&](?:access_|refresh_)?token=)[^&\s"'\\#\x1b]+"""
    r"""|(?P<url>\b[a-z][a-z0-9+.-]*://[^\s:/@"'\\]*:)[^\s/"'\\]+(?=@)"""
    r"""|(?P<bearer>\bbearer\s+)[A-Za-z0-9._~+/=-]+"""
    r"""|\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*""",
    re.IGNORECASE,
)
_RESERVED = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime"}
_MAX_DEPTH = 6


def get_logger(name: str) -> BoundLogger:
    """A logger of structured events: `log.info("addon.loaded", addon="shop", digest=digest)`."""
    return cast(
        BoundLogger,
        structlog.wrap_logger(
            logging.getLogger(name),
            processors=[structlog.stdlib.filter_by_level, _as_record],
            wrapper_class=BoundLogger,
            cache_logger_on_first_use=True,
        ),
    )


def configure(log_format: LogFormat, level: str, stream: TextIO | None = None) -> BatchedAccessLog:
    """Send every logger of this process to `stream` (stdout by default) and give the access log that goes with it.

    uvicorn must be told to leave logging alone (`log_config=None`). Calling it again replaces what it set up before.
    """
    target = stream if stream is not None else sys.stdout
    handler = logging.StreamHandler(target)
    handler.setFormatter(LineFormatter(log_format, colors=target.isatty()))
    handler.set_name("metacore")
    root = logging.getLogger()
    root.handlers = [known for known in root.handlers if known.get_name() != "metacore"] + [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    access = BatchedAccessLog(log_format, target, enabled=root.isEnabledFor(logging.INFO))
    atexit.register(access.flush)
    return access


def scrub(text: str) -> str:
    """`text` without what looks like a secret: see the module's docstring."""
    return _SECRET_TEXT.sub(_replacement, text)


def redact(value: Any, depth: int = 0) -> Any:
    """`value` with everything under a secret-looking key replaced; containers are copied, never changed."""
    if depth >= _MAX_DEPTH:
        return value
    if isinstance(value, Mapping):
        return {
            key: REDACTED if isinstance(key, str) and _SECRET_KEY.search(key) and item else redact(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item, depth + 1) for item in value]
    return value


class LineFormatter(ProcessorFormatter):
    """Turns any log record into one line (a traceback in console format takes more)."""

    def __init__(self, log_format: LogFormat, *, colors: bool = False) -> None:
        renderer: Processor
        if log_format == "json":
            renderer = structlog.processors.JSONRenderer(serializer=_json)
            exceptions: list[Processor] = [structlog.processors.format_exc_info]
        else:
            renderer = structlog.dev.ConsoleRenderer(
                colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
            )
            exceptions = []
        super().__init__(
            foreign_pre_chain=[_fields_of_record],
            processors=[ProcessorFormatter.remove_processors_meta, *exceptions, _redact_fields, renderer],
        )

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))


class AccessLog(Protocol):
    """Takes one answered request. `route` is the template, '' when none matched; then `path` tells what was asked."""

    def record(self, method: str, route: str, path: str, status: int, milliseconds: float, request: str) -> None: ...


class LoggerAccessLog:
    """Through the logger `metacore.access`: for hosts that have handlers of their own."""

    def __init__(self) -> None:
        self._logger = logging.getLogger(ACCESS_LOGGER)

    def record(self, method: str, route: str, path: str, status: int, milliseconds: float, request: str) -> None:
        if self._logger.isEnabledFor(logging.INFO):
            fields = _access_fields(method, route, path, status, milliseconds, request)
            self._logger.info("request", extra=fields)


class BatchedAccessLog:
    """Straight to the stream, many lines a write: a tenth of what a record through `logging` costs.

    Lines wait 50 ms at most. Only the event loop's thread may call it.
    """

    DELAY_SECONDS: Final = 0.05
    MAX_WAITING: Final = 1024

    def __init__(self, log_format: LogFormat, stream: TextIO, *, enabled: bool = True) -> None:
        self._json = log_format == "json"
        self._stream = stream
        self._enabled = enabled
        self._waiting: list[tuple[float, str, str, str, int, float, str]] = []

    def record(self, method: str, route: str, path: str, status: int, milliseconds: float, request: str) -> None:
        if not self._enabled:
            return
        waiting = self._waiting
        if not waiting:
            asyncio.get_running_loop().call_later(self.DELAY_SECONDS, self.flush)
        waiting.append((time.time(), method, route, path, status, milliseconds, request))
        if len(waiting) >= self.MAX_WAITING:
            self.flush()

    def flush(self) -> None:
        """Write what waits. Also called at exit."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        render = self._json_line if self._json else self._console_line
        try:
            self._stream.write("".join([render(*entry) for entry in waiting]))
            self._stream.flush()
        except (OSError, ValueError):
            # Whoever read the log is gone; serving goes on, as with the handlers of the standard library.
            return

    @staticmethod
    def _json_line(
        at: float, method: str, route: str, path: str, status: int, milliseconds: float, request: str
    ) -> str:
        fields = _access_fields(method, route, path, status, milliseconds, request)
        return (
            _json({"timestamp": _timestamp(at), "level": "info", "logger": ACCESS_LOGGER, "event": "request", **fields})
            + "\n"
        )

    @staticmethod
    def _console_line(
        at: float, method: str, route: str, path: str, status: int, milliseconds: float, request: str
    ) -> str:
        return f"{_timestamp(at)} [info     ] {method} {route or scrub(path)} {status} {milliseconds:.1f}ms {request}\n"


def _access_fields(
    method: str, route: str, path: str, status: int, milliseconds: float, request: str
) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "method": method,
        "route": route,
        "status": status,
        "ms": round(milliseconds, 2),
        "request_id": request,
    }
    if not route:
        fields["path"] = scrub(path)
    return fields


def _as_record(
    _logger: WrappedLogger, _method: str, event_dict: EventDict
) -> tuple[tuple[str], MutableMapping[str, Any]]:
    """Structlog's fields as arguments of the standard library: the event is the message, the rest `extra`."""
    message = str(event_dict.pop("event", ""))
    named = {key: event_dict.pop(key) for key in ("exc_info", "stack_info", "stacklevel") if key in event_dict}
    extra = {f"{key}_" if key in _RESERVED else key: value for key, value in event_dict.items()}
    return (message,), {**named, "extra": extra}


def _fields_of_record(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    record: logging.LogRecord = event_dict["_record"]
    fields: dict[str, Any] = {
        "timestamp": _timestamp(record.created),
        "level": LEVELS.get(record.levelname, record.levelname.lower()),
        "logger": record.name,
        "event": event_dict["event"],
    }
    identifier = request_id.get()
    if identifier:
        fields["request_id"] = identifier
    fields.update((key, value) for key, value in record.__dict__.items() if key not in _RESERVED and key[0] != "_")
    # uvicorn repeats its message with terminal colours under this key.
    fields.pop("color_message", None)
    return {**fields, **event_dict}


def _redact_fields(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    return cast(EventDict, redact(event_dict))


def _replacement(match: re.Match[str]) -> str:
    return (match["query"] or match["url"] or match["bearer"] or "") + REDACTED


def _timestamp(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def _json(value: Any, **_options: Any) -> str:
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z).decode()
    except TypeError:
        # Lone surrogates and integers beyond 64 bits: a log line must never fail the code that wrote it.
        return json.dumps(value, default=str, skipkeys=True)
