"""A headless Chromium, driven over its DevTools protocol: no driver program, no download of another browser."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.browser.installed import chromium_path
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

PATIENCE = 60.0
"""Seconds until a test gives up; nothing is expected to take that long."""

FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
    "--window-size=1280,1600",
)
_LISTENING = re.compile(r"DevTools listening on (ws://\S+)")

UNTIL = """new Promise((resolve) => {
  const holds = () => { try { return (EXPRESSION); } catch { return false; } };
  const look = () => {
    const value = holds();
    if (!value) return;
    observer.disconnect();
    resolve(value instanceof Node ? true : value);
  };
  const observer = new MutationObserver(look);
  observer.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
  look();
})"""

MIDDLE = """(() => {
  const element = document.querySelector(SELECTOR);
  element.scrollIntoView({block: 'center'});
  const box = element.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})()"""


class Page:
    """One tab. `requested` are the URLs that it asked for, `errors` what it wrote to the console as an error."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self._session = ""
        self.requested: list[str] = []
        self.errors: list[str] = []

    async def attach(self) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol.

        Raises:
            RuntimeError: the browser refused it.
        """
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        await self._socket.send(json.dumps(message))
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await self._waiting[number]
        finally:
            del self._waiting[number]
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return dict(answer["result"])

    async def open(self, url: str) -> None:
        """Go to `url` and wait until it is loaded."""
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(PATIENCE):
            await self._loaded.wait()

    async def evaluate(self, expression: str) -> Any:
        """The value of JavaScript, awaited when it is a promise.

        Raises:
            RuntimeError: it threw.
        """
        result = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            thrown = result["exceptionDetails"]
            raise RuntimeError(f"{expression[:200]}: {thrown.get('exception', {}).get('description', thrown)}")
        return result["result"].get("value")

    async def until(self, expression: str) -> Any:
        """The value of `expression` as soon as it is true; it is looked at again whenever the document changes."""
        return await self.evaluate(UNTIL.replace("EXPRESSION", expression))

    async def fill(self, selector: str, text: str) -> None:
        """Click into a field, select what is in it, and type, as a person would."""
        await self.click(selector)
        await self.evaluate("document.activeElement.select()")
        await self.call("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        await self.until(f"document.querySelector({json.dumps(selector)})?.getClientRects().length")
        box = await self.evaluate(MIDDLE.replace("SELECTOR", json.dumps(selector)))
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    async def text(self) -> str:
        """What a reader sees."""
        return str(await self.evaluate("document.body.innerText"))

    async def screenshot(self, path: Path) -> None:
        taken = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(taken["data"]))

    async def listen(self) -> None:
        """Hand out answers and events until the connection ends."""
        while True:
            try:
                text = await self._socket.recv()
            except ConnectionClosed:
                return
            message = json.loads(text)
            if "id" in message:
                future = self._waiting.get(message["id"])
                if future is not None and not future.done():
                    future.set_result(message)
            else:
                self._happened(message["method"], message.get("params", {}))

    def _happened(self, event: str, about: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded.set()
        elif event == "Network.requestWillBeSent":
            self.requested.append(about["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(str(about["exceptionDetails"].get("exception", {}).get("description", about)))
        elif event == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")


@asynccontextmanager
async def browsing() -> AsyncIterator[Page]:
    """A tab of a fresh browser, whose profile is gone afterwards."""
    path = await asyncio.to_thread(chromium_path)
    # Chromium's own sandbox refuses to run as root; the pages are the tests' own.
    flags = (*FLAGS, "--no-sandbox") if os.geteuid() == 0 else FLAGS
    with tempfile.TemporaryDirectory(prefix="metacore-browser-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            path,
            *flags,
            f"--user-data-dir={profile}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "HOME": profile},
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(PATIENCE):
                address = await _address(process.stderr)
            drain = asyncio.create_task(_drain(process.stderr))
            async with connect(address, max_size=None) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                await page.attach()
                yield page
                page._session = ""
                with contextlib.suppress(RuntimeError, TimeoutError):
                    await page.call("Browser.close")
                await listening
            await drain
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            await process.wait()


async def _address(stderr: asyncio.StreamReader) -> str:
    said: list[str] = []
    while line := (await stderr.readline()).decode(errors="replace"):
        said.append(line)
        if found := _LISTENING.search(line):
            return found[1]
    raise RuntimeError(f"Chromium did not start: {''.join(said)[-2_000:]}")


async def _drain(stderr: asyncio.StreamReader) -> None:
    while await stderr.read(65_536):
        pass
