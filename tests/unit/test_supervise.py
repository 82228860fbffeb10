"""A supervised child: restarted when it ends, ended when asked, gone when its parent is."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from collections.abc import AsyncIterator

import pytest

from metacore.cli import supervise
from metacore.cli.supervise import Supervisor

ENVIRONMENT = {"PATH": os.environ["PATH"]}


class Pipe:
    """What children say. Its end is read only when no process holds the writing side any more."""

    def __init__(self, reader: asyncio.StreamReader, writer: int) -> None:
        self.reader = reader
        self.writer = writer

    async def line(self) -> str:
        async with asyncio.timeout(30):
            return (await self.reader.readline()).decode().strip()

    async def rest(self) -> str:
        """Everything until the last process that can write is gone."""
        os.close(self.writer)
        self.writer = -1
        async with asyncio.timeout(30):
            return (await self.reader.read()).decode()


@pytest.fixture
async def pipe() -> AsyncIterator[Pipe]:
    reading, writing = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb")
    )
    pipe = Pipe(reader, writing)
    yield pipe
    if pipe.writer >= 0:
        os.close(pipe.writer)
    transport.close()


def child(pipe: Pipe, code: str) -> list[str]:
    said = f"import os, signal, sys, time\ndef say(text): os.write({pipe.writer}, f'{{text}}\\n'.encode())\n"
    return [sys.executable, "-c", said + textwrap.dedent(code)]


async def test_a_child_that_ends_is_started_again_with_growing_delays(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "FIRST_DELAY", 0.001)
    stop = asyncio.Event()
    crashes: list[tuple[int, float]] = []

    def crashed(code: int, delay: float) -> None:
        crashes.append((code, delay))
        if len(crashes) == 3:
            stop.set()

    command = child(pipe, "say('run')\nsys.exit(7)")
    await Supervisor(command, environment=ENVIRONMENT, inherited=[pipe.writer], on_crash=crashed).run(stop)

    assert crashes == [(7, 0.001), (7, 0.002), (7, 0.004)]
    assert await pipe.rest() == "run\n" * 3


async def test_stopping_lets_the_child_finish_what_it_does(pipe: Pipe) -> None:
    command = child(
        pipe,
        """
        def end(*_):
            say("drained")
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        say("ready")
        while True:
            signal.pause()
        """,
    )
    supervisor = Supervisor(command, environment=ENVIRONMENT, inherited=[pipe.writer])
    stop = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    assert await pipe.line() == "ready"

    stop.set()
    await running

    assert await pipe.rest() == "drained\n"
    assert supervisor.process_id is None


async def test_a_child_that_does_not_listen_and_its_own_children_are_ended_by_force(pipe: Pipe) -> None:
    command = child(
        pipe,
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.fork()
        say("ready")
        while True:
            signal.pause()
        """,
    )
    supervisor = Supervisor(command, environment=ENVIRONMENT, inherited=[pipe.writer], stop_seconds=0.05)
    stop = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    assert [await pipe.line(), await pipe.line()] == ["ready", "ready"]

    stop.set()
    await running

    assert await pipe.rest() == ""


async def test_hurrying_does_not_wait_for_a_child_that_drains(pipe: Pipe) -> None:
    command = child(pipe, "signal.signal(signal.SIGTERM, lambda *_: say('asked'))\nsay('ready')\ntime.sleep(600)")
    supervisor = Supervisor(command, environment=ENVIRONMENT, inherited=[pipe.writer], stop_seconds=600)
    stop = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    assert await pipe.line() == "ready"
    stop.set()
    assert await pipe.line() == "asked"

    supervisor.hurry()
    await running

    assert await pipe.rest() == ""


async def test_the_child_gets_only_the_given_environment_and_descriptors(pipe: Pipe) -> None:
    other_reader, other_writer = os.pipe()
    os.set_inheritable(other_writer, True)
    stop = asyncio.Event()
    code = f"""
        say(sorted(os.environ.items()))
        try:
            os.fstat({other_writer})
            say("leaked")
        except OSError:
            say("closed")
    """
    try:
        await Supervisor(
            child(pipe, code),
            environment={"ONLY": "this"},
            inherited=[pipe.writer],
            on_crash=lambda _code, _delay: stop.set(),
        ).run(stop)
    finally:
        os.close(other_reader)
        os.close(other_writer)

    assert "('ONLY', 'this')" in (names := await pipe.line())
    assert "PATH" not in names
    assert await pipe.line() == "closed"


async def test_cancelling_leaves_no_child(pipe: Pipe) -> None:
    supervisor = Supervisor(
        child(pipe, "say('ready')\ntime.sleep(600)"), environment=ENVIRONMENT, inherited=[pipe.writer]
    )
    running = asyncio.create_task(supervisor.run(asyncio.Event()))
    assert await pipe.line() == "ready"

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert await pipe.rest() == ""


async def test_the_child_can_see_its_parent_go(pipe: Pipe) -> None:
    """Standard input ends with the parent, whatever ended it."""
    watcher = child(pipe, "say('ready')\nos.read(0, 1)\nsay('gone')")
    parent = f"""
import asyncio
from metacore.cli.supervise import Supervisor
asyncio.run(Supervisor({watcher!r}, environment={{}}, inherited=[{pipe.writer}]).run(asyncio.Event()))
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", parent, pass_fds=[pipe.writer])
    assert await pipe.line() == "ready"

    process.kill()
    await process.wait()

    assert await pipe.rest() == "gone\n"
