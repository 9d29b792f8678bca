"""What a backend implements to keep small values for a time: bytes under an owner's key, each operation one atomic step."""

import math
from typing import Protocol

from agent_runtime.errors import InvalidInput, LimitExceeded
from agent_runtime.session_store import Refusal
from agent_runtime.types import Owner, Value

MAX_KEY_CHARACTERS = 512
"""The longest key of a `KeyValueStore`."""
MAX_VALUE_BYTES = 8 << 20
"""The largest value that every `KeyValueStore` takes."""


class StoredValue(Value, frozen=True, kw_only=True):
    """A value as the store has it. `expires_at` is Unix seconds by the store's clock.

    `version` is for `replace` and `delete`. No key has the same version twice, also after it was gone, so that what is
    at the version that was read is what was read.
    """

    value: bytes
    version: int
    expires_at: float

    def __repr__(self) -> str:
        return f"StoredValue(version={self.version}, {len(self.value)} bytes)"


def check_entry(key: str, value: bytes = b"", *, ttl: float = 1.0) -> None:
    """What every `KeyValueStore` asks of its arguments before anything else.

    Raises `InvalidInput` for a key that does not have 1–512 characters, and for a `ttl` that is not finite and above 0;
    `LimitExceeded` for a value above 8 MiB.
    """
    if not 0 < len(key) <= MAX_KEY_CHARACTERS:
        raise InvalidInput(f"a key has 1–{MAX_KEY_CHARACTERS} characters, this one {len(key)}; hash what is longer")
    if not 0 < ttl < math.inf:
        raise InvalidInput(f"a ttl is a number of seconds above 0, not {ttl!r}")
    if len(value) > MAX_VALUE_BYTES:
        raise LimitExceeded(
            f"a value of {len(value)} bytes is larger than {MAX_VALUE_BYTES}, the limit; store it elsewhere",
            details={"limit": MAX_VALUE_BYTES, "found": len(value)},
        )


class KeyValueStore(Protocol):
    """Bytes under keys, each for a time.

    - A value is named by owner *and* key, both compared exactly: nobody sees or changes another owner's. A key is any text
      of 1–512 characters, lone surrogates and `"\\0"` too; a value is at most 8 MiB. What `check_entry` refuses is raised.
    - Each method is one atomic step and one await. Cancelled or failing, it is done as a whole or not at all.
    - A value lives until `expires_at`, by the store's clock, and is gone from that moment on. Each write sets that to `ttl`
      seconds from now, so none makes a value permanent; reading does not prolong. A store with bounded memory may let go
      of a value before.
    - Any call can be repeated. `set`, `delete` and `delete_all` have the same effect twice. `add` and `replace` take an
      `operation`, new for each write: as long as what it wrote is there, the same again changes nothing and answers like
      the first; afterwards it is one more attempt.
    - `StoreUnavailable` when the backend cannot be reached, `OutcomeUnknown` when a write was sent and no answer came. An
      outage never looks like an absent value.
    """

    async def get(self, owner: Owner, key: str) -> StoredValue | None:
        """The value under the key."""
        ...

    async def set(self, owner: Owner, key: str, value: bytes, *, ttl: float) -> int:
        """Put the value, whatever is there; its version."""
        ...

    async def add(self, owner: Owner, key: str, value: bytes, *, ttl: float, operation: str) -> int | Refusal:
        """Put the value where none is; its version. Of many at the same time one does. Refuses `EXISTS`."""
        ...

    async def replace(
        self, owner: Owner, key: str, value: bytes, *, expected_version: int, ttl: float, operation: str
    ) -> int | Refusal:
        """Put the value in the place of the one with this version; the new version. Refuses `MISSING`, `CHANGED`."""
        ...

    async def delete(self, owner: Owner, key: str, *, expected_version: int | None = None) -> bool:
        """Remove the value, or only the one with this version; whether it was there."""
        ...

    async def delete_all(self, owner: Owner) -> int:
        """Remove all values of the owner; how many there were."""
        ...
