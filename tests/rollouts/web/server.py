"""A web service for tests that is good, or broken in the way that BROKEN names; it says which version answers."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

VERSION = os.environ["VERSION"]
BROKEN = os.environ.get("BROKEN", "")
STARTED = time.monotonic()
STARTS_S = 1.0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        where = urlsplit(self.path)
        if where.path == "/health":
            good = time.monotonic() - STARTED > STARTS_S and BROKEN != "never healthy"
            return self._answer(200 if good else 503, "health")
        if where.path == "/api/slow":
            time.sleep(float(parse_qs(where.query)["s"][0]))
        return self._answer(200, f"{VERSION} {socket.gethostname()}")

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: a line a request would be the slowest part."""


class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


def broken() -> None:
    if BROKEN == "exits":
        sys.exit("this version cannot start: no such table")
    if BROKEN == "needs more memory":
        hoard = [bytearray(os.urandom(1 << 20)) for _ in range(4096)]
        sys.exit(f"had {len(hoard)} MB")
    if BROKEN == "dies after 5 s":
        threading.Timer(5 + STARTS_S, lambda: os._exit(3)).start()


broken()
HOST = "127.0.0.1" if BROKEN == "listens on loopback" else "0.0.0.0"  # noqa: S104  in the container's own network
server = Server((HOST, 8000), Handler)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # as many do: whoever is answered then is cut off
server.serve_forever()
