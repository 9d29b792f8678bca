"""Where stores are tried: a namespace of their own at a URL, which is nobody else's and is erased."""

import secrets
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import msgspec

from agent_runtime import Stores, open_stores

VARIABLE = "AGENT_RUNTIME_DOCTOR"
"""What holds it in the environment of the process that tries them: a URL has a password, and arguments are seen by others."""

_PORTS = {"redis": 6379, "postgresql": 5432, "postgres": 5432, "mongodb": 27017}


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The stores at `url`, opened with `options`, in `namespace`."""

    url: str
    options: dict[str, Any]
    namespace: str

    def __repr__(self) -> str:
        return f"Trial({self.namespace})"

    @property
    def is_shared(self) -> bool:
        """Whether stores that are opened again have the same data."""
        return self._parts.scheme != "memory"

    @property
    def address(self) -> tuple[str, int] | None:
        """The host and port that a proxy can stand in front of; `None` for several, for TLS, and for what is not known."""
        parts, port = self._parts, _PORTS.get(self._parts.scheme)
        if port is None or parts.hostname is None or "," in parts.netloc or self._finds_others:
            return None
        return parts.hostname, parts.port or port

    def open(self, address: tuple[str, int] | None = None, **options: object) -> Stores:
        """New stores, with more options; reached at `address`, where it is given."""
        url = self.url if address is None else self.at(*address)
        return open_stores(url, namespace=self.namespace, **{**self.options, **options})

    def without_secrets(self, text: str) -> str:
        """The text with `***` for the password of the URL."""
        password = self._parts.password
        for secret in filter(None, (password, unquote(password or ""))):
            text = text.replace(secret, "***")
        return text

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url)

    @property
    def _finds_others(self) -> bool:
        """Whether the driver leaves the address that it is given for those that the server tells."""
        return self._parts.scheme == "mongodb" and parse_qs(self._parts.query).get("directConnection") != ["true"]

    def at(self, host: str, port: int) -> str:
        """The URL with another address."""
        who, at, _ = self._parts.netloc.rpartition("@")
        return self._parts._replace(netloc=f"{who}{at}{host}:{port}").geturl()


def place_of(url: str, options: dict[str, Any]) -> Trial:
    """A new place at the URL."""
    return Trial(url=url, options=options, namespace=f"doctor_{secrets.token_hex(8)}")
