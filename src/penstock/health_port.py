"""A port that answers ``GET /live`` and ``GET /ready`` for who watches over a worker: a supervisor, an orchestrator."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Protocol

import msgspec

from penstock.core.exceptions import ConfigError

logger = logging.getLogger("penstock.health")

_PATIENCE_S = 5.0
"""How long a client may take to say what it wants."""
_ASKED = ("/live", "/ready")


class Answer(Protocol):
    """What is told: a Struct with these fields."""

    @property
    def live(self) -> bool:
        """Whether the process turns."""
        ...

    @property
    def ready(self) -> bool:
        """Whether it takes jobs."""
        ...


class HealthPort:
    """An HTTP server in a thread of its own: it answers however busy the worker is, unless a body holds the GIL.

    The status is 200 or 503, the document the same for both questions.
    """

    def __init__(self, host: str, port: int, health: Callable[[], Answer]) -> None:
        """Listen, and answer from now on with what ``health()`` tells.

        Raises:
            ConfigError: the port cannot be had.
        """

        class Handler(BaseHTTPRequestHandler):
            timeout = _PATIENCE_S
            server_version, sys_version = "penstock", ""

            def do_GET(self) -> None:
                self._answer(body=True)

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def _answer(self, *, body: bool) -> None:
                path = self.path.partition("?")[0].rstrip("/")
                if path not in _ASKED:
                    status, document = HTTPStatus.NOT_FOUND, msgspec.json.encode({"ask": _ASKED})
                else:
                    told = health()
                    well = told.live if path == "/live" else told.ready
                    status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
                    document = msgspec.json.encode({"schema": "penstock.health/1", **msgspec.to_builtins(told)})
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(document) + 1))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                if body:
                    self.wfile.write(document + b"\n")

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Not logged: probes come every few seconds."""

            def log_error(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                logger.debug(format, *args)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def server_bind(self) -> None:
                TCPServer.server_bind(self)  # HTTPServer's own asks the DNS for this host's name, which may take long

            def handle_error(self, request: object, client_address: object) -> None:
                logger.debug("a client of the health port went wrong", exc_info=True)

        try:
            self._server = Server((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"the health port {host}:{port} cannot be had: {error}") from error
        self.port: int = self._server.server_address[1]
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self.port}"
        threading.Thread(target=self._server.serve_forever, name="penstock-health", daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
