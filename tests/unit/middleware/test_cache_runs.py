"""CacheMiddleware at the run stage: which runs are given again, and which never."""

from itertools import pairwise
from typing import Any, cast

import pytest
from tests.stores.caching import ASKED, Listener, Scene

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    CallNext,
    MemorySessionStore,
    Message,
    MiddlewarePipeline,
    ProviderUnavailable,
    SessionManager,
    Usage,
    tool,
)
from agent_runtime.testing import ScriptedReply
from agent_runtime_middleware.cache import CacheMiddleware

NOTHING = Usage()


class Answers:
    """An agent without a model that gives what it is told, and counts."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.runs = 0

    async def run(self, context: AgentContext) -> AgentResult | str:
        self.runs += 1
        return cast("AgentResult | str", self.answer)


def around(agent: Any, **options: Any) -> tuple[AgentExecutor, CacheMiddleware]:
    cache = CacheMiddleware(stage="run", **options)
    return AgentExecutor(agent, agent_id="support", middleware=[cache]), cache


async def test_a_whole_run_is_given_again() -> None:
    messages = (Message(role="assistant", content="Here."),)
    nested = ASKED.replace(metadata={"source": {"page": 3}})

    class Quotes(Answers):
        async def run(self, context: AgentContext) -> AgentResult:
            self.runs += 1
            return AgentResult(output="Here.", messages=messages, model="m1", metadata=context.metadata)

    agent = Quotes(None)
    executor, cache = around(agent)
    first, second = [await executor.execute(nested) for _ in range(2)]
    assert (first.served_by, second.served_by, agent.runs) == ("agent", "cache", 1)
    assert (second.output, second.messages, second.model) == ("Here.", messages, "m1")
    assert second.metadata == {"source": {"page": 3}} and second.run_id != first.run_id
    listener = Listener()
    await executor.execute(nested, emit=listener)
    assert listener.texts == ["Here."] and cache.stats.hits == 2


async def test_what_a_layer_answers_for_an_agent_that_has_failed_is_not_kept() -> None:
    class Recovers(Answers):
        async def run(self, context: AgentContext) -> str:
            self.runs += 1
            if self.runs <= 2:
                raise ProviderUnavailable("down")
            return "Here."

    async def apologizes(context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        except ProviderUnavailable:
            return AgentResult(output="Not now.")

    agent = Recovers(None)
    executor = AgentExecutor(agent, agent_id="support", middleware=[CacheMiddleware(stage="run"), apologizes])
    given = [await executor.execute(ASKED) for _ in range(4)]
    assert [result.output for result in given] == ["Not now.", "Not now.", "Here.", "Here."]
    assert given[3].served_by == "cache" and agent.runs == 3


async def test_what_an_agent_answers_when_it_is_asked_again_is_kept() -> None:
    class Recovers(Answers):
        async def run(self, context: AgentContext) -> str:
            self.runs += 1
            if self.runs == 1:
                raise ProviderUnavailable("down")
            return "Here."

    async def again(context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        except ProviderUnavailable:
            return await call_next(context)

    agent = Recovers(None)
    executor = AgentExecutor(agent, agent_id="support", middleware=[CacheMiddleware(stage="run"), again])
    assert [(await executor.execute(ASKED)).served_by for _ in range(2)] == ["agent", "cache"]
    assert agent.runs == 2


@pytest.mark.parametrize(
    "answer",
    [
        AgentResult(success=False, output="no"),
        AgentResult(output="{}", data={"a": 1}),
        AgentResult(output="cut o", finish_reason="length"),
        AgentResult(output=""),
        AgentResult(output="of a cache further in", served_by="cache"),
        AgentResult(output="a", metadata={"lock": object()}),
    ],
    ids=["failure", "data", "length", "empty", "cached", "no JSON"],
)
async def test_what_is_no_whole_new_result_is_not_kept(answer: AgentResult) -> None:
    agent = Answers(answer)
    executor, cache = around(agent)
    for _ in range(2):
        await executor.execute(ASKED)
    assert agent.runs == 2 and not cache.stats.hits


async def test_what_a_layer_answers_in_place_of_the_agent_is_not_kept() -> None:
    async def sorry(context: AgentContext, call_next: CallNext) -> AgentResult:
        return AgentResult(output="Please come back later.")

    cache = CacheMiddleware(stage="run")
    executor = AgentExecutor(Answers("never"), agent_id="support", middleware=[cache, sorry])
    assert [(await executor.execute(ASKED)).served_by for _ in range(2)] == ["layer", "layer"]


@pytest.mark.parametrize(("kind", "calls"), [("pure", 2), ("idempotent", 4), ("effect", 4)])
async def test_a_run_with_a_tool_that_is_not_pure_is_not_kept(kind: Any, calls: int) -> None:
    @tool(kind=kind)
    def look() -> str:
        return "found"

    wants = ScriptedReply(tool_calls=(("look", {}),))
    scene = Scene(wants, "Here.", wants, "Here.", tools=[look], stage="run")
    await scene.answers(2)
    assert scene.client.calls == calls


async def test_a_run_of_a_session_is_not_looked_for_nor_kept() -> None:
    sessions = SessionManager(MemorySessionStore())
    await sessions.create(owner=ASKED.owner, agent_id="support", session_id="s")
    scene = Scene("one", "two", sessions=sessions, stage="run")
    asked = ASKED.replace(session_id="s")
    assert [(await scene.ask(asked)).output for _ in range(2)] == ["one", "two"] and not scene.counts


@pytest.mark.parametrize("stage", ["model", "run"])
def test_only_the_stage_at_which_it_works_is_compiled_in(stage: Any) -> None:
    shown = MiddlewarePipeline([CacheMiddleware(stage=stage)]).explain().split(" stage\n")
    assert [name.split()[-1] for name, body in pairwise(shown) if "(cache)" in body] == [stage]
