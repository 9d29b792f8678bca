"""Who asks: a credential becomes a principal, or the run ends here."""

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import NoReturn, Protocol, TypeAlias

import msgspec

from agent_runtime import (
    AgentContext,
    AgentResult,
    AuthenticationFailed,
    BaseMiddleware,
    CallNext,
    ConfigurationError,
    LayerKind,
    PermissionDenied,
    Principal,
    Secret,
)

logger = logging.getLogger(__name__)

# The same words for every refusal: nobody learns from them what was right about a wrong credential.
REFUSAL = "authentication failed: present a credential that holds"


class Authenticator(Protocol):
    """One way of proving who one is."""

    def recognizes(self, credential: Secret, /) -> bool:
        """Whether `credential` has the shape that this authenticator is for; says nothing about whether it holds."""
        ...

    async def authenticate(self, credential: Secret, /) -> Principal:
        """Return whose credential it is. Raises `AuthenticationFailed`, whose words are for logs: without the credential.

        What cannot be decided now, because a store or key server is away, is another error of the runtime.
        """
        ...


class AuthMiddleware(BaseMiddleware):
    """Lets a run in when its credential holds, and makes the credential's owner the run's user and tenant.

    `context.credential` goes to the first authenticator that recognizes its shape; what that one refuses is refused, and
    no other is asked. A run with a principal from its host needs no credential; with both, both must name the same
    owner. Inside, the context has no credential, and its user and tenant are the principal's.

    Raises `AuthenticationFailed`, with the same words for every cause (the reason is its `__cause__` and a debug log), and
    `PermissionDenied` when the context names another user or tenant than the principal.

    Cost: the authenticator's, once per run. Order: inside logging, tracing and audit, outside everything else.
    """

    kind = LayerKind.AUTH

    def __init__(self, *authenticators: Authenticator) -> None:
        if not authenticators:
            raise ConfigurationError(
                "AuthMiddleware() can let nobody in; give it an authenticator, such as ApiKeys(...)"
            )
        self._authenticators = authenticators

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        principal = await self._principal(context)
        if context.user_id not in ("", principal.subject) or context.tenant_id not in (None, principal.tenant):
            raise PermissionDenied("the context names another user or tenant than the principal; leave them out")
        inside = context.replace(credential=None, user_id=principal.subject, tenant_id=principal.tenant)
        return await call_next(inside)

    async def _principal(self, context: AgentContext) -> Principal:
        known = context.run.principal
        if context.credential is None:
            return known or _refuse(AuthenticationFailed("no credential"))
        try:
            presented = await self._authenticator(context.credential).authenticate(context.credential)
        except AuthenticationFailed as error:
            _refuse(error)
        if known is None:
            context.run.authenticated(presented)
        elif (known.subject, known.tenant) != (presented.subject, presented.tenant):
            raise PermissionDenied("the credential belongs to somebody else than the run's principal")
        return presented

    def _authenticator(self, credential: Secret) -> Authenticator:
        for authenticator in self._authenticators:
            if authenticator.recognizes(credential):
                return authenticator
        raise AuthenticationFailed("no authenticator for a credential of this shape")


def _refuse(reason: AuthenticationFailed) -> NoReturn:
    logger.debug("credential refused: %s", reason)
    raise AuthenticationFailed(REFUSAL) from reason


_KEY = re.compile(r"ar_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")
_PREFIX = re.compile(r"[0-9a-f]{16}")
_HASH = re.compile(r"[0-9a-f]{64}")


class ApiKeyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is stored of an API key: enough to check it, too little to make it. `ConfigurationError` when malformed.

    Attributes:
        prefix: The public part of the key, by which it is looked up.
        hash: SHA-256 of the whole key, hexadecimal. The key has 256 random bits, so a slow hash would add nothing.
        expires_at: Aware; `None` is never.
    """

    prefix: str
    hash: str
    subject: str
    tenant: str | None = None
    scopes: frozenset[str] = frozenset()
    expires_at: datetime | None = None
    revoked: bool = False

    def __post_init__(self) -> None:
        if _PREFIX.fullmatch(self.prefix) is None or _HASH.fullmatch(self.hash) is None:
            raise ConfigurationError("an API key record needs a prefix of 16 and a hash of 64 hexadecimal digits")
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise ConfigurationError(f"API key {self.prefix!r}: expires_at must say its time zone")
        for name in (self.subject, self.tenant):
            if name is not None and not (0 < len(name) <= 255 and name.isprintable()):
                raise ConfigurationError(
                    f"API key {self.prefix!r}: subject and tenant are 1 to 255 printable characters"
                )

    def revoke(self) -> "ApiKeyRecord":
        """A copy that refuses the key; store it in place of this one."""
        return msgspec.structs.replace(self, revoked=True)


Lookup: TypeAlias = Callable[[str], Awaitable[ApiKeyRecord | None]]


class ApiKeys:
    """Authenticates keys `ar_<prefix>_<secret>` made by `generate`, against records found by their prefix.

    `records` is a mapping of prefix to record, which may change while it is in use, or an async function of the prefix.
    """

    def __init__(self, records: Mapping[str, ApiKeyRecord] | Lookup) -> None:
        self._find: Lookup = records if callable(records) else _Table(records)

    @staticmethod
    def generate(
        subject: str,
        *,
        tenant: str | None = None,
        scopes: frozenset[str] = frozenset(),
        expires_at: datetime | None = None,
    ) -> tuple[Secret, ApiKeyRecord]:
        """Make a key of 256 random bits, to be shown to its owner once, and the record to be stored."""
        prefix = secrets.token_hex(8)
        key = f"ar_{prefix}_{secrets.token_urlsafe(32)}"
        record = ApiKeyRecord(
            prefix=prefix, hash=_hash(key), subject=subject, tenant=tenant, scopes=scopes, expires_at=expires_at
        )
        return Secret(key), record

    def recognizes(self, credential: Secret) -> bool:
        return credential.reveal().startswith("ar_")

    async def authenticate(self, credential: Secret) -> Principal:
        key = credential.reveal()
        match = _KEY.fullmatch(key)
        if match is None:
            raise AuthenticationFailed("malformed API key")
        record = await self._find(match[1])
        # Also compared when there is no record: the time says nothing about which prefixes exist.
        holds = hmac.compare_digest(_hash(key).encode(), (record.hash if record else _NO_HASH).encode())
        if record is None or not holds:
            raise AuthenticationFailed("unknown API key")
        if record.revoked:
            raise AuthenticationFailed(f"API key {record.prefix!r} is revoked")
        if record.expires_at is not None and record.expires_at <= datetime.now(UTC):
            raise AuthenticationFailed(f"API key {record.prefix!r} has expired")
        return Principal(subject=record.subject, tenant=record.tenant, scopes=record.scopes)


class _Table:
    """Looks records up in a mapping."""

    def __init__(self, records: Mapping[str, ApiKeyRecord]) -> None:
        self._records = records

    async def __call__(self, prefix: str) -> ApiKeyRecord | None:
        return self._records.get(prefix)


_NO_HASH = "0" * 64


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
