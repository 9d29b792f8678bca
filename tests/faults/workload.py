"""What the workers do: a conversation of turns, each with tools of every kind, whose every word is known beforehand."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import anyio
from tests.faults.witness import Witness

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    Durability,
    FunctionCall,
    Limits,
    Message,
    ModelRequest,
    OnBusy,
    Owner,
    ProviderUnavailable,
    SessionManager,
    SessionStore,
    Tool,
    ToolCall,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply

AGENT = "shopkeeper"
OWNER = Owner(tenant_id="acme", user_id="ann")
PLAN: Sequence[Sequence[str]] = (("look", "put"), ("pay",), ("ship", "pay"), ("look",), ("ship",), ("put", "pay"), ())
"""Which tools the model wants at each step of a turn; at the last it answers."""
EFFECTS = frozenset({"pay", "ship"})
CALLS = sum(len(step) for step in PLAN)


def wanted(turn: int, step: int) -> tuple[FunctionCall, ...]:
    return tuple(
        FunctionCall(id=f"c{turn}_{step}_{place}", name=name, arguments=f'{{"what": "{turn}.{step}.{place}"}}')
        for place, name in enumerate(PLAN[step])
    )


def turn_messages(turn: int) -> list[Message]:
    """The whole of a turn, as the conversation has it in the end."""
    messages = [Message(role="user", content=f"turn {turn}")]
    for step in range(len(PLAN)):
        calls = wanted(turn, step)
        messages.append(Message(role="assistant", content=f"step {turn}.{step}", tool_calls=calls))
        messages += [
            Message(
                role="tool",
                content=result_of(call.name, f"{turn}.{step}.{place}"),
                tool_call_id=call.id,
                name=call.name,
            )
            for place, call in enumerate(calls)
        ]
    return messages


def result_of(name: str, what: str) -> str:
    return f"{name} {what} done"


def answer(request: ModelRequest) -> ScriptedReply:
    turn = int(next(m for m in reversed(request.messages) if m.role == "user").content.split()[1])
    step = request.step
    return ScriptedReply(text=f"step {turn}.{step}", tool_calls=wanted(turn, step), delay=random.uniform(0, 0.002))


def breaks_off_at(step: int) -> Callable[[ModelRequest], ScriptedReply | Exception]:
    """A model that is gone at this step of the turn."""

    def ask(request: ModelRequest) -> ScriptedReply | Exception:
        return ProviderUnavailable("the model is gone") if request.step == step else answer(request)

    return ask


class Shop:
    """Tools that do something to the world outside, and say when; each pauses before and after it for up to `pause` s."""

    def __init__(self, witness: Witness, *, pause: float = 0.006, reconciles: bool = True) -> None:
        self._witness = witness
        self._pause = pause
        self.tools: Sequence[Tool] = (
            Tool(self.look, kind="pure"),
            Tool(self.put, kind="idempotent"),
            Tool(self.pay, kind="effect"),
            Tool(self.ship, kind="effect", reconcile=self._reconcile if reconciles else None),
        )

    async def look(self, what: str, call: ToolCall) -> str:
        """Look, and change nothing."""
        return await self._do("look", what, call)

    async def put(self, what: str, call: ToolCall) -> str:
        """Put something where it is to be, also when it is there already."""
        return await self._do("put", what, call)

    async def pay(self, what: str, call: ToolCall) -> str:
        """Pay: a second time costs twice."""
        return await self._do("pay", what, call)

    async def ship(self, what: str, call: ToolCall) -> str:
        """Send a parcel: a second time sends two. Who asks the carrier learns whether it was sent."""
        return await self._do("ship", what, call)

    async def _do(self, name: str, what: str, call: ToolCall) -> str:
        told: dict[str, Any] = {
            "session": call.context.session_id,
            "keys": [call.idempotency_key],
            "tool": name,
            "text": what,
        }
        self._witness.say("start", **told)
        await anyio.sleep(random.uniform(0, self._pause))
        self._witness.say("effect", durable=True, **told)
        await anyio.sleep(random.uniform(0, self._pause))
        return result_of(name, what)

    async def _reconcile(self, call: ToolCall) -> str | None:
        session = call.context.session_id or ""
        what = str(call.arguments["what"])
        happened = has_happened(self._witness, session, call.name, what)
        decide(self._witness, session, call.idempotency_key, happened=happened)
        return result_of(call.name, what) if happened else None


def has_happened(witness: Witness, session: str, tool: str, what: str) -> bool:
    """The truth about a call in doubt, once the process that started it is dead."""
    return any(line.what == "effect" and (line.tool, line.text) == (tool, what) for line in witness.lines(session))


def decide(witness: Witness, session: str, key: str, *, happened: bool) -> None:
    """Say that the question of `key` has come up, and what it was answered."""
    witness.say("decided", session=session, keys=[key], text="result" if happened else "not_done")


def true_answers(witness: Witness, session: str, asked: dict[str, Any]) -> dict[str, Any]:
    """What a person who knows the world answers to the questions about calls in doubt."""
    answers: dict[str, Any] = {}
    for key, details in asked.items():
        tool, what = details["tool"], details["arguments"]["what"]
        happened = has_happened(witness, session, tool, what)
        decide(witness, session, key.removeprefix("in_doubt:").rpartition(":")[0], happened=happened)
        answers[key] = {"result": result_of(tool, what)} if happened else "not_done"
    return answers


def executor_for(
    store: SessionStore,
    tools: Sequence[Tool],
    *,
    limits: Limits,
    on_busy: OnBusy = "wait",
    durability: Durability = "sync",
    shutdown_grace: float = 10.0,
    model: Callable[[ModelRequest], ScriptedReply | Exception] = answer,
) -> AgentExecutor:
    """The agent that every worker runs."""
    return AgentExecutor(
        config=AgentConfig(name=AGENT, retry_attempts=1),
        llm_client=ScriptedLLMClient([model], repeat=True),
        tools=tools,
        session_manager=SessionManager(store, limits=limits),
        limits=limits,
        on_busy=on_busy,
        durability=durability,
        shutdown_grace=shutdown_grace,
    )


def context_for(session: str, turn: int) -> AgentContext:
    return AgentContext(
        user_id=OWNER.user_id, tenant_id=OWNER.tenant_id, session_id=session, current_task=f"turn {turn}"
    )
