"""`make bench`: every hot path as a ratio to its yardstick, in one run of a few minutes."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from tests.bench import goals, suite
from tests.bench.report import Row, show, write_json

DEFAULT_ROWS = 20_000
DEFAULT_SECONDS = 2.0
FEWEST_ROWS = 2_000
INTERRUPTED = 130
PLAIN_WIDTH = 130


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


async def _interruptible(work: Coroutine[Any, Any, list[Row]]) -> list[Row]:
    """Ctrl-C and SIGTERM cancel `work`, which then stops and removes what it started."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=goals.GROUPS, metavar="NAME", help=", ".join(goals.GROUPS))
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS, help="of load per side of a comparison")
    parser.add_argument("--rows", type=int, default=DEFAULT_ROWS, help="of each of the two organizations")
    parser.add_argument("--fast", action="store_true", help="PostgreSQL does not wait for the disk")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there, too")
    arguments = parser.parse_args()
    if arguments.rows < FEWEST_ROWS or arguments.seconds <= 0:
        parser.error(f"at least {FEWEST_ROWS} rows and more than no seconds")
    groups = arguments.only or goals.GROUPS
    work = suite.run(groups, rows=arguments.rows, seconds=arguments.seconds, fast=arguments.fast, say=say)
    began = time.monotonic()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rows = runner.run(_interruptible(work))
    except asyncio.CancelledError:
        say("interrupted; everything is stopped and removed")
        return INTERRUPTED
    # A pipe has no width of its own.
    show(rows, Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH))
    print("\nRatios of one run on this machine; absolute figures say nothing about another one.")
    failed = sum(row.failed for row in rows)
    say(f"took {time.monotonic() - began:.0f} s" + (f"; {failed} requests failed" if failed else ""))
    if arguments.json:
        about = {
            "processors": os.cpu_count(),
            "python": platform.python_version(),
            "rows": arguments.rows,
            "seconds": arguments.seconds,
            "durable": not arguments.fast,
        }
        write_json(arguments.json, rows, about)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
