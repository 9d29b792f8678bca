"""Where a Redis is: its URL, in parts."""

from typing import Any, Literal, TypeAlias, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from agent_runtime import ConfigurationError

Kind: TypeAlias = Literal["single", "sentinel", "cluster"]

_FORMS = (
    "redis://host:6379/0, rediss:// for TLS, redis+sentinel://host:26379,host:26379/service/0, or"
    " redis+cluster://host:6379,host:6379; a user and a password stand before the first host"
)
_KINDS: dict[str, tuple[Kind, int]] = {
    "redis": ("single", 6379),
    "redis+sentinel": ("sentinel", 26379),
    "redis+cluster": ("cluster", 6379),
}
_OPTIONS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"})


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The servers to ask, and how. `service` is what Sentinels call the primary; `tls` is redis-py's options for it."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    service: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = None
    is_encrypted: bool = False
    tls: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Place({self.name})"

    @property
    def name(self) -> str:
        """For people: without user and password."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        hosts += " by TLS" if self.is_encrypted else ""
        if self.kind == "single":
            return f"Redis at {hosts}"
        return f"the Redis cluster at {hosts}" if self.kind == "cluster" else f"Redis {self.service!r} at {hosts}"


def place_of(url: str) -> Place:
    """The parts of a URL. Raises `ConfigurationError`, without the URL, which may hold a password."""
    try:
        parts = urlsplit(url)
        scheme = parts.scheme.replace("rediss", "redis", 1)
        kind, port = _KINDS[scheme]
        credentials, _, hosts = parts.netloc.rpartition("@")
        username, colon, password = credentials.partition(":")
        service, database = _path(kind, parts)
        return Place(
            kind=kind,
            hosts=tuple(_host(host, port) for host in hosts.split(",")),
            service=service,
            database=database,
            username=unquote(username) or None,
            password=unquote(password) if colon else None,
            is_encrypted=parts.scheme.startswith("rediss"),
            tls=_options(parts),
        )
    except (ValueError, LookupError) as error:
        raise ConfigurationError(f"this is no URL of a Redis; one is {_FORMS}") from error


def _path(kind: Kind, parts: SplitResult) -> tuple[str, int]:
    """Service and database."""
    names = [unquote(name) for name in parts.path.split("/")[1:] if name]
    service = names.pop(0) if kind == "sentinel" else ""
    if len(names) > 1 or (kind == "cluster" and names) or (kind == "single" and "," in parts.netloc.rpartition("@")[2]):
        raise ValueError(parts.path)
    return service, int(names[0]) if names else 0


def _host(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if parts.hostname is None:
        raise ValueError(text)
    return parts.hostname, parts.port or port


def _options(parts: SplitResult) -> dict[str, Any]:
    found = cast("dict[str, Any]", dict(parse_qsl(parts.query, strict_parsing=True))) if parts.query else {}
    if not found.keys() <= _OPTIONS or (found and not parts.scheme.startswith("rediss")):
        raise ValueError(parts.query)
    if "ssl_check_hostname" in found:
        found["ssl_check_hostname"] = {"true": True, "false": False}[found["ssl_check_hostname"].lower()]
    return found
