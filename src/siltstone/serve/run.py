"""The process of a server: the address, signals, and a graceful stop."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from ..errors import ConfigError
from .app import make_app
from .house import House

GRACE = 20  # seconds for requests that run when the server is stopped
KEEP_ALIVE = 75  # seconds that an idle connection stays open; pools of clients close theirs earlier, and use none that is closing


def is_public(host: str) -> bool:
    """Whether an address can be reached from other machines."""
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return True


def check_public(host: str, keys: bool) -> None:
    """ConfigError for a public address without keys."""
    if is_public(host) and not keys:
        raise ConfigError(f"--host {host} can be reached from other machines; give keys with --api-key-file, or use 127.0.0.1")


class _Server(uvicorn.Server):
    """SIGINT and SIGTERM stop it; unlike the base, it does not send them again afterwards."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See the base."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(house: House, host: str, port: int, ready: Callable[[str], None] = lambda url: None) -> None:
    """Serve until a signal stops it. ready: is told the address. Raises ConfigError for an address that cannot be used."""
    check_public(host, bool(house.keys))
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        # With the protocol, or else asyncio does not set TCP_NODELAY, and an answer takes 40 ms more.
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(2048)  # from now on clients wait, instead of being refused, until the server runs
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot listen on {host} port {port}: {error}; choose another with --host and --port") from None
    with listening:
        shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
        ready(f"http://{shown}:{listening.getsockname()[1]}")
        config = uvicorn.Config(
            make_app(house), log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE, server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
        )  # fmt: skip
        _Server(config).run(sockets=[listening])
