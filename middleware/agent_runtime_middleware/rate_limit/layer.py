"""Admit so many requests and tokens in a time, for each user, tenant, agent or model."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import anyio
import msgspec

from agent_runtime import (
    AgentContext,
    AgentResult,
    BaseMiddleware,
    CallNext,
    Charge,
    ConfigurationError,
    CorruptRecord,
    EventType,
    LayerKind,
    MemoryRateLimitStore,
    ModelRequest,
    ModelResponse,
    OutcomeUnknown,
    RateLimited,
    RateLimitStore,
    Settlement,
    Stage,
    StoreOutage,
    StoreUnavailable,
    Taken,
)
from agent_runtime_middleware.rate_limit.quota import Meter, Quota, Wanted, is_positive, label, whose
from agent_runtime_middleware.rate_limit.tokens import CallSeen, RunSeen, wanted

OnStoreFailure: TypeAlias = Literal["local", "refuse", "allow"]

_LAST_WORDS = 2.0  # seconds in which what was used is written down, whatever becomes of the run
_MEANWHILE: dict[OnStoreFailure, str] = {
    "local": "counts in this process, more strictly, without its store",
    "refuse": "refuses everything without its store",
    "allow": "lets everything pass without its store",
}
_FAILURES = (StoreUnavailable, OutcomeUnknown, CorruptRecord)


class _Held(msgspec.Struct, frozen=True, eq=False):
    """Tokens that were set aside, and where."""

    store: RateLimitStore
    charges: list[Charge]
    stage: Stage
    context: AgentContext


class RateLimitMiddleware(BaseMiddleware):
    """Refuses with `RateLimited` what passes a quota; `details` say which and how it stands, `retry_after` when it fits.

    Requests are counted once per run, before anything inside this layer. Tokens, and requests by model, are counted at each
    model call: set aside before it (the input's bytes by four, and `max_tokens` or the quota's `reserve`), corrected to what
    was used after it, also where the call failed or was cancelled. All quotas of a stage are taken in one step, or none is.
    Whose use it is, is said by the context's owner only, whom Auth has made; never by metadata.

    Args:
        quotas: At least one, each of another name.
        store: Where it is counted; by default this process's memory. Layers that share a store share quotas of one name.
        stage: Count all quotas at this one: `"run"` for agents whose model calls do not pass through the runtime (what a
            run used is then what its result says), `"model"` to count model calls as requests.
        on_store_failure: `"local"` counts in this process's memory while the store fails; `"refuse"` raises its error;
            `"allow"` lets everything pass.
        local_share: What part of each quota this process admits then; other processes do the same.
        timeout: Seconds for one operation of the store, and never more than `Limits.store`.

    A failure of the store, `timeout` seconds without an answer included, is counted in `store_failures`, told by the event
    `middleware_failed`, and an outage by one warning in the log. What is no failure in the words of `RateLimitStore` is a bug
    of the store, and raised. Tokens that were set aside and cannot be given back come back with time.

    Cost: one operation of the store per run and one per model call, where a quota counts there; with tokens one more after
    each, and one function call per piece of a streamed answer. In memory none of them suspends.
    Order: inside Auth, outside of Cache and Retry. The built-in agent's own retry waits for the model stage, if it may.
    """

    kind = LayerKind.RATE_LIMIT

    def __init__(
        self,
        quotas: Sequence[Quota],
        *,
        store: RateLimitStore | None = None,
        stage: Literal["run", "model"] | None = None,
        on_store_failure: OnStoreFailure = "local",
        local_share: float = 0.5,
        timeout: float = 5.0,
    ) -> None:
        if isinstance(quotas, Quota):
            raise ConfigurationError("RateLimitMiddleware() takes a list of quotas: [Quota(...)]")
        _check(quotas, stage, on_store_failure, local_share, timeout)
        if not (store is None or (hasattr(store, "take") and hasattr(store, "settle"))):
            raise ConfigurationError(f"RateLimitMiddleware(store=...): a {type(store).__name__} is no RateLimitStore")
        self._outage = StoreOutage(_MEANWHILE[on_store_failure])
        self._timeout = timeout
        self._store: RateLimitStore = MemoryRateLimitStore() if store is None else store
        self._local = MemoryRateLimitStore()
        self._on_store_failure = on_store_failure
        self._meters: dict[Stage, list[Meter]] = {Stage.RUN: [], Stage.MODEL: []}
        for quota in quotas:
            self._meters[_stage_of(quota, stage)].append(Meter.of(quota, local_share))
        self._of_tokens = [which for which, found in self._meters.items() if any(meter.of_tokens for meter in found)]
        # A stage without a quota gets the base's method back, so that no pipeline compiles this layer in there.
        for which, method in {Stage.RUN: "process", Stage.MODEL: "process_model"}.items():
            if not self._meters[which]:
                setattr(self, method, getattr(super(), method))

    @property
    def store_failures(self) -> int:
        """How often the store has failed."""
        return self._outage.failures

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        held = await self._take(Stage.RUN, Wanted(context))
        if held is None:
            return await call_next(context)
        seen = RunSeen(context.run)
        try:
            result = await call_next(context)
        except GeneratorExit:
            raise  # thrown away unfinished: there is no event loop to wait in
        except BaseException as error:
            await self._settle(held, seen.used(error))
            raise
        await self._settle(held, seen.used())
        return result

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        asked = wanted(request)
        held = await self._take(Stage.MODEL, asked)
        if held is None:
            return await call_next(request)
        seen = CallSeen(request, asked.input)
        try:
            response = await call_next(request.replace(emit=seen.emit) if request.stream else request)
        except GeneratorExit:
            raise
        except BaseException as error:
            await self._settle(held, seen.used_in_vain(error))
            raise
        await self._settle(held, seen.used_for(response))
        return response

    async def _take(self, stage: Stage, wanted: Wanted) -> _Held | None:
        """Take from all quotas of the stage; the tokens among it, where there are any and somebody counts them."""
        meters, store = self._meters[stage], self._store
        charges = [meter.charge(wanted) for meter in meters]
        try:
            taken = await self._take_in_time(store, charges, wanted.context)
        except _FAILURES as error:
            if self._on_store_failure == "refuse":
                self._outage.raised(self.name, error)
                raise
            await self._outage.failed(self.name, stage, wanted.context, error)
            if self._on_store_failure == "allow":
                return None
            store, charges = self._local, [meter.charge(wanted, locally=True) for meter in meters]
            taken = await store.take(charges)
        if not taken.allowed:
            raise await self._refusal(stage, wanted.context, charges, taken)
        if stage not in self._of_tokens:
            return None
        tokens = [charge for charge, meter in zip(charges, meters, strict=True) if meter.of_tokens]
        return _Held(store, tokens, stage, wanted.context)

    async def _refusal(
        self, stage: Stage, context: AgentContext, charges: Sequence[Charge], taken: Taken
    ) -> RateLimited:
        """Tell of, and return, the error of the quota that is waited for longest."""
        waits = [allowance.retry_after for allowance in taken.allowances]
        place = waits.index(max(waits))
        quota, limit, allowance = self._meters[stage][place].name, charges[place].limit, taken.allowances[place]
        details = {
            "quota": quota,
            "limit": limit.rate,
            "remaining": math.floor(allowance.remaining),
            "reset": allowance.reset_after,
            "per": limit.period,
        }
        error = RateLimited(
            f"quota {quota!r} is used up (limit {limit.rate:.12g} per {limit.period:.12g} s); "
            f"try again in {math.ceil(taken.retry_after * 1_000) / 1_000:.12g} s",
            details=details,
            retry_after=taken.retry_after,
        )
        told = {"middleware": self.name, "stage": stage, **details, "retry_after": taken.retry_after}
        await context.publish(
            EventType.RATE_LIMITED, error_type=error.error_type, error_message=str(error), metadata=told
        )
        return error

    async def _settle(self, held: _Held, used: float | None) -> None:
        """Correct what was set aside to what was used; `None` leaves it. Nothing cancels it, and no failing store is raised."""
        if used is None:
            return
        settlements = [Settlement(charge=charge, used=used) for charge in held.charges]
        try:
            await self._settle_in_time(held.store, settlements, held.context)
        except _FAILURES as error:
            await self._outage.failed(self.name, held.stage, held.context, error)

    async def _take_in_time(self, store: RateLimitStore, charges: Sequence[Charge], context: AgentContext) -> Taken:
        if (
            type(store) is MemoryRateLimitStore
        ):  # it never suspends: no scope could end it, and one costs more than it does
            return await store.take(charges)
        seconds = min(self._timeout, context.run.limits.store)
        with anyio.move_on_after(seconds):
            taken = await store.take(charges)
            self._outage.answered(self.name)
            return taken
        raise _too_slow(seconds)

    async def _settle_in_time(
        self, store: RateLimitStore, settlements: Sequence[Settlement], context: AgentContext
    ) -> None:
        if type(store) is MemoryRateLimitStore:
            return await store.settle(settlements)
        seconds = min(self._timeout, context.run.limits.store, _LAST_WORDS)
        with anyio.move_on_after(seconds, shield=True):
            return await store.settle(settlements)
        raise _too_slow(seconds)


def _too_slow(seconds: float) -> StoreUnavailable:
    return StoreUnavailable(f"the rate limit store did not answer within {seconds:g} s")


def _check(
    quotas: Sequence[Quota], stage: str | None, on_store_failure: str, local_share: float, timeout: float
) -> None:
    names = [label(quota) for quota in quotas]
    if not names:
        raise ConfigurationError("RateLimitMiddleware() limits nothing; give it a quota: [Quota(requests=100, per=60)]")
    if len(set(names)) < len(names):
        raise ConfigurationError(f"RateLimitMiddleware(): each quota needs a name of its own, these are {names}")
    if stage not in (None, "run", "model"):
        raise ConfigurationError(f'RateLimitMiddleware(stage={stage!r}): "run" or "model", or leave it out')
    if on_store_failure not in get_args(OnStoreFailure):
        choices = ", ".join(get_args(OnStoreFailure))
        raise ConfigurationError(f"RateLimitMiddleware(on_store_failure={on_store_failure!r}): one of {choices}")
    if not (is_positive(local_share) and local_share <= 1):
        raise ConfigurationError(f"RateLimitMiddleware(local_share={local_share!r}): above 0, at most 1")
    if not is_positive(timeout):
        raise ConfigurationError(f"RateLimitMiddleware(timeout={timeout!r}): seconds, above 0 and finite")


def _stage_of(quota: Quota, stage: str | None) -> Stage:
    by_model = "model" in whose(quota)
    if stage == "run" and by_model:
        raise ConfigurationError(
            f"quota {label(quota)!r} counts by model, which only the model stage knows; give it a layer of its own"
        )
    return Stage(stage or ("model" if by_model or quota.tokens is not None else "run"))
