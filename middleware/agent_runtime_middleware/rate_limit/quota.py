"""What a rate limit counts, for whom, and under which key."""

import math
from typing import Literal, TypeAlias, get_args

import msgspec

from agent_runtime import AgentContext, Charge, ConfigurationError, RateKey, RateLimit

By: TypeAlias = Literal["user", "tenant", "agent", "model"]
"""Whose uses count together. A user is always one of a tenant: the same name in another tenant counts apart."""


class Quota(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """So many requests, or so many tokens, in `per` seconds. A value out of range is a `ConfigurationError`.

    Attributes:
        requests: How many; this or `tokens` is given.
        tokens: How many, input and output together.
        per: Seconds. No window that starts anew: what was used comes back bit by bit.
        by: Whose uses count together; `()` is everybody's.
        burst: How much may be used at once, at least 1; by default the whole quota.
        name: What refusals call it, and what it is counted under: in one store, quotas of one name and one `by` are one.
            Made from the other fields where none is given, as in `100 requests per 60 s by user`.
        reserve: Tokens that are set aside for what nobody can know before: the answer to a request without `max_tokens`,
            or a whole run where tokens are counted at the run stage. At most the burst is set aside.
    """

    requests: float | None = None
    tokens: float | None = None
    per: float
    by: By | tuple[By, ...] = "user"
    burst: float | None = None
    name: str | None = None
    reserve: float = 1_000

    def __post_init__(self) -> None:
        if (self.requests is None) == (self.tokens is None):
            raise ConfigurationError("Quota() limits requests or tokens: set one of the two; two quotas limit both")
        for field in ("requests", "tokens", "per", "burst", "reserve"):
            value = getattr(self, field)
            if value is not None and not is_positive(value):
                raise ConfigurationError(f"Quota({field}={value!r}): a number above 0 and finite")
        if _most(self) < 1:
            raise ConfigurationError(f"Quota(burst={_most(self)!r}) admits nothing: set burst to at least 1")
        by = whose(self)
        if not set(by) <= set(get_args(By)) or len(set(by)) < len(by):
            raise ConfigurationError(f"Quota(by={self.by!r}): each of {', '.join(get_args(By))} at most once")
        if self.name is not None and not (self.name and self.name.isprintable()):
            raise ConfigurationError(f"Quota(name={self.name!r}): printable characters, or leave it out")


class Wanted(msgspec.Struct, frozen=True, eq=False):
    """What is known before it is used: by which run and model, and of how many tokens. `answer` may be unknown."""

    context: AgentContext
    model: str | None = None
    input: int = 0
    answer: float | None = None


class Meter(msgspec.Struct, frozen=True, eq=False):
    """A quota as it is counted; `local` is the limit while the store is away."""

    name: str
    of_tokens: bool
    reserve: float
    by: tuple[By, ...]
    counted_as: str
    limit: RateLimit
    local: RateLimit

    @classmethod
    def of(cls, quota: Quota, local_share: float) -> "Meter":
        amount, unit, by = _amount(quota), "tokens" if quota.requests is None else "requests", whose(quota)
        return cls(
            name=label(quota),
            of_tokens=quota.tokens is not None,
            reserve=quota.reserve,
            by=by,
            counted_as=",".join((unit, *sorted(by))),
            limit=RateLimit(rate=amount, period=quota.per, burst=_most(quota)),
            local=RateLimit(rate=amount * local_share, period=quota.per, burst=max(_most(quota) * local_share, 1)),
        )

    def charge(self, wanted: Wanted, *, locally: bool = False) -> Charge:
        limit = self.local if locally else self.limit
        if not self.of_tokens:
            return Charge(key=self._key(wanted), limit=limit)
        answer = self.reserve if wanted.answer is None else wanted.answer
        return Charge(key=self._key(wanted), limit=limit, cost=min(wanted.input + answer, limit.burst))

    def _key(self, wanted: Wanted) -> RateKey:
        """`counted_as` says which parts follow, each for itself: no two keys can be taken for one another."""
        key: RateKey = (self.name, self.counted_as)
        if "user" in self.by:
            owner = wanted.context.owner
            key += (owner.tenant_id, owner.user_id)
        elif "tenant" in self.by:
            key += (wanted.context.owner.tenant_id,)
        if "agent" in self.by:
            key += (wanted.context.agent_id,)
        return (*key, wanted.model) if "model" in self.by else key


def whose(quota: Quota) -> tuple[By, ...]:
    return (quota.by,) if isinstance(quota.by, str) else tuple(quota.by)


def _amount(quota: Quota) -> float:
    return quota.requests or quota.tokens or 0.0


def _most(quota: Quota) -> float:
    return _amount(quota) if quota.burst is None else quota.burst


def label(quota: Quota) -> str:
    unit = "tokens" if quota.requests is None else "requests"
    by = f" by {', '.join(whose(quota))}" if quota.by else ""
    return quota.name or f"{_amount(quota):.12g} {unit} per {quota.per:.12g} s{by}"


def is_positive(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf
