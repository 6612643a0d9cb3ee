"""A local web server of a folder that sends parts of files, or behaves badly, and counts what it sends."""

from __future__ import annotations

import http.server
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class RangeServer(http.server.ThreadingHTTPServer):
    """Serves `folder`.

    Attributes
    ----------
    sent : bytes of files sent so far
    requests : (method, path) answered so far
    ranges : whether parts of files are sent
    failures : answers of 503 left before the server works
    silent : seconds it waits before any answer
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.sent = 0
        self.requests: list[tuple[str, str]] = []
        self.ranges, self.failures, self.silent = True, 0, 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RangeServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.server.requests.append((self.command, self.path))
        time.sleep(self.server.silent)
        path = self.server.folder / self.path.lstrip("/")
        if self.server.failures > 0:
            self.server.failures -= 1
            return self._refuse(503)
        if not path.is_file():
            return self._refuse(404)
        data = path.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if self.server.ranges else None
        part = data[int(found[1]) : int(found[2]) + 1] if found else data
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        if found:
            self.send_header("Content-Range", f"bytes {found[1]}-{int(found[1]) + len(part) - 1}/{len(data)}")
        self.end_headers()
        if body:
            self.server.sent += len(part)
            with suppress(ConnectionError):  # a reader that learns that no parts are sent hangs up
                self.wfile.write(part)

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[RangeServer]:
    """A server of a folder on a free port, in a thread."""
    server = RangeServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
