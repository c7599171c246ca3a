"""Address that the service listens on."""

from __future__ import annotations

import ipaddress
import socket
from typing import Annotated

from segzoo.registry import ConfigError, Range


def bind(*, host: str = "127.0.0.1", port: Annotated[int, Range(0, 65535)] = 8000) -> socket.socket:
    """Reserve the address of the service.

    Nothing is answered yet.

    Args:
        host: address to listen on. The default can be reached from this machine only, ``0.0.0.0`` from everywhere.
        port: port; 0 takes a free one.

    Raises:
        ConfigError: the address is taken or not this machine's.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, number)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except socket.gaierror as error:
        raise ConfigError(
            f"host={host} is not the address of a machine: {(error.strerror or str(error)).lower()}. Set host=127.0.0.1 for this machine only, or "
            "host=0.0.0.0 for all."
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"host={host} port={port}: {reason}. Set another one, such as port={port % 65535 + 1}.") from None
    return listener


def url(listener: socket.socket) -> str:
    """Address of a bound socket for a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """True if only this machine can reach a bound socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback
