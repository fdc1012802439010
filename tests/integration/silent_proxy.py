"""A way to a server that can fall silent: what is sent is taken and goes nowhere, and neither side is told."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Any
from urllib.parse import urlsplit, urlunsplit


class SilentProxy:
    """Passes bytes on in both directions, until `fall_silent`; connections made after that work again."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        signed = parts.netloc.rpartition("@")[0]
        there = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = urlunsplit(parts._replace(netloc=f"{signed}@{there}" if signed else there))
        self.accepted = 0
        self._lock = threading.Lock()
        self._silent = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def fall_silent(self) -> None:
        """Swallow from now on what comes over any connection that there is."""
        with self._lock:
            self._silent.set()
            self._silent = threading.Event()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with self._lock:
                    self.accepted += 1
                    silent = self._silent
                threading.Thread(target=self._pass_on, args=(client, silent), daemon=True).start()

    def _pass_on(self, client: socket.socket, silent: threading.Event) -> None:
        with client, socket.create_connection(self._target) as server, selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            with contextlib.suppress(OSError):
                while True:
                    for key, _ in selector.select():
                        one: Any = key.fileobj
                        try:
                            data = one.recv(65536)
                        except ConnectionResetError:
                            data = b""
                        if silent.is_set():
                            if not data:  # one side gives up, and the other does not hear of it
                                selector.unregister(one)
                            continue
                        if not data:
                            return
                        key.data.sendall(data)

    def close(self) -> None:
        self._listener.close()
