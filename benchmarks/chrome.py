"""A headless Chromium that one can ask, by its DevTools protocol: size, keys, scripts, pictures.

Needs tornado, which the notebooks' tests install.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
    *("--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows"),
    *("--remote-debugging-port=0", "--remote-allow-origins=*", "--no-first-run"),
)


class Chrome:
    """A page; use `opened`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: Any) -> None:
        self._loop, self._socket, self._numbers = loop, socket, itertools.count(1)
        self.errors: list[str] = []
        """Errors of the page's scripts, and what its policy forbade."""
        self.requests: list[str] = []
        """The addresses that the page asked for."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Performance.enable", timeDomain="threadTicks")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        number = next(self._numbers)
        message = json.dumps({"id": number, "method": method, "params": params})
        asked = asyncio.wait_for(self._ask(number, message), 60)
        return self._loop.run_until_complete(asked)

    async def _ask(self, number: int, message: str) -> dict[str, Any]:
        await self._socket.write_message(message)
        while True:
            found = json.loads(await self._socket.read_message())
            if found.get("id") == number:
                if "error" in found:
                    raise RuntimeError(found["error"]["message"])
                return found["result"]
            self._note(found)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """The window, in pixels; below 600 it is a phone with two device pixels for each."""
        phone = width < 600
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def go(self, address: str, until: str = "document.readyState === 'complete'") -> None:
        """Opens an address and waits."""
        self.ask("Page.navigate", url=address)
        self.wait(until)

    def run(self, script: str) -> Any:
        """The value of an expression; promises are awaited."""
        found = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def busy(self) -> float:
        """Seconds of processor time that the page's main thread has used for its tasks."""
        found = self.ask("Performance.getMetrics")["metrics"]
        return next(each["value"] for each in found if each["name"] == "TaskDuration")

    def wait(self, condition: str, seconds: float = 30.0) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s: {condition}; {self.errors}")
            time.sleep(0.05)

    def key(self, name: str) -> None:
        """Presses a key, as in "ArrowDown"."""
        more = {"text": "\r"} if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            code = {"Enter": 13, "Tab": 9}.get(name, 0)
            self.ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code=name,
                windowsVirtualKeyCode=code,
                **(more if kind == "keyDown" else {}),
            )

    def move(self, x: float, y: float) -> None:
        """Moves the pointer."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, file: Path, *, whole: bool = False) -> Path:
        """Writes what is seen, or the whole page, as PNG."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))
        return file


@contextlib.contextmanager
def opened(width: int = 1280, height: int = 900) -> Iterator[Chrome]:
    """A browser with one empty page; it ends with the block."""
    if CHROMIUM is None:
        raise RuntimeError("there is no chromium here")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, **quiet)
        loop = asyncio.new_event_loop()
        try:
            target = _target(Path(profile, "DevToolsActivePort"), process)
            socket = loop.run_until_complete(_connected(target))
            page = Chrome(loop, socket)
            page.size(width, height)
            yield page
            loop.run_until_complete(_closed(socket))
        finally:
            process.terminate()
            process.wait()
            loop.close()


async def _connected(target: str) -> Any:
    from tornado.websocket import websocket_connect

    return await websocket_connect(target, max_message_size=2**28)


async def _closed(socket: Any) -> None:
    socket.close()


def _target(file: Path, process: subprocess.Popen) -> str:
    """The address of the only page's socket."""
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError("chromium has ended")
        with contextlib.suppress(OSError, IndexError, ValueError):
            port = int(file.read_text("utf-8").splitlines()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            return pages[0]["webSocketDebuggerUrl"]
        time.sleep(0.05)
    raise TimeoutError("chromium does not answer")
