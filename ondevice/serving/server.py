"""The HTTP server, on a thread of its own beside the one that draws."""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from typing import Any

import uvicorn

from ondevice.errors import UsageError

BACKLOG = 128
CONNECTIONS = 200
ENDING = 2  # seconds that answers have to be finished
STARTING = 20.0  # seconds until it must answer


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections at an address, or the address of a name; port 0: any that is free.

    Raises:
        UsageError: the port is taken or not allowed, or the host is not of this machine.
    """
    where = f"--port {port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            what = f"another program listens on port {port} of {host}."
            raise UsageError(what, where=where, fix="end it, or name another port with --port (0: any)") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            what = f"port {port} of {host} may not be listened on ({error.strerror})."
            raise UsageError(what, where=where, fix="name one of 1024 or more") from None
        what = f"{host} cannot be listened on ({error.strerror or error})."
        raise UsageError(what, where="--host", fix="leave it out, or name an address of this machine") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Server:
    """Answers by an ASGI application, from `start` to `stop`."""

    def __init__(self, app: Any, sock: socket.socket) -> None:
        self._sock = sock
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="on",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=ENDING,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)
        self._started = threading.Event()

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        deadline = STARTING
        while not self._server.started and self._thread.is_alive() and deadline > 0:
            self._thread.join(0.01)
            deadline -= 0.01
        assert self._server.started, "the server did not start"

    def stop(self) -> None:
        """Answer what was asked, for a moment, and end."""
        self._server.should_exit = True
        self._thread.join(ENDING + 1)
        self._sock.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._sock])


def address_of(sock: socket.socket) -> str:
    """What a browser on this machine is given."""
    host, port = sock.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if sock.family == socket.AF_INET else "::1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def names_of(host: str) -> list[str]:
    """Names under which the server may be asked, beside addresses: the one that was given, and the machine's own where
    it listens on all of its addresses."""
    try:
        return [socket.gethostname()] if ipaddress.ip_address(host).is_unspecified else []
    except ValueError:
        return [host]
