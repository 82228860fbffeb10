"""The process counts as dead when one of its loops no longer comes round."""

from __future__ import annotations

import aiohttp
import pytest

from metacore.errors import Misconfigured
from metacore_operator.cluster.health import Beats, serving
from metacore_operator.metrics import CONTENT_TYPE, OperatorMetrics


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def asked(port: int, path: str = "healthz") -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/{path}") as response:
        assert path != "metrics" or response.headers["Content-Type"] == CONTENT_TYPE
        return response.status, await response.text()


async def test_a_late_loop_is_named_and_its_next_beat_mends_it() -> None:
    clock = Clock()
    beats = Beats(clock)
    async with serving(beats, OperatorMetrics(process=False), "127.0.0.1", 0) as port:
        assert await asked(port) == (200, "ok\n")
        beats.expect("lease", 10)
        beats.expect("pulse", 100)
        clock.now = 10
        assert await asked(port) == (200, "ok\n")
        clock.now = 11
        assert await asked(port) == (503, "late: lease: 11 s ago\n")
        beats.beat("lease")
        assert await asked(port) == (200, "ok\n")


async def test_what_is_lacking_makes_it_not_ready_though_it_lives() -> None:
    clock = Clock()
    beats = Beats(clock)
    async with serving(beats, OperatorMetrics(process=False), "127.0.0.1", 0) as port:
        assert await asked(port, "readyz") == (200, "ok\n")
        beats.lack("definition", "there is no definition")
        assert await asked(port, "readyz") == (503, "there is no definition\n")
        assert await asked(port) == (200, "ok\n")
        beats.expect("lease", 10)
        clock.now = 11
        assert await asked(port, "readyz") == (503, "late: lease: 11 s ago\nthere is no definition\n")
        beats.beat("lease")
        beats.found("definition")
        assert await asked(port, "readyz") == (200, "ok\n")


async def test_what_goes_wrong_beside_the_rest_is_shown_and_leaves_it_ready() -> None:
    beats = Beats()
    async with serving(beats, OperatorMetrics(process=False), "127.0.0.1", 0) as port:
        beats.remark("a", "a is refused")
        beats.remark("b", "b is refused")
        assert await asked(port, "readyz") == (200, "ok\na is refused\nb is refused\n")
        assert await asked(port) == (200, "ok\n")
        beats.remark("a", "")
        beats.remark("c", "")
        beats.lack("definition", "there is no definition")
        assert await asked(port, "readyz") == (503, "there is no definition\nb is refused\n")


async def test_an_address_that_is_taken_is_said() -> None:
    async with serving(Beats(), OperatorMetrics(process=False), "127.0.0.1", 0) as port:
        with pytest.raises(Misconfigured, match=f"cannot listen on 127.0.0.1:{port}"):
            async with serving(Beats(), OperatorMetrics(process=False), "127.0.0.1", port):
                pass


async def test_metrics_are_those_of_the_operator_that_works_or_waits() -> None:
    metrics = OperatorMetrics(process=False)
    async with serving(Beats(), metrics, "127.0.0.1", 0) as port:
        status, text = await asked(port, "metrics")
        assert status == 200
        assert "metacore_operator_leader 0.0" in text
        metrics.leads()
        metrics.reconciled("stalled", 0.2)
        metrics.addons({"Ready": 3, "Stalled": 0})
        metrics.waiting(7)
        text = (await asked(port, "metrics"))[1]
        for line in (
            "metacore_operator_leader 1.0",
            'metacore_operator_reconciles_total{outcome="stalled"} 1.0',
            "metacore_operator_reconcile_duration_seconds_count 1.0",
            'metacore_operator_addons{phase="Ready"} 3.0',
            'metacore_operator_addons{phase="Stalled"} 0.0',
            "metacore_operator_queue_depth 7.0",
        ):
            assert line in text.splitlines()
