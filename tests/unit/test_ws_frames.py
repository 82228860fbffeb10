"""Frames as RFC 6455 wants them, and how much may wait for a client that does not read."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from uvicorn import Config
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from metacore.ws.connection import QUEUE_BYTES, QUEUE_MESSAGES
from metacore.ws.messages import Message
from metacore.ws.protocol import BroadcastProtocol


def parse(data: bytes) -> Frame:
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    steps = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)
    return cast(Frame, end.value.value)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 65_509, 65_510, 65_511, 200_000])
def test_a_frame_of_any_size_reads_back_as_its_text(size: int) -> None:
    message = Message("X", "a" * size)
    frame = parse(message.frame)
    assert frame.opcode is Opcode.TEXT
    assert frame.fin and not frame.rsv1
    assert bytes(frame.data) == message.text


def test_a_message_is_encoded_once() -> None:
    message = Message("X", {"a": 1})
    assert message.frame is message.frame
    assert message.text is message.text


class StuckTransport:
    """Takes everything and sends only what `sent` says."""

    def __init__(self) -> None:
        self.written = 0
        self.sent = 0
        self.frames = 0
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self.frames += 1

    def get_write_buffer_size(self) -> int:
        return self.written - self.sent

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


@pytest.fixture
async def stuck() -> tuple[BroadcastProtocol, StuckTransport]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        return None

    config = Config(app, log_config=None)
    config.load()
    protocol = BroadcastProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    transport = StuckTransport()
    protocol.connection_made(cast(asyncio.Transport, transport))
    return protocol, transport


async def test_the_queue_of_a_client_that_does_not_read_holds_1024(
    stuck: tuple[BroadcastProtocol, StuckTransport],
) -> None:
    protocol, transport = stuck
    message = Message("X", "small")
    # The first finds an empty buffer and is on its way; it is not waiting.
    assert protocol.push(message)
    assert all(protocol.push(message) for _ in range(QUEUE_MESSAGES))
    assert not protocol.push(message)
    assert transport.frames == 1 + QUEUE_MESSAGES


async def test_a_client_that_reads_a_little_gets_that_much_room_again(
    stuck: tuple[BroadcastProtocol, StuckTransport],
) -> None:
    protocol, transport = stuck
    message = Message("X", "small")
    while protocol.push(message):
        pass
    transport.sent += 11 * len(message.frame)
    taken = 0
    while protocol.push(message):
        taken += 1
    assert taken == 10


async def test_a_client_that_reads_everything_starts_afresh(stuck: tuple[BroadcastProtocol, StuckTransport]) -> None:
    protocol, transport = stuck
    message = Message("X", "small")
    for _ in range(3):
        while protocol.push(message):
            pass
        transport.sent = transport.written
    assert transport.frames == 3 * (1 + QUEUE_MESSAGES)


async def test_a_client_that_always_has_something_waiting_but_keeps_up_is_not_slow(
    stuck: tuple[BroadcastProtocol, StuckTransport],
) -> None:
    protocol, transport = stuck
    message = Message("X", "small")
    for _ in range(10 * QUEUE_MESSAGES):
        assert protocol.push(message)
        transport.sent = transport.written - 5 * len(message.frame) if transport.frames > 5 else 0


async def test_large_messages_are_bounded_by_bytes(stuck: tuple[BroadcastProtocol, StuckTransport]) -> None:
    protocol, transport = stuck
    message = Message("X", "y" * (QUEUE_BYTES // 4))
    taken = 0
    while protocol.push(message):
        taken += 1
    assert taken == 4
    assert transport.get_write_buffer_size() < 2 * QUEUE_BYTES


@pytest.mark.parametrize("why", ["close_sent", "closing"])
async def test_nothing_is_written_to_a_connection_that_closes(
    stuck: tuple[BroadcastProtocol, StuckTransport], why: str
) -> None:
    protocol, transport = stuck
    if why == "closing":
        transport.closing = True
    else:
        protocol.close_sent = True
    assert protocol.push(Message("X", 1))
    assert transport.frames == 0
