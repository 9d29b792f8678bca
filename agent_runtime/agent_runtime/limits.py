"""The one table of defaults."""

from agent_runtime.errors import ConfigurationError
from agent_runtime.types import Value


class Limits(Value, frozen=True, kw_only=True):
    """What a run may take. Durations in seconds, sizes in bytes, the rest are counts; all are above zero.

    Attributes:
        run: The whole run, every layer and tool included.
        first_token: From the start of a streamed model call to its first piece of text.
        idle: Between two pieces of a streamed model call; fires at most a tenth later.
        tool: One tool call, unless the tool sets its own.
        store: One operation of a store.
        lease: How long a session stays held when its holder is gone.
        lease_renewal: How often a holder renews its lease; below `lease`.
        steps: Model calls of one run of the built-in agent.
        tool_calls: Tool calls of one run.
        tool_threads: Worker threads that sync tools of one executor may use.
        depth: How deep runs may start runs.
        stream_events: Events that may wait for a slow consumer; then the producer waits.
        stream_bytes: The same as bytes of text.
        metadata_bytes: The caller's metadata, as JSON.
        metadata_depth: How deep the caller's metadata may nest.
        message_bytes: One message, UTF-8; the task too.
        history_messages: Messages handed to one run.
        history_bytes: The same as bytes of text, UTF-8.
        tool_result_bytes: What one tool call may give, UTF-8.
        checkpoint_bytes: What one checkpoint holds, as JSON.
    """

    run: float = 60.0
    first_token: float = 30.0
    idle: float = 30.0
    tool: float = 30.0
    store: float = 5.0
    lease: float = 30.0
    lease_renewal: float = 10.0
    steps: int = 10
    tool_calls: int = 50
    tool_threads: int = 8
    depth: int = 5
    stream_events: int = 64
    stream_bytes: int = 1 << 20
    metadata_bytes: int = 16 << 10
    metadata_depth: int = 8
    message_bytes: int = 256 << 10
    history_messages: int = 1_000
    history_bytes: int = 4 << 20
    tool_result_bytes: int = 1 << 20
    checkpoint_bytes: int = 8 << 20

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if not value > 0:
                raise ConfigurationError(f"Limits.{field} is {value!r}; it must be above zero")
        if self.lease_renewal >= self.lease:
            raise ConfigurationError(
                f"Limits.lease_renewal is {self.lease_renewal!r}; it must be below Limits.lease, {self.lease!r}"
            )
