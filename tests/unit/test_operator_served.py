"""The sessions that kopf gets: one for each login, and recognised as the same while the login is."""

from __future__ import annotations

import kopf

from metacore_operator.served import Sessions


async def test_a_login_that_was_refused_is_recognised_and_a_fresh_one_gets_a_session_of_its_own() -> None:
    """kopf ends on credentials that it knows as refused; new ones each time it would try without end."""
    sessions = Sessions()
    old = kopf.ConnectionInfo(server="https://127.0.0.1:1", token="old", default_namespace="shop")
    first = sessions.of(old)
    await first.aiohttp_session.close()
    assert (
        sessions.of(kopf.ConnectionInfo(server="https://127.0.0.1:1", token="old", default_namespace="shop")) == first
    )

    fresh = sessions.of(kopf.ConnectionInfo(server="https://127.0.0.1:1", token="fresh", default_namespace="shop"))
    try:
        assert fresh != first and not fresh.aiohttp_session.closed
        assert fresh.aiohttp_session.headers["Authorization"] == "Bearer fresh"
        assert (fresh.server, fresh.default_namespace) == ("https://127.0.0.1:1", "shop")
    finally:
        await fresh.aiohttp_session.close()
