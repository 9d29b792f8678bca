"""JSON Web Tokens as credentials. Needs the `jwt` extra."""

import inspect
import json
import logging
import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeAlias

import anyio
from anyio.to_thread import run_sync
from typing_extensions import TypeIs

from agent_runtime import AuthenticationFailed, ConfigurationError, Principal, Secret, StoreUnavailable

try:
    import jwt
except ImportError as error:
    raise ImportError("JWT needs PyJWT: pip install 'onion-agent-runtime[jwt]'") from error

logger = logging.getLogger(__name__)

KeySet: TypeAlias = Mapping[str, Any]
"""A JSON Web Key Set (RFC 7517), decoded: `{"keys": [...]}`."""

FetchKeys: TypeAlias = Callable[[], KeySet | Awaitable[KeySet]]

_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_MAX_TOKEN = 8 << 10  # bytes
_MAX_KEYS = 64
_MAX_TIME = 1 << 40  # seconds since 1970; the year 36812
_FETCH_TIMEOUT = 5.0
_SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})
_ASYMMETRIC = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})


class JWT:
    """Authenticates signed tokens of one issuer for one audience.

    Args:
        keys: The issuer's key set, or a function that fetches it, within 5 s: `async def`,
            or sync and called in a worker thread. Each key is used with its own
            algorithm only, whatever a token says. Keys without `kid`, for encryption, or of other algorithms are left out.
        issuer: What `iss` must be.
        audience: What `aud` must be or hold.
        algorithms: Which are accepted: all symmetric (`HS…`) or all asymmetric, never `none`.
        types: What the header's `typ` may be.
        leeway: Seconds by which clocks may differ.
        max_lifetime: Seconds from `iat` to `exp`, at most.
        tenant_claim: The claim that names the tenant; a token without it is refused.
        refresh: Fetched keys older than this many seconds are fetched again.
        min_refresh: Seconds between two fetches, whatever tokens ask for: an unknown `kid` causes at most one.
        max_age: Seconds for which fetched keys serve while fetching fails; then it is `StoreUnavailable`.

    A token must have a `kid` that names a key, no header members but `alg`, `kid` and `typ`, and the claims `exp`, `iat`,
    `iss`, `aud` and `sub` (1 to 255 printable characters). Scopes come from `scope` (words) or `scp` (list or words). At
    most 8 KiB; a JSON member that occurs twice is refused. Nothing of a token is believed before its signature holds.
    """

    def __init__(
        self,
        keys: KeySet | FetchKeys,
        *,
        issuer: str,
        audience: str,
        algorithms: Collection[str] = ("RS256", "PS256", "ES256", "EdDSA"),
        types: Collection[str] = ("JWT", "at+jwt"),
        leeway: float = 30.0,
        max_lifetime: float = 86_400.0,
        tenant_claim: str | None = None,
        refresh: float = 300.0,
        min_refresh: float = 10.0,
        max_age: float = 3_600.0,
    ) -> None:
        accepted = frozenset(algorithms)
        if not accepted or not (accepted <= _SYMMETRIC or accepted <= _ASYMMETRIC):
            raise ConfigurationError(
                f"JWT(algorithms={sorted(accepted)}): one or more of {sorted(_ASYMMETRIC)}, or of {sorted(_SYMMETRIC)}"
            )
        if not issuer or not audience:
            raise ConfigurationError("JWT needs an issuer and an audience")
        ages = {"refresh": refresh, "min_refresh": min_refresh, "max_age": max_age}
        for name, seconds in {"leeway": leeway, "max_lifetime": max_lifetime, **ages}.items():
            if not 0 <= seconds < math.inf:
                raise ConfigurationError(f"JWT({name}={seconds!r}): seconds, from 0 and finite")
        if max_age < max(refresh, min_refresh):
            raise ConfigurationError(f"JWT(max_age={max_age!r}): keys would expire before they may be fetched again")
        self._issuer = issuer
        self._audience = audience
        self._types = frozenset(name.lower() for name in types)
        self._leeway = leeway
        self._max_lifetime = max_lifetime
        self._tenant_claim = tenant_claim
        self._keys: _FixedKeys | _FetchedKeys = (
            _FixedKeys(keys, accepted) if _is_object(keys) else _FetchedKeys(keys, accepted, **ages)
        )

    def recognizes(self, credential: Secret) -> bool:
        return credential.reveal().count(".") == 2

    async def authenticate(self, credential: Secret) -> Principal:
        token = credential.reveal()
        if len(token) > _MAX_TOKEN or _SHAPE.fullmatch(token) is None:
            raise AuthenticationFailed("the token is too long, or not three parts of base64url")
        header, claims = (_decoded(part) for part in token.split(".")[:2])
        self._check_form(claims)
        key = await self._key(header)
        try:
            jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],  # the key's, never the token's
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise AuthenticationFailed(f"the token does not hold: {type(error).__name__}") from error
        tenant = None if self._tenant_claim is None else claims[self._tenant_claim]
        return Principal(subject=claims["sub"], tenant=tenant, scopes=_scopes(claims), claims=claims)

    async def _key(self, header: Mapping[str, Any]) -> jwt.PyJWK:
        if not header.keys() <= {"alg", "kid", "typ"}:
            raise AuthenticationFailed("the token's header has members besides alg, kid and typ")
        if str(header.get("typ")).lower() not in self._types:
            raise AuthenticationFailed("the token is of another type")
        kid = header.get("kid")
        key = await self._keys.find(kid) if isinstance(kid, str) else None
        if key is None:
            raise AuthenticationFailed("the token names no key of the issuer")
        return key

    def _check_form(self, claims: Mapping[str, Any]) -> None:
        """Refuse what PyJWT lets pass: numbers as text, long lives, and names that could break a key or a log."""
        times: list[Any] = [claims.get("exp"), claims.get("iat"), claims.get("nbf", 0)]
        if not all(type(time) in (int, float) and 0 <= time < _MAX_TIME for time in times):
            raise AuthenticationFailed("exp, iat and nbf must be numbers of seconds")
        if claims["exp"] - claims["iat"] > self._max_lifetime:
            raise AuthenticationFailed(f"the token lives longer than {self._max_lifetime:g} s")
        for claim in ("sub", self._tenant_claim):
            if claim is not None and not _is_name(claims.get(claim)):
                raise AuthenticationFailed("subject and tenant are 1 to 255 printable characters")


class _FixedKeys:
    """A key set given as data."""

    def __init__(self, key_set: KeySet, accepted: Collection[str]) -> None:
        try:
            self._found = _usable(key_set, accepted)
        except ValueError as error:
            raise ConfigurationError(f"JWT(keys): {error}") from error

    async def find(self, kid: str) -> jwt.PyJWK | None:
        return self._found.get(kid)


class _FetchedKeys:
    """A key set that a function fetches: one fetch at a time, and none sooner than `min_refresh` after the last."""

    def __init__(
        self, fetch: FetchKeys, accepted: Collection[str], *, refresh: float, min_refresh: float, max_age: float
    ) -> None:
        self._fetch = fetch
        self._accepted = accepted
        self._refresh = refresh
        self._min_refresh = min_refresh
        self._max_age = max_age
        self._found: dict[str, jwt.PyJWK] = {}
        self._fetched = self._tried = -math.inf
        self._fetching: anyio.Event | None = None
        self._failure: Exception | None = None

    async def find(self, kid: str) -> jwt.PyJWK | None:
        """The key of that name. Raises `StoreUnavailable` when there are no keys young enough to be believed."""
        while self._is_due(kid):
            if self._fetching is None:
                await self._update()
                break
            await self._fetching.wait()
        if anyio.current_time() - self._fetched > self._max_age:
            raise StoreUnavailable("the issuer's keys cannot be fetched") from self._failure
        return self._found.get(kid)

    def _is_due(self, kid: str) -> bool:
        now = anyio.current_time()
        wanted = kid not in self._found or now - self._fetched >= self._refresh
        return wanted and now - self._tried >= self._min_refresh

    async def _update(self) -> None:
        self._fetching = anyio.Event()
        try:
            self._found = _usable(await self._fetch_in_time(), self._accepted)
            self._fetched = anyio.current_time()
        except Exception as error:  # noqa: BLE001 - the edge to the host's function, which may raise anything
            self._failure = error
            logger.warning("the issuer's keys cannot be fetched (%s)", type(error).__name__)
        finally:
            # Cancelled before it is known whether there are keys, it does not count: who waits may fetch at once.
            if self._found or self._failure is not None:
                self._tried = anyio.current_time()
            self._fetching.set()
            self._fetching = None

    async def _fetch_in_time(self) -> KeySet:
        with anyio.fail_after(_FETCH_TIMEOUT):
            if inspect.iscoroutinefunction(self._fetch):
                key_set = await self._fetch()
            else:
                key_set = await run_sync(self._fetch, abandon_on_cancel=True)
        if not _is_object(key_set):
            raise TypeError(f"the function for JWT(keys) returned {type(key_set).__name__}, not a mapping")
        return key_set


def _usable(key_set: KeySet, accepted: Collection[str]) -> dict[str, jwt.PyJWK]:
    """The keys that may verify a token, by `kid`; `ValueError` when there are none, too many, or two of one name."""
    members = key_set.get("keys")
    if not _is_list(members) or len(members) > _MAX_KEYS:
        raise ValueError(f"a key set has a list `keys` of at most {_MAX_KEYS}")
    found: dict[str, jwt.PyJWK] = {}
    for member in members:
        key = _key_of(member)
        if key is None or key.algorithm_name not in accepted or key.Algorithm.check_key_length(key.key):
            continue
        kid = str(key.key_id)
        if kid in found:
            raise ValueError(f"two keys are named {kid!r}")
        found[kid] = key
    if not found:
        raise ValueError(f"no key has a kid, one of the algorithms {sorted(accepted)} and a safe length")
    return found


def _key_of(member: Any) -> jwt.PyJWK | None:
    if not _is_object(member) or not member.get("kid") or member.get("use", "sig") != "sig":
        return None
    try:
        return jwt.PyJWK(dict(member))
    except jwt.PyJWTError:
        return None


def _decoded(part: str) -> Mapping[str, Any]:
    value: Any = None
    try:
        value = json.loads(
            urlsafe_b64decode(part + "=" * (-len(part) % 4)),
            object_pairs_hook=_each_once,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except (ValueError, RecursionError):
        pass  # refused below; the parser's words would quote the token
    if not _is_object(value):
        raise AuthenticationFailed("a part of the token is no JSON object, or names a member twice")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _is_object(value: object) -> TypeIs[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def _is_list(value: object) -> TypeIs[list[Any]]:
    return isinstance(value, list)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable()


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    scopes: Any = claims.get("scope", claims.get("scp", ""))
    words: Any = scopes.split() if isinstance(scopes, str) else scopes
    if not _is_list(words) or not all(isinstance(word, str) for word in words):
        raise AuthenticationFailed("scope and scp are words")
    return frozenset(words)
