"""What the stores of a server promise when the server, the network or a caller fails."""

from agent_runtime.testing.store_canary import StoreCancellation
from agent_runtime.testing.store_network import StoreNetwork
from agent_runtime.testing.store_outages import StoreOutages, StoreRefusals
from agent_runtime.testing.store_sharing import StoreSharing


class StoreSharingContract(StoreSharing, StoreCancellation):
    """What needs nothing but a way to open stores twice; the beginning of `StoreFaultsContract`, and all that a file has.

    Subclass it with a name that starts with `Test`, and implement `open`.
    """


class StoreNetworkContract(StoreSharingContract, StoreNetwork):
    """What needs nothing but a way through a proxy: connections that are cut, silent or slow. The server is left alone.

    Subclass it with a name that starts with `Test`, and implement `open` and `address`.
    """


class StoreFaultsContract(StoreNetworkContract, StoreOutages, StoreRefusals):
    """Subclass it with a name that starts with `Test`, implement `open`, `address` and `at_work`; pytest runs the promises.

    It is about stores that share a server, and comes after the contract of each store, which is about them alone:

    - An outage (the server is stopped, killed or paused, a connection is cut, silent or late) is `StoreUnavailable` or
      `OutcomeUnknown` in `timeout` + `slack` seconds, never an absent session, value, log or limit.
    - `StoreUnavailable` of a write means that it was not done. One whose outcome was unknown is done once when it is made
      again.
    - When the cause has ended, the same stores work again in `recovery` seconds.
    - What was acknowledged is there after the server was killed.
    - A server that is read-only or full says so, and is read.
    - A call that is cancelled, or answered too late, gives its answer to nobody else.
    - Two stores on the same data are as one: compare-and-set, leases and their fencing, limits.

    A cause that cannot be brought about stands in `not_offered` with the reason: nothing is promised of it then. Needs
    anyio's pytest plugin with `anyio_mode = "auto"`, and a server that the tests may stop and kill.
    """
