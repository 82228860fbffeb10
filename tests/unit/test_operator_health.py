"""The process counts as dead when one of its loops no longer comes round."""

from __future__ import annotations

import aiohttp
import pytest

from metacore.errors import Misconfigured
from metacore_operator.cluster.health import Beats, serving


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def asked(port: int) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/healthz") as response:
        return response.status, await response.text()


async def test_a_late_loop_is_named_and_its_next_beat_mends_it() -> None:
    clock = Clock()
    beats = Beats(clock)
    async with serving(beats, "127.0.0.1", 0) as port:
        assert await asked(port) == (200, "ok\n")
        beats.expect("lease", 10)
        beats.expect("pulse", 100)
        clock.now = 10
        assert await asked(port) == (200, "ok\n")
        clock.now = 11
        assert await asked(port) == (503, "late: lease: 11 s ago\n")
        beats.beat("lease")
        assert await asked(port) == (200, "ok\n")


async def test_an_address_that_is_taken_is_said() -> None:
    async with serving(Beats(), "127.0.0.1", 0) as port:
        with pytest.raises(Misconfigured, match=f"cannot listen on 127.0.0.1:{port}"):
            async with serving(Beats(), "127.0.0.1", port):
                pass
