"""A way to a server on which a reply can be lost: the server has done what it was asked, the client never hears."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import cast
from urllib.parse import urlsplit, urlunsplit


class CuttingProxy:
    """Passes bytes on in both directions; while armed, cuts the connection in place of the next reply."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        user = f"{parts.username}@" if parts.username else ""
        self.url = urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{port}"))
        self.cuts = 0
        self._armed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_next_reply(self) -> None:
        """Arm it."""
        self._armed.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            client,
            socket.create_connection(self._target) as server,
            selectors.DefaultSelector() as selector,
        ):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    one = cast("socket.socket", key.fileobj)
                    data = one.recv(65536)
                    if not data:
                        return
                    if one is server and self._armed.is_set():
                        self._armed.clear()
                        self.cuts += 1
                        return
                    key.data.sendall(data)

    def close(self) -> None:
        """Take no further connection."""
        self._listener.close()
