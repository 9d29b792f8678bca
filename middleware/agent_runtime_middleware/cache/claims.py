"""Of several processes that miss the same answer at the same time, one asks: a claim in the store that they share."""

import secrets
from contextlib import suppress

import anyio

from agent_runtime import AgentRuntimeError, AnswerKey, KeyValueStore, Refusal

_FIRST_LOOK = 0.01  # seconds until the store is looked at again, which double
_LONGEST = 0.25
_LAST_WORDS = 0.1  # seconds to take a claim back when the caller is cancelled


class Claims:
    """The questions that this process has claimed, each by a value beside the answer's that goes by itself after `seconds`."""

    def __init__(self, store: KeyValueStore, seconds: float) -> None:
        self.seconds = seconds
        self._store = store
        self._held: dict[AnswerKey, int] = {}

    def has(self, key: AnswerKey) -> bool:
        """Whether this process has the question: code inside the call must not wait for itself."""
        return key in self._held

    async def take(self, key: AnswerKey) -> bool:
        """Claim the question; false while another process has it. Cancelled, it takes back what it may have claimed."""
        mark = secrets.token_hex(16)
        try:
            taken = await self._store.add(key.owner, _name(key), mark.encode(), ttl=self.seconds, operation=mark)
        except BaseException:
            with anyio.move_on_after(_LAST_WORDS, shield=True), suppress(AgentRuntimeError):
                await self._withdraw(key, mark)
            raise
        if isinstance(taken, Refusal):
            return False
        self._held[key] = taken
        return True

    async def _withdraw(self, key: AnswerKey, mark: str) -> None:
        stored = await self._store.get(key.owner, _name(key))
        if stored is not None and stored.value == mark.encode():
            await self._store.delete(key.owner, _name(key), expected_version=stored.version)

    async def is_taken(self, key: AnswerKey) -> bool:
        """Whether some process still has it."""
        return await self._store.get(key.owner, _name(key)) is not None

    async def give_back(self, key: AnswerKey) -> None:
        """Let others claim it, where this process has it."""
        version = self._held.pop(key, None)
        if version is not None:
            await self._store.delete(key.owner, _name(key), expected_version=version)


class Pauses:
    """The time between two looks at the store: short at first, and `total` seconds in sum."""

    def __init__(self, total: float) -> None:
        self._left = total
        self._next = _FIRST_LOOK

    async def wait(self) -> bool:
        """Wait for the next look; false, at once, when the time is up."""
        seconds = min(self._next, self._left)
        if seconds <= 0:
            return False
        self._left -= seconds
        self._next = min(2 * self._next, _LONGEST)
        await anyio.sleep(seconds)
        return True


def _name(key: AnswerKey) -> str:
    return f"{key.digest} claimed"
