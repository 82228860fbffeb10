"""`metacore serve`: one kernel, with one or several worker processes."""

from __future__ import annotations

import os
import signal
import threading
from typing import Annotated

import typer
import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from metacore.asgi import create_asgi
from metacore.cli.environment import read_settings
from metacore.cli.listening import adopt, listen, trusted_sources
from metacore.errors import Misconfigured
from metacore.ws.protocol import UVICORN_OPTIONS

GRACEFUL_SECONDS = 20
KEEP_ALIVE_SECONDS = 15


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (METACORE_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (METACORE_PORT).")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port.")] = 1,
    fd: Annotated[int | None, typer.Option(hidden=True, help="A listening socket to use instead.")] = None,
    with_parent: Annotated[bool, typer.Option(hidden=True, help="Stop when standard input ends.")] = False,
) -> None:
    """Serve the kernel until SIGTERM or SIGINT; settings come from the environment (docs/settings.md)."""
    # Workers read their settings from the environment, so what was given here must be there too.
    for name, value in (("METACORE_HOST", host), ("METACORE_PORT", port)):
        if value is not None:
            os.environ[name] = str(value)
    settings = read_settings()
    if not settings.database_url.get_secret_value():
        raise Misconfigured("METACORE_DATABASE_URL is not set: the database of the kernel's role")
    listener = adopt(fd) if fd is not None else listen(settings.host, settings.port)
    config = uvicorn.Config(
        "metacore.cli.serve:application",
        factory=True,
        workers=workers,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_config=None,
        access_log=False,
        # Only where somebody is trusted, so that others do not pay for looking at each request's headers.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=trusted_sources(settings.trusted_proxies),
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        **UVICORN_OPTIONS,
    )
    # uvicorn raises a signal again after it has stopped for it; by then there is nothing left to do.
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    if with_parent:
        threading.Thread(target=_stop_with_parent, name="parent", daemon=True).start()
    with listener:
        if workers > 1:
            # A worker that cannot start is started again for ever; what is wrong with the settings is told here, once.
            create_asgi(settings)
            Multiprocess(config, [listener]).run()
        else:
            uvicorn.Server(config).run([listener])


def application() -> ASGIApp:
    """What each worker process serves."""
    return create_asgi(read_settings())


def _stop_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
