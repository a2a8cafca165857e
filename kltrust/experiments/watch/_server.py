"""The page's server: loopback only, the standard library only, nothing is written."""

from __future__ import annotations

import http.server
import json
import socket
import urllib.parse
from collections.abc import Sequence
from http import HTTPStatus
from importlib import resources
from pathlib import Path
from typing import Any

from kltrust.experiments.watch._state import State

HOST = "127.0.0.1"
PORT = 8421
TRIES = 20
"""So many ports are tried from `PORT` on, if none was asked for."""
FILES = {
    "/": ("watch", "page.html", "text/html"),
    "/page.css": ("watch", "page.css", "text/css"),
    "/chart.js": ("watch", "chart.js", "text/javascript"),
    "/pointer.js": ("watch", "pointer.js", "text/javascript"),
    "/raster.js": ("watch", "raster.js", "text/javascript"),
    "/model.js": ("watch", "model.js", "text/javascript"),
    "/rows.js": ("watch", "rows.js", "text/javascript"),
    "/page.js": ("watch", "page.js", "text/javascript"),
    "/table.js": ("report", "table.js", "text/javascript"),
}
"""The page's files: in which room, the name, the type."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
)


class Server(http.server.ThreadingHTTPServer):
    """Serves the page and its state; close it with ``server_close``."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, folders: Sequence[Path], port: int | None = None) -> None:
        """Listens on the loopback interface.

        Args:
            folders: to watch.
            port: None takes the first free one from 8421 on, 0 any free one.

        Raises:
            ValueError: if the port is in use.
        """
        self.state = State(folders)
        ports = range(PORT, PORT + TRIES) if port is None else (port,)
        for each in ports:
            try:
                super().__init__((HOST, each), _Handler)
                return
            except OSError as error:
                last = error
        which = f"port {port} is" if port is not None else f"ports {PORT} to {ports[-1]} are"
        raise ValueError(
            f"{which} in use, by another `kltrust watch` say ({last.strerror}): end that one, or "
            "name another with --port; --port 0 takes any free one"
        )

    @property
    def address(self) -> str:
        """The page's address."""
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        # A page of another site can't read this one, by whatever name it calls this machine.
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host not in (HOST, "localhost"):
            self._answer(b"this page is for this machine", "text/plain", HTTPStatus.FORBIDDEN)
            return
        address = urllib.parse.urlsplit(self.path)
        if address.path == "/state":
            asked = urllib.parse.parse_qs(address.query)
            if not (text := asked.get("since", ["0"])[0]).isdecimal():
                self._answer(b"since is a version", "text/plain", HTTPStatus.BAD_REQUEST)
                return
            since = int(text)
            if asked.get("id", [""])[0] != self.server.state.id:
                since = 0
            curves, new = (asked.get(name, []) for name in ("curve", "new"))
            try:
                changes = self.server.state.changes(since, curves, new)
            except Exception as error:  # the page says so, and asks again
                said = f"{type(error).__name__}: {error}".encode()
                self._answer(said, "text/plain", HTTPStatus.INTERNAL_SERVER_ERROR)
                return
            self._answer(json.dumps(changes).encode(), "application/json")
        elif address.path in FILES:
            room, name, kind = FILES[address.path]
            file = resources.files(f"kltrust.experiments.{room}") / name
            self._answer(file.read_bytes(), kind)
        else:
            self._answer(b"there is no such page", "text/plain", HTTPStatus.NOT_FOUND)

    def _answer(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: Any) -> None:
        """Prints nothing: the terminal is the user's."""

    def setup(self) -> None:
        super().setup()
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
