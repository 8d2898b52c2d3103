"""The first contact with an endpoint: a refused connection is named at once.

An engine keeps trying for a while, since in the middle of a long run a server may come back. Before
anything was asked, a refused connection nearly always is a server that does not run or a wrong URL,
and there is nothing to wait for.
"""

import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Self
from urllib.parse import urlsplit

from ..teacher.engine import Engine, EngineError, Identity, Request, Response

CONNECT_S = 5.0
"""A connection that hangs longer is left to the engine and its tries."""


class FirstContact:
    """An engine whose endpoint is tried once, when there is something to ask.

    Args:
        engine: who answers; closing this closes it.
        base_url: its endpoint.
        option: what names the endpoint, for the message.
    """

    def __init__(self, engine: Engine, base_url: str, option: str = "--base-url") -> None:
        self._engine, self._url, self._option = engine, base_url, option
        self._tried = False

    @property
    def identity(self) -> Identity:
        """The engine's own."""
        return self._engine.identity

    def answer(
        self, requests: Iterable[Request], *, before: Callable[[Request, str], None] | None = None
    ) -> Iterator[Response]:
        """See `Engine.answer`.

        Raises:
            EngineError: also where the endpoint's first connection is refused.
        """
        if not self._tried:
            check_endpoint(self._url, self._option)
            self._tried = True
        yield from self._engine.answer(requests, before=before)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def check_endpoint(base_url: str, option: str) -> None:
    """Try to connect.

    Raises:
        EngineError: nobody listens there, or there is no such host.
    """
    parts = urlsplit(base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_S).close()
    except ConnectionRefusedError as error:
        why = "nothing listens there (connection refused)"
        raise _nobody(parts.hostname, port, why, option) from error
    except socket.gaierror as error:
        raise _nobody(parts.hostname, port, f"no such host ({error.strerror})", option) from error
    except OSError:
        return  # slow or unreachable for now: the engine tries longer than this


def _nobody(host: str | None, port: int, why: str, option: str) -> EngineError:
    return EngineError(
        f"{option}: {host}:{port}: {why}; is the server running, and is the URL right? Nothing was "
        "asked; what was answered before is kept"
    )
