"""What every session store promises."""

from agent_runtime.testing.session_basics import SessionBasics
from agent_runtime.testing.session_leases import SessionLeases
from agent_runtime.testing.session_races import SessionRaces
from agent_runtime.testing.session_repeats import SessionRepeats
from agent_runtime.testing.session_runs import SessionRuns
from agent_runtime.testing.session_time import SessionTime


class SessionStoreContract(SessionBasics, SessionTime, SessionRaces, SessionRepeats, SessionLeases, SessionRuns):
    """Subclass it with a name that starts with `Test`, implement `store` and `advance`; pytest runs the promises.

    Sessions live `ttl` seconds here: a store with a clock that cannot be set takes a short one, and `advance` sleeps. A
    store that outlives its process overrides `reopen` as well: it closes the store that it is given and returns another
    on the same data.
    Needs anyio's pytest plugin with `anyio_mode = "auto"`.
    """
