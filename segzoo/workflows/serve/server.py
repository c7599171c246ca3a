"""The HTTP server: its connections and its end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from types import FrameType
from weakref import WeakKeyDictionary

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from segzoo.workflows.serve.address import is_loopback, url
from segzoo.workflows.serve.app import create_app
from segzoo.workflows.serve.service import Service

HEAD_SECONDS = 10.0  # for the first line and the headers of a request
MAX_CONNECTIONS = 512  # at a time


def answer_requests(service: Service, listener: socket.socket, token: str | None = None) -> None:
    """Answer requests until SIGINT or SIGTERM.

    Then new requests are rejected with status 503 until those in progress are answered. A second signal ends the service at once.

    Args:
        service: the models and their queue. It is closed at the end.
        listener: a bound socket.
        token: what clients have to send.
    """
    server = make_server(service, listener, token)
    print(f"serving at {url(listener)} until Ctrl-C", flush=True)
    try:
        server.run(sockets=[listener])
    finally:
        service.close()


def make_server(service: Service, listener: socket.socket, token: str | None = None) -> Server:
    """Create the server of a service, see ``answer_requests``.

    From here on, connections wait for it.
    """
    listener.listen(MAX_CONNECTIONS)
    app = create_app(service, token=token, loopback=is_loopback(listener))
    config = uvicorn.Config(
        app,
        http=H11Protocol,
        ws="none",
        lifespan="off",
        log_level=logging.ERROR,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=5,
    )
    return Server(config, service)


class Server(uvicorn.Server):
    """uvicorn's server, which drains at its end and closes silent connections."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self.service = service
        self._silent_since: WeakKeyDictionary[asyncio.Protocol, float] = WeakKeyDictionary()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, exit at the second one."""
        if self.service.draining:
            self.should_exit = self.force_exit = True
            return
        self.service.draining = True
        print(
            f"{signal.Signals(sig).name}: answering the {self.service.in_progress} images in progress. A second signal stops at once.",
            flush=True,
        )

    async def on_tick(self, counter: int) -> bool:
        """Return whether to exit. Called ten times a second."""
        self._close_silent_connections()
        is_drained = self.service.draining and self.service.in_progress == 0
        return await super().on_tick(counter) or is_drained

    def _close_silent_connections(self) -> None:
        """Close connections on which no request begins, or only its first bytes.

        uvicorn closes those that are idle between requests, but not those that never complete the headers of one.
        """
        now = time.monotonic()
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_complete:
                self._silent_since.pop(connection, None)
            elif now - self._silent_since.setdefault(connection, now) > HEAD_SECONDS:
                connection.transport.close()
