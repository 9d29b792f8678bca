"""H: what it costs to make a context, and to write and read a conversation."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from agent_runtime import AgentContext, Message, MessageBatch
from agent_runtime.records import encode_record
from benchmarks import bare
from benchmarks.harness import Case, Sides, per_plain_call

TEXTS = [f"message {number}: what people say to each other in a line or two" for number in range(100)]
CONVERSATION = tuple(
    Message(role="assistant" if number % 2 else "user", content=text) for number, text in enumerate(TEXTS)
)
BARE = tuple(bare.Turn(role="assistant" if number % 2 else "user", content=text) for number, text in enumerate(TEXTS))

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(tuple[bare.Turn, ...]).decode


@asynccontextmanager
async def encoded() -> AsyncGenerator[Sides]:
    assert MessageBatch.stored(encode_record(CONVERSATION)) == CONVERSATION
    yield Sides(limit=per_plain_call(lambda: encode(BARE)), ours=per_plain_call(lambda: encode_record(CONVERSATION)))


@asynccontextmanager
async def decoded() -> AsyncGenerator[Sides]:
    bare_data, data = encode(BARE), encode_record(CONVERSATION)
    assert decode(bare_data) == BARE
    assert MessageBatch.stored(data) == CONVERSATION
    yield Sides(limit=per_plain_call(lambda: decode(bare_data)), ours=per_plain_call(lambda: MessageBatch.stored(data)))


def context() -> AgentContext:
    return AgentContext(
        current_task="t",
        agent_id="agent",
        user_id="u",
        tenant_id=None,
        session_id=None,
        parent_run_id=None,
        depth=0,
        deadline=60.0,
    )


@asynccontextmanager
async def context_made() -> AsyncGenerator[Sides]:
    assert context().current_task == bare.context().current_task
    yield Sides(limit=per_plain_call(bare.context), ours=per_plain_call(context))


CASES = (
    Case("H1, encode", "µs", encoded),
    Case("H1, decode", "µs", decoded),
    Case("H2", "µs", context_made),
)
