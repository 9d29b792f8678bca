"""What each store of this folder is: a `PostgresDatabase`, its own or a shared one, a clock, and names for what is kept."""

from collections.abc import Callable

import asyncpg
from typing_extensions import Unpack

from agent_runtime import ConfigurationError, Owner, Refusal, ServerStore
from agent_runtime_adapters.postgres.database import DatabaseOptions, PostgresDatabase

_HIGHEST = (1 << 63) - 1


class PostgresStore(ServerStore[PostgresDatabase]):
    """A store in the schema of a `PostgresDatabase`, its own or a shared one, that somebody else closes.

    `clock` gives Unix seconds in the place of the server's own time.
    """

    def __init__(
        self,
        database: str | PostgresDatabase,
        /,
        *,
        clock: Callable[[], float] | None = None,
        **options: Unpack[DatabaseOptions],
    ) -> None:
        owned = not isinstance(database, PostgresDatabase)
        if isinstance(database, PostgresDatabase):
            if options:
                raise ConfigurationError(f"{', '.join(options)}: set where the database that is shared is made")
            super().__init__(database, owned=owned)
        else:
            super().__init__(PostgresDatabase(database, **options), owned=owned)
        self._clock = clock

    def now(self) -> float | None:
        """What the functions of the schema take as `clock`."""
        return None if self._clock is None else self._clock()


def owner_columns(owner: Owner) -> tuple[str, str]:
    """`tenant_id` and `user_id`. No tenant is called '', which is what an owner without one has here."""
    return owner.tenant_id or "", owner.user_id


def in_range(number: int) -> int:
    """A number of the caller's that PostgreSQL may be asked for: what is above the highest is as good as that."""
    return min(number, _HIGHEST)


def answered(row: asyncpg.Record) -> int | Refusal:
    """What a function with `answer` and `refusal` says."""
    answer, refusal = row
    return int(answer) if refusal is None else Refusal(refusal)
