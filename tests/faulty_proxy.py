"""A proxy in front of the real S3 server that fails on demand: the faults no healthy server shows."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Fault:
    """What the proxy does: `refuse` gives a status for a request (method, path) or None to pass it on.

    `cut` gives the number of bytes after which the answer breaks off, or None.
    `on_part` is called before each upload of a part is passed on.
    """

    refuse: Callable[[str, str], int | None] = lambda method, path: None
    on_part: Callable[[], None] = lambda: None
    cut: Callable[[str, str], int | None] = lambda method, path: None
    seen: list[str] = field(default_factory=list)


@contextmanager
def proxy_to(port: int, fault: Fault) -> Iterator[str]:
    """Run the proxy before the S3 server on `port`; yields its endpoint."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault.seen.append(f"{self.command} {self.path}")
            status = fault.refuse(self.command, self.path)
            if status is not None:
                self.close_connection = True
                self._answer(status, [], b"<Error><Code>SlowDown</Code><Message>injected</Message></Error>")
                return
            if self.command == "PUT" and "partNumber=" in self.path:
                fault.on_part()
            try:
                onward = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                onward.request(self.command, self.path, body, dict(self.headers))  # Host too: it is signed
                answer = onward.getresponse()
                self._answer(answer.status, answer.getheaders(), answer.read())
            except OSError:
                self.close_connection = True

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            length = str(len(body))
            for name, value in headers:
                if name.lower() == "content-length" and self.command == "HEAD":
                    length = value
                elif name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                end = fault.cut(self.command, self.path)
                self.close_connection = self.close_connection or end is not None
                self.wfile.write(body[:end])

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: `seen` has it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
