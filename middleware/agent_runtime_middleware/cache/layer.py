"""Give the answer that was given before."""

import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, Literal, TypeVar, get_args

import anyio
import msgspec

from agent_runtime import (
    MAX_VALUE_BYTES,
    AgentContext,
    AgentResult,
    AgentRuntimeError,
    AnswerKey,
    BaseMiddleware,
    CallNext,
    ConfigurationError,
    Emit,
    EventType,
    KeyValueStore,
    LayerKind,
    LimitExceeded,
    MemoryKeyValueStore,
    ModelRequest,
    ModelResponse,
    RateLimited,
    Reset,
    RuntimeClosed,
    RunTimeout,
    Share,
    SingleFlight,
    Stage,
    StoredValue,
    StoreOutage,
    StoreUnavailable,
    Unavailable,
    Unknown,
    model_answer_key,
    run_answer_key,
    shared_response,
    shared_result,
)
from agent_runtime_middleware.cache.claims import Claims, Pauses
from agent_runtime_middleware.cache.entries import (
    RESPONSES,
    RESULTS,
    Entry,
    Form,
    response_entry,
    result_entry,
    sealed_entry,
)

T = TypeVar("T")


class CacheStats(msgspec.Struct, kw_only=True):
    """What a cache has done so far.

    Attributes:
        hits: Answered from the store.
        stale_hits: Answered from the store after `ttl`.
        shared: Answered with the answer to another caller who asked the same at the same time, in any process.
        misses: Asked, also where that failed.
        store_failures: Reads and writes of the store that failed or took too long.
        unreadable: Values of the store that were damaged, of a newer version, or another question's.
    """

    hits: int = 0
    stale_hits: int = 0
    shared: int = 0
    misses: int = 0
    store_failures: int = 0
    unreadable: int = 0


class CacheMiddleware(BaseMiddleware):
    """Answers a question that was asked before with the answer of then, exactly and to the same owner only.

    Args:
        store: Where answers are kept; by default in this process's memory.
        ttl: Seconds for which an answer is given.
        stale: Seconds after that in which it is still given while one caller asks anew, and when asking fails because the
            model is not available or a rate is limited. Nothing is asked in the background.
        stage: "model": one model call; "run": a whole run, only where it has no session.
        share: To whom an answer is given: the user for whom it was made, that user's tenant, or everyone.
        version: Whatever shapes the answer, or the right to it, and is not in the key; see `run_answer_key`.
        claim: Seconds for which a process claims a question in the store while it asks, so that those who miss the same answer
            in other processes wait for it; one that is killed leaves them waiting for so long. 0: each process asks for
            itself. Costs an `add`, a `get` and a `delete` for each miss.
        timeout: Seconds for one operation of the store, which never takes more than half of the time that is left.
        max_bytes: Larger answers are not kept.
        clock: Unix seconds, like the store's. Ages are told by it, and what is stale; when an answer goes, the store says.

    Kept are answers that are complete, successful and without effect: of the model, text with finish reason "stop" that fits
    the agent's output type; of a run what `shared_result` lets pass, made by the agent. Callers that ask the same at the
    same time share one call, as with `SingleFlightMiddleware`. What is given is `cached`, costs nothing, and arrives in
    one piece. For one event loop at a time.

    A store that fails, and a value of it that is damaged, make a miss: the run goes on uncached, `stats` counts it, and the log
    gets one warning for an outage. What is no failure in the words of `KeyValueStore` is a bug of the store, and raised.

    Cost: the key, a read, and after a miss a write, before the answer is passed on.
    Order: inside auth, guards and redaction, outside retry, timeout and fallback.

    Attributes:
        stats: What it has done so far; only to be read.
    """

    kind = LayerKind.CACHE

    def __init__(
        self,
        store: KeyValueStore | None = None,
        *,
        ttl: float = 300.0,
        stale: float = 0.0,
        stage: Literal["model", "run"] = "model",
        share: Share = "user",
        version: str = "",
        claim: float = 0.0,
        timeout: float = 1.0,
        max_bytes: int = 1 << 20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        _check(ttl=ttl, stale=stale, claim=claim, timeout=timeout, stage=stage, share=share, max_bytes=max_bytes)
        if not (store is None or (hasattr(store, "get") and hasattr(store, "set"))):
            raise ConfigurationError(f"CacheMiddleware(store=...): a {type(store).__name__} is no KeyValueStore")
        self.ttl = float(ttl)
        self.stale = float(stale)
        self.stage = Stage(stage)
        self.share: Share = share
        self.version = version
        self.timeout = timeout
        self.max_bytes = max_bytes
        self.stats = CacheStats()
        self._store: KeyValueStore = MemoryKeyValueStore() if store is None else store
        self._waits = (
            type(self._store) is not MemoryKeyValueStore
        )  # which never suspends: a timer for it would be waste
        self._claims = Claims(self._store, claim) if claim else None
        self._clock = clock
        self._flight = SingleFlight[Any]()
        self._outage = StoreOutage()
        self._kept = 0
        # The other stage gets the base's method back, so that no pipeline compiles this layer in there.
        other = "process_model" if stage == "run" else "process"
        setattr(self, other, getattr(super(), other))

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        key = model_answer_key(request, share=self.share, version=self.version)
        if key is None:
            return await call_next(request)
        question = _Question(
            key=key,
            context=request.context,
            emit=request.emit,
            step=request.step,
            ask=lambda: call_next(request),
            shared=lambda response: shared_response(request, response),
            entry=lambda response, lifetime: response_entry(request, response, lifetime),
            form=RESPONSES,
        )
        return await self._answer(question)

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        key = run_answer_key(context, share=self.share, version=self.version)
        if key is None:
            return await call_next(context)
        question = _Question(
            key=key,
            context=context,
            emit=context.emit,
            step=0,
            ask=lambda: call_next(context),
            shared=lambda result: shared_result(context, result),
            entry=lambda result, lifetime: result_entry(context, result, lifetime),
            form=RESULTS,
        )
        return await self._answer(question)

    async def _answer(self, question: "_Question[T]") -> T:
        kept = self._kept
        found = await self._find(question)
        if found is None and kept != self._kept and question.key not in self._flight:
            found = await self._find(question)  # it may have been kept while the store was being read
        if found is not None and (not found.stale or question.key in self._flight):
            return await self._given(question, found)
        try:
            return await self._asked(question, found)
        except AgentRuntimeError as error:
            if found is None or not _may_pass(error) or not question.context.can_restart(question.step):
                raise
        await question.emit(Reset(step=question.step))
        return await self._given(question, found)

    async def _asked(self, question: "_Question[T]", old: "_Found[T] | None") -> T:
        async def ask() -> T:
            if self._claims is not None and not self._claims.has(question.key):
                other = await self._asked_elsewhere(self._claims, question, old)
                if other is not None:
                    return (
                        await self._given(question, other)
                        if other.stale
                        else await self._shared(question, other.answer)
                    )
            self.stats.misses += 1
            return await question.ask()

        answer: T
        try:
            answer, asked = await self._flight.share(
                question.key,
                ask,
                owner=question.context.owner,
                shared=question.shared,
                keep=partial(self._keep, question),
            )
        finally:
            if self._claims is not None and question.key not in self._flight:
                await self._give_back(self._claims, question)
        return answer if asked else await self._shared(question, answer)

    async def _asked_elsewhere(
        self, claims: Claims, question: "_Question[T]", old: "_Found[T] | None"
    ) -> "_Found[T] | None":
        """The answer that another process was asking for; `None` when this caller is to ask, with the claim or without."""
        try:
            if await self._in_time(claims.take(question.key)):
                found = await self._find(question)  # the process that had it before may have kept its answer since
                return None if found is None or found.stale else found
            if old is not None:
                return old
            pauses, is_taken = Pauses(claims.seconds), True
            while is_taken and await pauses.wait():
                is_taken = await self._in_time(claims.is_taken(question.key))
                found = await self._find(question)
                if found is not None:
                    return found
        except _STORE_FAILURES as error:
            await self._store_failed(question.context, error)
        return None

    async def _give_back(self, claims: Claims, question: "_Question[T]") -> None:
        with anyio.CancelScope(shield=True):  # those who wait elsewhere should not wait for the end of its time
            try:
                await self._in_time(claims.give_back(question.key))
            except _STORE_FAILURES as error:
                await self._store_failed(question.context, error)

    async def _shared(self, question: "_Question[T]", answer: T) -> T:
        self.stats.shared += 1
        await self._tell(question.context, age=0.0, stale=False)
        return answer

    async def _given(self, question: "_Question[T]", found: "_Found[T]") -> T:
        if found.stale:
            self.stats.stale_hits += 1
        else:
            self.stats.hits += 1
        await self._tell(question.context, age=found.age, stale=found.stale)
        return found.answer

    async def _find(self, question: "_Question[T]") -> "_Found[T] | None":
        key = question.key
        try:
            stored = await self._in_time(self._store.get(key.owner, key.digest))
        except _STORE_FAILURES as error:
            await self._store_failed(question.context, error)
            return None
        self._outage.answered(self.name)
        if stored is None:
            return None
        entry = question.form.opened(stored.value, key)
        if entry is None:
            self.stats.unreadable += 1
            return None
        return self._dated(question.form.answer(entry), entry, stored)

    def _dated(self, answer: T, entry: "Entry", stored: StoredValue) -> "_Found[T] | None":
        age = max(0.0, entry.lifetime - (stored.expires_at - self._clock()))
        if entry.lifetime <= self.ttl or age < self.ttl:  # in the first case the store's clock alone decides
            return _Found(answer=answer, age=age, stale=False)
        return _Found(answer=answer, age=age, stale=True) if age < self.ttl + self.stale else None

    async def _keep(self, question: "_Question[T]", answer: T) -> None:
        key, lifetime = question.key, self.ttl + self.stale
        entry = question.entry(answer, lifetime)
        sealed = None if entry is None else sealed_entry(entry, key)
        if sealed is None or len(sealed) > self.max_bytes:
            return
        try:
            await self._in_time(self._store.set(key.owner, key.digest, sealed, ttl=lifetime))
            self._kept += 1
        except _STORE_FAILURES as error:
            await self._store_failed(question.context, error)

    async def _in_time(self, operation: Awaitable[T]) -> T:
        if not self._waits:
            return await operation
        now = anyio.current_time()
        left = anyio.current_effective_deadline() - now
        with anyio.CancelScope(deadline=now + min(self.timeout, left / 2)):
            return await operation
        raise StoreUnavailable(f"the store took longer than {self.timeout:g} s, or than half of the time that was left")

    async def _store_failed(self, context: AgentContext, error: AgentRuntimeError) -> None:
        self.stats.store_failures += 1
        await self._outage.failed(self.name, self.stage, context, error)

    async def _tell(self, context: AgentContext, *, age: float, stale: bool) -> None:
        if context.run.bus is not None:
            metadata = {"middleware": self.name, "stage": self.stage, "age": age, "stale": stale}
            await context.publish(EventType.CACHE_HIT, metadata=metadata)


_STORE_FAILURES = (Unavailable, Unknown, LimitExceeded)


def _may_pass(error: AgentRuntimeError) -> bool:
    """Whether an old answer is better than this error: the model cannot be asked now."""
    return isinstance(error, RateLimited | Unavailable) and not isinstance(error, RunTimeout | RuntimeClosed)


def _check(*, ttl: float, stale: float, claim: float, timeout: float, stage: str, share: str, max_bytes: int) -> None:
    for name, seconds in (("ttl", ttl), ("timeout", timeout)):
        if not 0 < seconds < math.inf:
            raise ConfigurationError(f"CacheMiddleware({name}={seconds!r}): seconds, above 0 and finite")
    for name, seconds in (("stale", stale), ("claim", claim)):
        if not 0 <= seconds < math.inf:
            raise ConfigurationError(f"CacheMiddleware({name}={seconds!r}): seconds, from 0 and finite")
    if stage not in ("model", "run"):
        raise ConfigurationError(f'CacheMiddleware(stage={stage!r}): "model" or "run"')
    if share not in get_args(Share):
        raise ConfigurationError(f"CacheMiddleware(share={share!r}): one of {', '.join(get_args(Share))}")
    if not 0 < max_bytes <= MAX_VALUE_BYTES:
        raise ConfigurationError(f"CacheMiddleware(max_bytes={max_bytes!r}): from 1 to {MAX_VALUE_BYTES}")


class _Question(msgspec.Struct, Generic[T], frozen=True, kw_only=True, eq=False):
    """One call on its way in, and all that depends on its stage."""

    key: AnswerKey
    context: AgentContext
    emit: Emit
    step: int
    ask: Callable[[], Awaitable[T]]
    shared: Callable[[T], T | None]
    entry: Callable[[T, float], Entry | None]
    form: Form[T]


class _Found(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """An answer that the store had, `age` seconds after it was put there."""

    answer: T
    age: float
    stale: bool
