"""What the API server must serve for Addons to be watched, and a session for kopf that waits for it however long.

kopf ends, and the process with it, when a list or watch stays refused or is not found, and it looks only once which
kinds there are. Both may be mended any minute: a binding in one of several namespaces that is made again, a definition
that is applied later. So refusals of these few requests reach kopf as a connection that failed, for which it never
gives a watcher up. Its writes stay as they are: tried for a bounded time, so that none holds a worker for ever.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import aiohttp
import kopf

from metacore.errors import MetacoreError, NotFound
from metacore.logs import get_logger
from metacore_operator.api_server import ApiServer, Document
from metacore_operator.cluster.health import Beats
from metacore_operator.resources.addon import API_VERSION, GROUP, PLURAL

log = get_logger(__name__)

GROUPS_PATH = "/apis"
KINDS_PATH = f"/apis/{API_VERSION}"
ADDONS_PATH = re.compile(rf"/apis/{re.escape(API_VERSION)}(/namespaces/(?P<namespace>[^/]+))?/{PLURAL}$")
"""Of lists and watches. Paths are looked at from their end: an API server may lie below a path of a proxy."""
DEFINITION = f"{PLURAL}.{GROUP}"
ABSENT = f"there is no CustomResourceDefinition {DEFINITION}"
RETRY_SECONDS = 3.0
EVERYWHERE = "*"

UNAUTHORIZED, GONE, TOO_MANY_REQUESTS = 401, 410, 429
"""What kopf itself knows to go on from: by logging in again, by listing anew, by waiting as long as it is told."""


async def until_served(api: ApiServer, beats: Beats, retry_seconds: float = RETRY_SECONDS) -> None:
    """Wait until the API server serves Addons; while it does not, the operator is not ready. What is missing is told
    once, and again when it is something else.
    """
    told = ""
    while words := await _missing(api):
        if words != told:
            told = words
            log.error("operator.addons_not_served", error=words)
        beats.lack(DEFINITION, words)
        await asyncio.sleep(retry_seconds)
    beats.found(DEFINITION)


async def _missing(api: ApiServer) -> str:
    """Why Addons are not served, '' when they are."""
    try:
        if _has_group(await api.get(GROUPS_PATH)) and _has_kind(await api.get(KINDS_PATH)):
            return ""
    except NotFound:
        return ABSENT
    except MetacoreError as error:
        return error.message
    return ABSENT


def _has_group(document: Document) -> bool:
    return any(item["name"] == GROUP for item in document["groups"])


def _has_kind(document: Document) -> bool:
    return any(item["name"] == PLURAL for item in document["resources"])


Refusals = Callable[[str, str], None]
"""Hears of a watched namespace, or EVERYWHERE, why its Addons cannot be read, and '' as soon as they can."""


def _nobody(_watched: str, _words: str) -> None:
    return None


class NotServed(aiohttp.ClientConnectionError):
    """To kopf a failed connection, which it tries again."""


class Insisting:
    """A middleware of aiohttp that makes a refusal out of which kopf would end into NotServed. Each trouble is told
    once, by path, and so is its end; those of Addons to `refusals`, too.
    """

    def __init__(self, refusals: Refusals = _nobody) -> None:
        self._told: dict[str, str] = {}
        self._refusals = refusals

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Send `request`.

        Raises:
            NotServed: the answer was no, for now.
        """
        response = await handler(request)
        words = await _refusal(request, response)
        if not words:
            if request.url.path in self._told:
                del self._told[request.url.path]
                log.info("operator.served_again", path=request.url.path)
                self._show(request.url.path, "")
            return response
        response.close()
        if self._told.get(request.url.path) != words:
            self._told[request.url.path] = words
            log.error("operator.not_served", path=request.url.path, error=words)
            self._show(request.url.path, words)
        raise NotServed(words)

    def _show(self, path: str, words: str) -> None:
        if found := ADDONS_PATH.search(path):
            self._refusals(found["namespace"] or EVERYWHERE, words)


async def _refusal(request: aiohttp.ClientRequest, response: aiohttp.ClientResponse) -> str:
    """Why `response` must not reach kopf, '' when it may."""
    path = request.url.path
    if request.method != "GET" or response.status in (UNAUTHORIZED, TOO_MANY_REQUESTS):
        return ""
    if found := ADDONS_PATH.search(path):
        if response.status < 400 or (response.status == GONE and "watch" in request.url.query):
            return ""
        where = f"in namespace {found['namespace']!r}" if found["namespace"] else "cluster-wide"
        return f"Addons {where} cannot be read: the API server answered {response.status}"
    if not path.endswith((GROUPS_PATH, KINDS_PATH)):
        return ""
    if response.status >= 400:
        return ABSENT if response.status == 404 else f"the API server answered {response.status}"
    # What is read here stays in the response for kopf.
    document: Document = await response.json()
    there = _has_kind(document) if path.endswith(KINDS_PATH) else _has_group(document)
    return "" if there else ABSENT


class Sessions:
    """kopf's sessions, as it makes them itself, but insisting. kopf closes them."""

    def __init__(self, refusals: Refusals = _nobody) -> None:
        self._insisting = Insisting(refusals)
        self._last: tuple[kopf.ConnectionInfo, kopf.AiohttpSession] | None = None

    def of(self, info: kopf.ConnectionInfo) -> kopf.AiohttpSession:
        """The session with `info`: the same as before while it is the same, since kopf must recognise credentials that
        were refused, and would else log in with them again and again.
        """
        if self._last is None or self._last[0] != info:
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
                headers=info.as_http_headers(),
                proxy=info.proxy_url,
                trust_env=info.trust_env,
                middlewares=(self._insisting,),
            )
            made = kopf.AiohttpSession(
                aiohttp_session=session,
                server=info.server,
                default_namespace=info.default_namespace,
                priority=info.priority,
                expiration=info.expiration,
            )
            self._last = info, made
        return self._last[1]
