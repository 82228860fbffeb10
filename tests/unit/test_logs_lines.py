"""What a log line holds, in both formats, whoever wrote it, and what never stands in one."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from metacore import logs


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def json_stream(level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.configure("json", level, stream)
    return stream


def test_a_json_line_holds_event_fields_level_logger_and_time() -> None:
    stream = json_stream()
    logs.get_logger("metacore.addons").warning("addon.quarantined", addon="shop", tries=3)
    (line,) = lines_of(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "warn",
        "logger": "metacore.addons",
        "event": "addon.quarantined",
        "addon": "shop",
        "tries": 3,
    }


def test_every_line_of_a_request_carries_its_id() -> None:
    stream = json_stream()
    token = logs.request_id.set("req-1")
    try:
        logs.get_logger("metacore.x").info("ours")
        logging.getLogger("foreign").warning("theirs %d", 7)
    finally:
        logs.request_id.reset(token)
    logging.getLogger("foreign").warning("after")
    ours, theirs, after = lines_of(stream)
    assert ours["request_id"] == theirs["request_id"] == "req-1"
    assert theirs["event"] == "theirs 7"
    assert "request_id" not in after


def test_uvicorn_writes_through_the_same_pipeline_and_its_tokens_are_redacted() -> None:
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.addHandler(logging.StreamHandler(io.StringIO()))
    stream = json_stream()
    uvicorn.info('%s - "WebSocket %s" [accepted]', "1.2.3.4", "/ws?channel=a&token=s3cret.jwt")
    assert uvicorn.handlers == []
    (line,) = lines_of(stream)
    assert line["event"] == '1.2.3.4 - "WebSocket /ws?channel=a&token=[redacted]" [accepted]'


def test_levels_below_the_configured_one_are_not_written() -> None:
    stream = json_stream("warning")
    logs.get_logger("metacore.x").info("quiet")
    logging.getLogger("foreign").info("quiet")
    assert stream.getvalue() == ""


def test_warnings_become_lines() -> None:
    stream = json_stream()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old habit", UserWarning, stacklevel=1)
    assert lines_of(stream)[0]["logger"] == "py.warnings"


def test_an_exception_is_one_json_line_with_its_traceback() -> None:
    stream = json_stream()
    try:
        raise ValueError("broken")
    except ValueError:
        logs.get_logger("metacore.x").exception("step.failed", step="ddl")
    (line,) = lines_of(stream)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: broken")
    assert line["step"] == "ddl"


def test_console_lines_are_text_without_colours_in_a_file() -> None:
    stream = io.StringIO()
    logs.configure("console", "info", stream)
    logs.get_logger("metacore.x").info("addon.loaded", addon="shop", password="hunter2")
    text = stream.getvalue()
    assert "addon.loaded" in text and "addon=shop" in text
    assert "\x1b" not in text and "hunter2" not in text


@pytest.mark.parametrize(
    "key",
    ["password", "refresh_token", "jwt_secrets", "Authorization", "master_key", "api_key", "cookie", "signature"],
)
def test_values_under_secret_keys_are_redacted_at_any_depth(key: str) -> None:
    stream = json_stream()
    logs.get_logger("metacore.x").info("event", **{key: "hunter2"}, nested={"list": [{key: ["hunter2"]}]})
    assert "hunter2" not in stream.getvalue()
    (line,) = lines_of(stream)
    assert line[key] == logs.REDACTED
    assert line["nested"]["list"][0][key] == logs.REDACTED


def test_ordinary_keys_stay_readable() -> None:
    value = {"key": "shop", "addon_key": "shop", "digest": "ab", "token_epoch": 3, "secret": ""}
    assert logs.redact(value) == value


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("GET /ws?token=abc&x=1", "GET /ws?token=[redacted]&x=1"),
        ("postgresql://kernel:p@ss@db:5432/metacore", "postgresql://kernel:[redacted]@db:5432/metacore"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer [redacted]"),
        ("bad token eyJhbGciOi.eyJzdWIi.c2ln given", "bad token [redacted] given"),
        ("https://example.com:8000/a@b", "https://example.com:8000/a@b"),
    ],
)
def test_secrets_inside_texts_are_redacted(text: str, scrubbed: str) -> None:
    assert logs.scrub(text) == scrubbed


def test_secrets_in_a_traceback_are_redacted() -> None:
    stream = json_stream()
    try:
        raise OSError("cannot reach postgresql://kernel:hunter2@db/metacore")
    except OSError:
        logs.get_logger("metacore.x").exception("database.lost")
    assert "hunter2" not in stream.getvalue()


def test_a_field_named_like_a_record_attribute_cannot_break_logging() -> None:
    stream = json_stream()
    logs.get_logger("metacore.x").info("event", name="tickets", args=1, message="m")
    (line,) = lines_of(stream)
    assert (line["name_"], line["args_"], line["message_"]) == ("tickets", 1, "m")


def test_text_that_is_no_unicode_cannot_break_logging() -> None:
    stream = json_stream()
    logs.get_logger("metacore.x").info("event", text="\ud800", big=2**70)
    assert lines_of(stream)[0]["big"] == 2**70


def test_configuring_twice_writes_each_line_once() -> None:
    first, second = json_stream(), json_stream()
    logs.get_logger("metacore.x").info("event")
    assert first.getvalue() == ""
    assert len(lines_of(second)) == 1


def test_without_configuration_a_host_gets_ordinary_records() -> None:
    records: list[logging.LogRecord] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger = logging.getLogger("metacore.embedded")
    logger.addHandler(handler := Collect())
    try:
        logs.get_logger("metacore.embedded").warning("addon.loaded", addon="shop")
    finally:
        logger.removeHandler(handler)
    assert records[0].getMessage() == "addon.loaded"
    assert vars(records[0])["addon"] == "shop"


async def test_access_lines_are_written_together_and_at_the_latest_on_flush() -> None:
    stream = io.StringIO()
    access = logs.configure("json", "info", stream)
    access.record("GET", "/api/dynamic/{model}", "/api/dynamic/tickets", 200, 1.2345, "req-1")
    access.record("GET", "", "/nowhere", 404, 0.5, "req-2")
    assert stream.getvalue() == ""
    access.flush()
    first, second = lines_of(stream)
    assert first.pop("timestamp")
    assert first == {
        "level": "info",
        "logger": "metacore.access",
        "event": "request",
        "method": "GET",
        "route": "/api/dynamic/{model}",
        "status": 200,
        "ms": 1.23,
        "request_id": "req-1",
    }
    assert second["path"] == "/nowhere"


async def test_access_lines_do_not_pile_up() -> None:
    stream = io.StringIO()
    access = logs.BatchedAccessLog("json", stream)
    for number in range(access.MAX_WAITING):
        access.record("GET", "/x", "/x", 200, 1.0, str(number))
    assert len(lines_of(stream)) == access.MAX_WAITING


async def test_access_lines_obey_the_level() -> None:
    stream = io.StringIO()
    access = logs.configure("json", "warning", stream)
    access.record("GET", "/x", "/x", 200, 1.0, "1")
    access.flush()
    assert stream.getvalue() == ""


async def test_a_closed_log_does_not_stop_requests() -> None:
    stream = io.StringIO()
    access = logs.BatchedAccessLog("console", stream)
    access.record("GET", "/x", "/x", 200, 1.0, "1")
    stream.close()
    access.flush()


def test_a_host_gets_access_lines_as_records(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=logs.ACCESS_LOGGER):
        logs.LoggerAccessLog().record("POST", "/x/{id}", "/x/1", 201, 3.0, "req-9")
    fields = vars(caplog.records[0])
    assert (fields["route"], fields["status"], fields["request_id"]) == ("/x/{id}", 201, "req-9")
