"""An order in four steps, each of which writes down what it does; as a program, a process that can be killed in it.

Its model is a script: reserve, charge, confirm, send. All that is kept is in one folder.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import msgspec

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    FunctionCall,
    Limits,
    Message,
    ModelRequest,
    ModelResponse,
    SessionManager,
    ToolCall,
    tool,
)
from agent_runtime_adapters.sqlite import SQLiteSessionStore

LEASE = 1.0
"""Seconds for which a process that died still holds the session."""
SESSION = "order-1"
CONTEXT = AgentContext(user_id="demo", session_id=SESSION, current_task="One onion tart, please.")

_SLOW = 60.0  # seconds that the bank takes to answer the process that is to be killed
_PRICE = "30.00 EUR"
_STEPS = ("reserve", "charge", "confirm", "send")


class Done(msgspec.Struct, frozen=True):
    """A line of the log: which tool did what, in which process, for which call."""

    tool: str
    what: str
    process: int
    key: str


class Log:
    """What the tools did, one JSON document in a line; on disk before the tool goes on."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "tools.jsonl"

    def write(self, call: ToolCall, what: str, tool: str = "") -> None:
        """Add a line about `call`."""
        done = Done(tool=tool or call.name, what=what, process=os.getpid(), key=call.idempotency_key)
        with self._file.open("ab") as file:
            file.write(msgspec.json.encode(done) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Done]:
        """All lines that are whole."""
        data = self._file.read_bytes() if self._file.exists() else b""
        return [msgspec.json.decode(line, type=Done) for line in data.split(b"\n")[:-1]]


class Script:
    """In a model's place: wants the next tool until all have answered, or a person has said no."""

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        """Want the next tool, or say how it ended."""
        given = [message.content for message in request.messages if message.role == "tool"]
        if given[-1:] == ["no"]:
            return ModelResponse.of("The tart is paid and stays here, as you wish.")
        if len(given) == len(_STEPS):
            return ModelResponse.of(f"The tart is {given[-1]}.")
        call = FunctionCall(id=f"call_{len(given)}", name=_STEPS[len(given)], arguments=json.dumps({}))
        return ModelResponse(message=Message(role="assistant", tool_calls=(call,)), finish_reason="tool_calls")


def order(folder: Path, *, bank_takes: float = 0.0) -> AgentExecutor:
    """The executor, with its sessions in `folder`; for `bank_takes` seconds, `charge` waits for the bank's answer."""
    log = Log(folder)

    async def ask_bank(call: ToolCall) -> str | None:
        """What the bank has booked for this call: it keeps the key with each payment."""
        booked = [done for done in log.read() if (done.tool, done.key) == ("charge", call.idempotency_key)]
        log.write(call, f"finds {len(booked)} payment with the key of this call", "ask the bank")
        return f"{_PRICE} paid" if booked else None

    @tool(kind="effect")
    async def reserve(call: ToolCall) -> str:
        """Take the tart from the shelf."""
        log.write(call, "takes the tart from the shelf")
        return "reserved"

    @tool(kind="effect", reconcile=ask_bank)
    async def charge(call: ToolCall) -> str:
        """Have the bank book the price."""
        log.write(call, f"has the bank book {_PRICE}")
        await anyio.sleep(bank_takes)
        return f"{_PRICE} paid"

    @tool(kind="pure")
    async def confirm(call: ToolCall) -> str:
        """Ask the person."""
        details = {"parcel": f"one onion tart, {_PRICE}", "choices": ["yes", "no"]}
        answer = await call.context.ask("May the parcel be sent?", key="send", details=details)
        return str(answer)

    @tool(kind="effect")
    async def send(call: ToolCall) -> str:
        """Send the parcel."""
        log.write(call, "hands the parcel over")
        return "on its way"

    return AgentExecutor(
        config=AgentConfig(name="order"),
        llm_client=Script(),
        tools=[reserve, charge, confirm, send],
        session_manager=SessionManager(SQLiteSessionStore(folder / "sessions.db")),
        limits=Limits(lease=LEASE, lease_renewal=LEASE / 4, tool=2 * _SLOW, run=3 * _SLOW),
    )


def counted(log: list[Done]) -> Iterator[tuple[str, int, set[int]]]:
    """Each tool of the log, how often it did something, and in which processes."""
    for name in dict.fromkeys(done.tool for done in log):
        mine = [done.process for done in log if done.tool == name]
        yield name, len(mine), set(mine)


if __name__ == "__main__":
    order(Path(sys.argv[1]), bank_takes=_SLOW).run_sync(CONTEXT)
