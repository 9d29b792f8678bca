"""What the contract of session stores works with: owners that look alike, what they say, and how calls are made."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from anyio.lowlevel import checkpoint
from hypothesis import strategies as st

from agent_runtime.session_store import Refusal, SessionFields
from agent_runtime.types import FunctionCall, Message, Owner

T = TypeVar("T")

OWNER = Owner(tenant_id="acme", user_id="ann")
# Owners that a careless key would mix up, and text that a careless query would run.
OWNERS = (
    OWNER,
    Owner(tenant_id=None, user_id="ann"),
    Owner(tenant_id=None, user_id="acme:ann"),
    Owner(tenant_id="acme", user_id="ANN"),
    Owner(tenant_id="ac", user_id="me:ann"),
    Owner(tenant_id="acme:ann", user_id="s"),
    Owner(tenant_id="None", user_id="ann"),
    Owner(tenant_id="acme", user_id="*"),
    Owner(tenant_id="acme", user_id="ann "),
    Owner(tenant_id="acme", user_id="[a-z]nn"),
    Owner(tenant_id="acme", user_id="ann' OR '1'='1"),
    Owner(tenant_id="acme", user_id='{"$ne": null}'),
    Owner(tenant_id="acme", user_id="../ann"),
    Owner(tenant_id="acme", user_id="änn"),
    Owner(tenant_id="acme", user_id="a\u0308nn"),  # looks the same, and is another user
    Owner(tenant_id="x" * 255, user_id="💥" * 255),
)
EVERY_BYTE = bytes(range(256))
FIELDS = SessionFields(agent_id="support", data=EVERY_BYTE)
OTHER_FIELDS = SessionFields(agent_id="sales", data=b"")
CLOSED_FIELDS = SessionFields(agent_id="support", data=b"", closed=True)
HELLO = Message(role="user", content="hello")
CALL = FunctionCall(id="c1", name="look", arguments='{"at": "\\u0000"}')
TURN = (
    Message(role="assistant", content="\0 ünï 💥 'quoted'", tool_calls=(CALL,)),
    Message(role="tool", content="", tool_call_id="c1", name="look"),
)

any_texts = st.text(st.characters(codec="utf-8"), max_size=50)
any_names = st.text(st.sampled_from("ab:*é-_ "), min_size=1, max_size=3).filter(str.isprintable)
any_owners = st.builds(Owner, tenant_id=st.none() | any_names, user_id=any_names)
any_calls = st.builds(FunctionCall, id=any_texts, name=any_texts, arguments=any_texts)
any_messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=any_texts,
    tool_calls=st.lists(any_calls, max_size=2).map(tuple),
    tool_call_id=st.none() | any_texts,
    name=st.none() | any_texts,
)


async def together(times: int, call: Callable[[int], Awaitable[T]]) -> list[T]:
    """What the calls give that are made at the same time."""
    results: list[T] = []

    async def one(n: int) -> None:
        results.append(await call(n))

    async with anyio.create_task_group() as group:
        for n in range(times):
            group.start_soon(one, n)
    return results


async def cut(call: Callable[[], Awaitable[object]], turns: int) -> bool:
    """Make the call and cancel it after so many turns of the event loop; whether it was done before."""
    finished = False
    scope = anyio.CancelScope()

    async def one() -> None:
        nonlocal finished
        with scope:
            await call()
            finished = True

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        for _ in range(turns):
            await checkpoint()
        scope.cancel()
    return finished


def later(turns: int) -> int:
    """The next number of turns to cut after: each at first, then further and further apart, as what is far takes many."""
    return turns + 1 if turns < 5 else 2 * turns


def done(outcome: T | Refusal) -> T:
    """The outcome, which is no refusal."""
    assert not isinstance(outcome, Refusal), outcome
    return outcome


def some(value: T | None) -> T:
    """The value, which is there."""
    assert value is not None
    return value
