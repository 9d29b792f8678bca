"""Runs that are cut short, wait for a person, and go on: what is done again, and what never is."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import pytest
from tests.stores.mortal import Mortal

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    AgentRuntimeError,
    CallNext,
    CallTimeout,
    ConfigurationError,
    Durability,
    ErrorType,
    EventBus,
    EventType,
    FunctionCall,
    InvalidInput,
    Layer,
    Limits,
    MemorySessionStore,
    Message,
    ModelRequest,
    ModelResponse,
    ModelStarted,
    NotFound,
    OutcomeUnknown,
    Owner,
    PermissionDenied,
    ProviderUnavailable,
    Question,
    Resume,
    RunCancelled,
    RunStatus,
    RunSuspended,
    SessionConflict,
    SessionManager,
    Stage,
    StateKey,
    StoreUnavailable,
    StreamEvent,
    Suspended,
    SystemEvent,
    Tool,
    ToolCall,
    ToolFailed,
    ToolResult,
    ToolStarted,
    model_middleware,
    reaches,
    tool,
    tool_middleware,
)
from agent_runtime.journal_items import Stopped, encode_entry
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply, no_leaks

ANN = Owner(tenant_id=None, user_id="ann")
ASKED = AgentContext(user_id="ann", session_id="s", current_task="buy it")
AGAIN = AgentContext(user_id="ann", session_id="s", current_task="")


def wants(*calls: tuple[str, Mapping[str, Any]]) -> ScriptedReply:
    return ScriptedReply(tool_calls=calls)


class Shop:
    """What the tools have done, in a world that outlives every process; and the processes."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.store = MemorySessionStore(clock=lambda: self.now)
        self.sessions = SessionManager(self.store)
        self.done: list[str] = []
        self.keys: list[str] = []

        @tool(kind="pure")
        def price(item: str) -> str:
            self.done.append(f"price {item}")
            return "3"

        @tool
        async def charge(call: ToolCall, amount: int) -> str:
            self.done.append(f"charge {amount}")
            self.keys.append(call.idempotency_key)
            return f"charged {amount}"

        @tool(kind="idempotent")
        async def confirm(call: ToolCall, what: str) -> str:
            self.done.append(f"confirm {what}")
            return f"the user says {await call.context.ask(f'Really {what}?', key=what)}"

        self.tools: list[Tool] = [price, charge, confirm]

    def executor(
        self,
        *script: ScriptedReply | str,
        tools: Sequence[Tool] | None = None,
        middleware: Sequence[Layer] = (),
        sessions: SessionManager | None = None,
        durability: Durability = "sync",
        bus: EventBus | None = None,
        limits: Limits | None = None,
    ) -> AgentExecutor:
        return AgentExecutor(
            config=AgentConfig(name="shop", model="m", retry_attempts=1),
            llm_client=ScriptedLLMClient(list(script)),
            tools=self.tools if tools is None else tools,
            middleware=middleware,
            session_manager=sessions or self.sessions,
            durability=durability,
            event_bus=bus,
            limits=limits,
        )

    async def messages(self) -> list[tuple[str, str]]:
        return [(message.role, message.content) for message in await self.sessions.messages("s", owner=ANN)]


@pytest.fixture
def shop() -> Shop:
    return Shop()


# A question to a person

CONFIRM = wants(("charge", {"amount": 3}), ("confirm", {"what": "ship"}))


async def test_a_run_that_asks_is_suspended_and_goes_on_with_the_answer(shop: Shop) -> None:
    seen: list[SystemEvent] = []
    async with no_leaks(), EventBus() as bus:
        await bus.subscribe(EventType.ANY, seen.append)
        executor = shop.executor(CONFIRM, "shipped", bus=bus)
        first = await executor.execute(ASKED)
        assert (first.success, first.error_type, first.retryable) == (False, ErrorType.SUSPENDED, False)
        assert first.questions == (Question(key="ship", text="Really ship?"),)
        assert first.error == "the run waits for an answer to 'ship': go on with Resume(answers={...})"
        assert first.to_record().questions == first.questions
        assert sorted(shop.done) == ["charge 3", "confirm ship"]
        with pytest.raises(NotFound):
            await executor.execute(AGAIN.replace(session_id="t"), resume=Resume(), raise_on_error=True)
        assert not await shop.sessions.exists("t", owner=ANN)

        second = await executor.execute(AGAIN, resume=Resume(answers={"ship": {"yes": True}}))
        await bus.drain()
    assert (second.output, second.resumed_from) == ("shipped", first.run_id)
    assert second.run_id != first.run_id
    assert sorted(shop.done) == ["charge 3", "confirm ship", "confirm ship"]
    assert await shop.messages() == [
        ("user", "buy it"),
        ("assistant", ""),
        ("tool", "charged 3"),
        ("tool", "the user says {'yes': True}"),
        ("assistant", "shipped"),
    ]
    assert await shop.sessions.unfinished_runs("s", owner=ANN) == ()
    told = [event.event_type for event in seen]
    assert told.count(EventType.RUN_SUSPENDED) == 1
    assert EventType.ERROR_OCCURRED in told  # of the session that is not there
    restored = [event for event in seen if event.event_type == EventType.CHECKPOINT_RESTORED]
    assert [event.metadata for event in restored] == [{"resumed_from": first.run_id}]
    assert EventType.CHECKPOINT_SAVED in told


async def test_a_stream_ends_with_the_questions_and_text_alone_raises(shop: Shop) -> None:
    executor = shop.executor(CONFIRM, "shipped")
    async with executor:
        async with executor.stream(ASKED) as stream:
            events: list[StreamEvent] = [event async for event in stream]
        assert stream.result.error_type is ErrorType.SUSPENDED
        assert events[-1] == RunSuspended(run_id=stream.result.run_id, questions=stream.result.questions)
        assert [type(event).__name__ for event in events].count("ToolFinished") == 1  # not of the one that asks
        with pytest.raises(Suspended):
            async for _ in executor.execute_stream(AGAIN, resume=Resume()):
                pass
        with pytest.raises(Suspended) as raised:
            await executor.execute(AGAIN, resume=Resume(), raise_on_error=True)
        assert raised.value.questions == stream.result.questions
        told = [text async for text in executor.execute_stream(AGAIN, resume=Resume(answers={"ship": 1}))]
    assert told == ["shipped"]


async def test_answers_are_kept_and_the_questions_without_one_are_asked_again(shop: Shop) -> None:
    both = wants(("confirm", {"what": "ship"}), ("confirm", {"what": "wrap"}))
    executor = shop.executor(both, "done")
    first = await executor.execute(ASKED)
    assert sorted(question.key for question in first.questions) == ["ship", "wrap"]
    with pytest.raises(InvalidInput, match=r"nobody asked for 'shop'; the run waits for \['ship', 'wrap'\]"):
        await executor.execute(AGAIN, resume=Resume(answers={"shop": 1}), raise_on_error=True)
    second = await executor.execute(AGAIN, resume=Resume(answers={"ship": "yes"}))
    assert [question.key for question in second.questions] == ["wrap"]
    assert second.resumed_from == first.run_id
    [waiting] = await shop.sessions.unfinished_runs("s", owner=ANN)
    assert (waiting.run_id, waiting.last_run_id, waiting.status) == (
        first.run_id,
        second.run_id,
        RunStatus.SUSPENDED,
    )
    assert waiting.questions == second.questions
    assert (waiting.task, waiting.agent_id, waiting.held, waiting.steps) == ("buy it", "shop", False, 2)
    third = await executor.execute(AGAIN, resume=Resume(answers={"wrap": "no"}, run_id=second.run_id))
    assert third.success
    assert [text for role, text in await shop.messages() if role == "tool"] == ["the user says yes", "the user says no"]


async def test_an_agent_of_ones_own_asks_with_what_it_shows(shop: Shop) -> None:
    @reaches(resumable=True)
    async def agent(context: AgentContext) -> str:
        answer = await context.ask("half a \ud83d pair", key="k", details={"at": [1, None]})
        return f"you said {answer}"

    executor = AgentExecutor(agent, session_manager=shop.sessions)
    result = await executor.execute(ASKED)
    assert result.questions == (Question(key="k", text="half a � pair", details={"at": [1, None]}),)
    assert repr(result.questions[0]) == "Question(key='k', kind='question')"
    assert repr(Resume(answers={"k": "secret"})) == "Resume(1 answers, run_id=None)"
    assert (await executor.execute(AGAIN, resume=Resume(answers={"k": "yes"}))).output == "you said yes"


async def test_layers_of_models_and_tools_may_ask_before_an_effect(shop: Shop) -> None:
    @tool_middleware
    async def approval(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        if await call.context.ask(f"{call.name}?", key=call.idempotency_key) != "yes":
            raise ToolFailed("the user refused")
        return await call_next(call)

    @model_middleware
    async def consent(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        await request.context.ask("may I?", key="consent")
        return await call_next(request)

    executor = shop.executor(wants(("charge", {"amount": 3})), "done", middleware=[approval, consent])
    first = await executor.execute(ASKED)
    assert [question.key for question in first.questions] == ["consent"]
    [waiting] = await shop.sessions.unfinished_runs("s", owner=ANN)  # although nothing is done yet
    second = await executor.execute(AGAIN, resume=Resume(answers={"consent": None}))
    [question] = second.questions
    assert (question.text, shop.done) == ("charge?", [])
    assert waiting.run_id in question.key
    assert (await executor.execute(AGAIN, resume=Resume(answers={question.key: "yes"}))).success
    assert shop.done == ["charge 3"]


async def swallow(context: AgentContext, call_next: CallNext) -> AgentResult:
    try:
        return await call_next(context)
    except AgentRuntimeError:
        return AgentResult(output="all is well")


async def insist(context: AgentContext, call_next: CallNext) -> AgentResult:
    try:
        return await call_next(context)
    except AgentRuntimeError:
        return await call_next(context)


@pytest.mark.parametrize("layer", [swallow, insist])
async def test_no_layer_makes_anything_of_a_suspended_run(shop: Shop, layer: Layer) -> None:
    executor = shop.executor(CONFIRM, "shipped", middleware=[layer])
    assert (await executor.execute(ASKED)).error_type is ErrorType.SUSPENDED
    assert sorted(shop.done) == ["charge 3", "confirm ship"]
    assert (await executor.execute(AGAIN, resume=Resume(answers={"ship": 1}))).output == "shipped"


async def test_an_agent_that_swallows_its_own_question_is_suspended_all_the_same(shop: Shop) -> None:
    @reaches(resumable=True)
    async def agent(context: AgentContext) -> str:
        try:
            return str(await context.ask("?", key="k"))
        except AgentRuntimeError:
            return "who cares"

    executor = AgentExecutor(agent, session_manager=shop.sessions)
    assert (await executor.execute(ASKED)).error_type is ErrorType.SUSPENDED
    assert (await executor.execute(AGAIN, resume=Resume(answers={"k": 1}))).output == "1"


async def test_where_nobody_can_be_asked_the_question_is_refused(shop: Shop) -> None:
    @reaches(Stage.TOOL, resumable=True)
    async def resumable(context: AgentContext) -> str:
        return str(await context.ask("?", key="k"))

    async def plain(context: AgentContext) -> str:
        return str(await context.ask("?", key="k"))

    async def early(context: AgentContext, call_next: CallNext) -> AgentResult:
        await context.ask("?", key="k")
        return await call_next(context)

    for executor, context in (
        (AgentExecutor(resumable), ASKED.replace(session_id=None)),
        (AgentExecutor(resumable, session_manager=shop.sessions), ASKED.replace(session_id=None)),
        (AgentExecutor(resumable, session_manager=shop.sessions, on_busy="allow"), ASKED),
        (AgentExecutor(plain, session_manager=shop.sessions), ASKED),
        (AgentExecutor(resumable, session_manager=shop.sessions, middleware=[early]), ASKED),
    ):
        with pytest.raises(ConfigurationError, match="this run cannot be suspended: asking takes a session"):
            await executor.execute(context, raise_on_error=True)


async def test_an_effect_cannot_ask_in_its_middle(shop: Shop) -> None:
    outer: list[AgentContext] = []

    @tool
    async def pay(call: ToolCall) -> str:
        return str(await call.context.ask("?", key="k"))

    @tool
    async def pay_slyly() -> str:
        return str(await outer[0].ask("?", key="k"))

    @tool_middleware
    async def leak(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        outer.append(call.context)
        return await call_next(call)

    for used, message in ((pay, "an effect tool cannot ask"), (pay_slyly, "'pay_slyly' is an effect and asked")):
        executor = shop.executor(wants((used.name, {})), "done", tools=[used], middleware=[leak])
        with pytest.raises(ConfigurationError, match=message):
            await executor.execute(ASKED, raise_on_error=True)


# A process that dies

ORDER = (wants(("price", {"item": "tea"})), wants(("charge", {"amount": 3}), ("price", {"item": "cup"})), "thank you")


async def test_wherever_a_process_dies_no_recorded_step_is_repeated_and_no_effect_is_done_twice(shop: Shop) -> None:
    operations = 0
    while True:
        shop = Shop()
        line = Mortal(shop.store)
        countdown = operations

        def strike(name: str, args: tuple[Any, ...], line: Mortal = line) -> None:
            nonlocal countdown
            countdown -= 1
            if countdown < 0:
                line.die()

        line.after = strike
        result = await shop.executor(*ORDER, sessions=SessionManager(line.as_store)).execute(ASKED)
        if result.success:
            break
        assert result.error_type is ErrorType.STORE
        shop.now += 31.0
        await self_heal(shop)
        operations += 1
    assert operations >= 6


async def self_heal(shop: Shop) -> None:
    """Another process takes over: it resumes what is there, and starts again where nothing is."""
    runs = await shop.sessions.unfinished_runs("s", owner=ANN)
    before = list(shop.done)
    if not await shop.sessions.exists("s", owner=ANN) or (
        not runs and not await shop.sessions.messages("s", owner=ANN)
    ):
        assert before == []
        assert (await shop.executor(*ORDER).execute(ASKED)).success
    elif runs:
        [run] = runs
        assert (run.status, run.held) == (RunStatus.RUNNING, False)
        executor = shop.executor(*ORDER[run_models(run.steps, before) :])
        result = await executor.execute(AGAIN, resume=Resume())
        if not result.success:
            [question] = result.questions
            assert (question.kind, question.details) == ("in_doubt", {"tool": "charge", "arguments": {"amount": 3}})
            assert run.in_doubt == ("charge",)
            truth = {"result": "charged 3"} if "charge 3" in shop.done else "not_done"
            result = await executor.execute(AGAIN, resume=Resume(answers={question.key: truth}))
        assert result.output == "thank you"
    assert shop.done.count("charge 3") == 1
    assert await shop.messages() == [
        ("user", "buy it"),
        ("assistant", ""),
        ("tool", "3"),
        ("assistant", ""),
        ("tool", "charged 3"),
        ("tool", "3"),
        ("assistant", "thank you"),
    ]
    assert len(set(shop.keys)) == 1


def run_models(steps: int, done: list[str]) -> int:
    """How many answers of the model were recorded among the steps."""
    return min(3, sum(steps >= at for at in (1, 3, 6)))


@pytest.mark.parametrize(
    ("answer", "told", "times"),
    [
        ({"result": "it went through"}, "it went through", 0),
        ({"error": "card declined"}, "card declined", 0),
        ("not_done", "charged 3", 1),
    ],
)
async def test_a_person_decides_about_a_call_in_doubt(shop: Shop, answer: object, told: str, times: int) -> None:
    question = await in_doubt(shop)
    for nonsense in ("maybe", {"result": 3}, {}, {"result": "a", "error": "b"}, {"result": "a", "x": 1}, True, None):
        with pytest.raises(InvalidInput, match=r"decides nothing about a tool call in doubt: it is \"not_done\""):
            await shop.executor().execute(AGAIN, resume=Resume(answers={question.key: nonsense}), raise_on_error=True)
    executor = shop.executor("done")
    result = await executor.execute(AGAIN, resume=Resume(answers={question.key: answer}))
    assert result.output == "done"
    assert told in (await shop.messages())[2][1]
    assert shop.done.count("charge 3") == times


async def in_doubt(shop: Shop, tools: Sequence[Tool] | None = None) -> Question:
    """A process dies when it has recorded that it will charge."""
    line = Mortal(shop.store)
    line.after = lambda name, args: line.die() if line.calls.count("record") == 2 else None
    script = wants(("charge", {"amount": 3}))
    executor = shop.executor(script, sessions=SessionManager(line.as_store), tools=tools)
    assert (await executor.execute(ASKED)).error_type is ErrorType.STORE
    shop.now += 31.0
    result = await shop.executor("done", tools=tools).execute(AGAIN, resume=Resume())
    if result.success:
        return Question(key="", text="")
    [question] = result.questions
    return question


def charging(shop: Shop, reconcile: Any, **options: Any) -> list[Tool]:
    @tool(reconcile=reconcile, **options)
    async def charge(amount: int) -> str:
        shop.done.append(f"charge {amount}")
        return "charged"

    return [charge]


@pytest.mark.parametrize(
    ("known", "told", "times"),
    [
        ("it is paid", "it is paid", 0),
        (ToolResult(content="no funds", is_error=True), "no funds", 0),
        (None, "charged", 1),
    ],
)
async def test_a_tool_that_can_look_up_what_became_of_it_decides(
    shop: Shop, known: ToolResult | str | None, told: str, times: int
) -> None:
    asked: list[ToolCall] = []

    async def reconcile(call: ToolCall) -> ToolResult | str | None:
        asked.append(call)
        return known

    assert (await in_doubt(shop, charging(shop, reconcile))).key == ""
    assert (await shop.messages())[2][1] == told
    assert (len(asked), shop.done.count("charge 3")) == (1, times)
    assert asked[0].arguments == {"amount": 3}


async def test_a_tool_that_cannot_say_what_became_of_it_leaves_it_to_a_person(shop: Shop) -> None:
    async def reconcile(call: ToolCall) -> str:
        raise ProviderUnavailable("the bank is closed")

    assert (await in_doubt(shop, charging(shop, reconcile))).kind == "in_doubt"

    async def hang(call: ToolCall) -> str:
        await anyio.sleep_forever()
        raise AssertionError

    executor = shop.executor("done", tools=charging(shop, hang), limits=Limits(tool=0.02))
    [question] = (await executor.execute(AGAIN, resume=Resume())).questions
    assert question.kind == "in_doubt"


async def test_a_reconcile_hook_that_gives_nonsense_is_a_bug(shop: Shop) -> None:
    async def reconcile(call: ToolCall) -> Any:
        return 3

    with pytest.raises(TypeError, match="reconcile of tool 'charge' returned int"):
        await in_doubt(shop, charging(shop, reconcile))


def test_a_reconcile_hook_is_async_and_of_an_effect() -> None:
    async def reconcile(call: ToolCall) -> None:
        return None

    def work() -> None: ...

    wrong: list[dict[str, Any]] = [{"kind": "pure", "reconcile": reconcile}, {"reconcile": work}]
    for options in wrong:
        with pytest.raises(ConfigurationError, match="reconcile is an async function"):
            Tool(work, **options)


# An effect whose end nobody knows


def slow(shop: Shop, reconcile: Any = None) -> list[Tool]:
    @tool(timeout=0.02, reconcile=reconcile)
    async def charge(amount: int) -> str:
        shop.done.append(f"charge {amount}")
        await anyio.sleep_forever()
        return "never"

    return [charge]


CHARGE = wants(("charge", {"amount": 3}))


async def test_an_effect_that_takes_too_long_is_in_doubt(shop: Shop) -> None:
    result = await shop.executor(CHARGE, tools=slow(shop)).execute(ASKED)
    [question] = result.questions
    assert question.kind == "in_doubt"
    assert result.exception is not None
    assert isinstance(result.exception.__cause__, Suspended)
    assert isinstance(result.exception.__cause__.__cause__, CallTimeout)
    executor = shop.executor("done", tools=slow(shop))
    assert (await executor.execute(AGAIN, resume=Resume(answers={question.key: {"result": "ok"}}))).success
    assert shop.done == ["charge 3"]


async def test_an_effect_that_says_that_nobody_knows_is_in_doubt(shop: Shop) -> None:
    @tool
    async def charge(amount: int) -> str:
        raise OutcomeUnknown("sent, and no answer came")

    result = await shop.executor(CHARGE, tools=[charge]).execute(ASKED)
    assert [question.kind for question in result.questions] == ["in_doubt"]


@pytest.mark.parametrize("session_id", ["s", None])
@pytest.mark.parametrize(("known", "told"), [("it is paid", "it is paid"), (None, "took longer than 0.02 s")])
async def test_the_hook_of_an_effect_that_took_too_long_says_what_became_of_it(
    shop: Shop, session_id: str | None, known: str | None, told: str
) -> None:
    async def reconcile(call: ToolCall) -> str | None:
        return known

    result = await shop.executor(CHARGE, "done", tools=slow(shop, reconcile)).execute(
        ASKED.replace(session_id=session_id)
    )
    assert result.output == "done"
    assert told in result.messages[1].content
    assert shop.done == ["charge 3"]


async def test_without_a_session_the_model_is_told_and_a_second_start_is_refused(shop: Shop) -> None:
    told: list[Exception] = []

    @tool_middleware
    async def twice(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        for _ in range(2):
            try:
                with anyio.CancelScope() as scope:
                    if not shop.done:
                        scope.deadline = anyio.current_time() + 0.01
                    return await call_next(call)
            except AgentRuntimeError as error:
                told.append(error)
        raise told[0]

    @tool
    async def charge(amount: int) -> str:
        shop.done.append("started")
        await anyio.sleep_forever()
        return "never"

    result = await shop.executor(CHARGE, "done", tools=[charge], middleware=[twice]).execute(
        ASKED.replace(session_id=None)
    )
    assert (result.output, shop.done) == ("done", ["started"])
    assert isinstance(told[0], OutcomeUnknown)
    assert "is not started again" in str(told[0])


# Layers that call again


@pytest.mark.parametrize("session_id", ["s", None])
async def test_a_layer_that_calls_an_effect_again_gets_what_it_gave(shop: Shop, session_id: str | None) -> None:
    given: list[object] = []

    @tool
    async def refuse() -> str:
        shop.done.append("refuse")
        raise ToolFailed("not today")

    @tool_middleware
    async def again(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        for _ in range(2):
            try:
                given.append(await call_next(call))
            except ToolFailed as error:
                given.append(error)
        return ToolResult(content="ok")

    executor = shop.executor(
        wants(("charge", {"amount": 3})), wants(("refuse", {})), "done", tools=[*shop.tools, refuse], middleware=[again]
    )
    assert (await executor.execute(ASKED.replace(session_id=session_id))).success
    assert shop.done == ["charge 3", "refuse"]
    assert given[0] == given[1] == ToolResult(content="charged 3")
    assert given[2] is given[3]


async def retry_once(context: AgentContext, call_next: CallNext) -> AgentResult:
    try:
        return await call_next(context)
    except ProviderUnavailable:
        return await call_next(context)


DOWN = ScriptedReply(chunks=(ProviderUnavailable("down"),))


@pytest.mark.parametrize("session_id", ["s", None])
async def test_an_agent_that_is_started_again_asks_its_model_anew_and_repeats_no_effect(
    shop: Shop, session_id: str | None
) -> None:
    first = wants(("charge", {"amount": 3}), ("price", {"item": "tea"}))
    executor = shop.executor(first, DOWN, first, wants(("charge", {"amount": 5})), "done", middleware=[retry_once])
    result = await executor.execute(ASKED.replace(session_id=session_id))
    assert (result.output, result.attempts) == ("done", 2)
    assert [item for item in shop.done if item.startswith("charge")] == ["charge 3", "charge 5"]
    assert shop.done.count("price tea") == (1 if session_id else 2)
    if session_id:
        assert len(await shop.messages()) == 7


async def test_another_call_in_the_place_of_an_earlier_one_is_another_call(shop: Shop) -> None:
    executor = shop.executor(
        wants(("charge", {"amount": 3})), DOWN, wants(("charge", {"amount": 4})), "done", middleware=[retry_once]
    )
    result = await executor.execute(ASKED)
    assert shop.done == ["charge 3", "charge 4"]
    assert shop.keys == [f"{result.run_id}:0:0", f"{result.run_id}:0:0:2"]


async def test_a_resumed_run_that_was_started_again_goes_on_with_its_last_answers(shop: Shop) -> None:
    executor = shop.executor(
        wants(("price", {"item": "old"})), DOWN, wants(("price", {"item": "new"})), DOWN, middleware=[retry_once]
    )
    assert (await executor.execute(ASKED)).error_type is ErrorType.PROVIDER
    assert (await shop.executor("done").execute(AGAIN, resume=Resume())).success
    assert shop.done == ["price old", "price new"]
    messages = await shop.sessions.messages("s", owner=ANN)
    assert [call.arguments for message in messages for call in message.tool_calls] == ['{"item":"new"}']


async def test_an_agent_that_is_started_again_after_its_turn_was_kept_adds_another(shop: Shop) -> None:
    async def twice(context: AgentContext, call_next: CallNext) -> AgentResult:
        await call_next(context)
        return await call_next(context)

    result = await shop.executor("one", "two", middleware=[twice]).execute(ASKED)
    assert result.output == "two"
    assert [text for _, text in await shop.messages()] == ["buy it", "one", "buy it", "two"]
    assert await shop.sessions.unfinished_runs("s", owner=ANN) == ()


# What a run that fails leaves behind


async def test_a_run_that_fails_can_be_resumed_when_it_had_done_anything(shop: Shop) -> None:
    executor = shop.executor(DOWN, wants(("charge", {"amount": 3})), DOWN, "done")
    assert (await executor.execute(ASKED)).error_type is ErrorType.PROVIDER
    assert await shop.sessions.unfinished_runs("s", owner=ANN) == ()
    assert (await executor.execute(ASKED)).error_type is ErrorType.PROVIDER
    [run] = await shop.sessions.unfinished_runs("s", owner=ANN)
    assert (run.status, run.error_type, run.steps) == (RunStatus.FAILED, ErrorType.PROVIDER, 2)
    assert repr(run) == f"UnfinishedRun({run.run_id!r}, status=failed, 2 steps)"
    other = await shop.executor("hello").execute(ASKED)  # the session is not blocked
    assert other.success
    result = await executor.execute(AGAIN, resume=Resume(run_id=run.run_id))
    assert result.output == "done"
    assert [text for _, text in await shop.messages()] == ["buy it", "hello", "buy it", "", "charged 3", "done"]
    assert shop.done == ["charge 3"]


async def test_a_resumed_run_sees_the_conversation_as_it_was_when_it_began(shop: Shop) -> None:
    assert (await shop.executor("zero").execute(ASKED)).success
    assert (await shop.executor(CONFIRM).execute(ASKED)).questions
    assert (await shop.executor("other").execute(ASKED)).success
    client = ScriptedLLMClient(["done"])
    executor = AgentExecutor(
        config=AgentConfig(name="shop", model="m"), llm_client=client, tools=shop.tools, session_manager=shop.sessions
    )
    assert (await executor.execute(AGAIN, resume=Resume(answers={"ship": 1}))).success
    [request] = client.requests
    assert [message.content for message in request.messages if message.role == "assistant"] == ["zero", ""]
    assert [text for _, text in await shop.messages()][2:4] == ["buy it", "other"]


async def test_a_failed_resume_keeps_the_run_for_the_next(shop: Shop) -> None:
    line = Mortal(shop.store)
    line.after = lambda name, args: line.die() if name == "acquire" and len(line.calls) > 1 else None
    result = await shop.executor(sessions=SessionManager(line.as_store)).execute(ASKED)
    assert result.error_type is ErrorType.STORE
    shop.now += 31.0
    [run] = await shop.sessions.unfinished_runs("s", owner=ANN)
    assert (run.status, run.steps) == (RunStatus.RUNNING, 0)
    assert (await shop.executor(DOWN).execute(AGAIN, resume=Resume())).error_type is ErrorType.PROVIDER
    assert (await shop.executor("done").execute(AGAIN, resume=Resume())).output == "done"


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_run_that_is_cancelled_is_resumed_in_every_durability(shop: Shop, durability: Durability) -> None:
    started = anyio.Event()

    @tool(kind="idempotent")
    async def wait() -> str:
        shop.done.append("wait")
        if shop.done.count("wait") == 1:
            started.set()
            await anyio.sleep_forever()
        return "waited"

    tools = [*shop.tools, wait]
    executor = shop.executor(wants(("charge", {"amount": 3})), wants(("wait", {})), tools=tools, durability=durability)
    results: list[AgentResult] = []

    async def run() -> None:
        results.append(await executor.execute(ASKED))

    async with no_leaks(), anyio.create_task_group() as group:
        group.start_soon(run)
        await started.wait()
        [running] = executor.runs
        found = await shop.sessions.unfinished_runs("s", owner=ANN)
        assert [run.held for run in found] == ([] if durability == "exit" else [True])
        with pytest.raises(SessionConflict, match="held by another run"):
            await shop.sessions.discard_run("s", running, owner=ANN)
        assert (await shop.executor("no").execute(ASKED)).error_type is ErrorType.CONFLICT
        executor.cancel(running)
    assert isinstance(results[0].exception, RunCancelled)
    [kept] = await shop.sessions.unfinished_runs("s", owner=ANN)
    assert (kept.status, kept.steps) == (RunStatus.CANCELLED, 3)
    result = await shop.executor("done", tools=tools, durability=durability).execute(AGAIN, resume=Resume())
    assert result.output == "done"
    assert shop.done == ["charge 3", "wait", "wait"]


async def test_a_run_can_be_given_up(shop: Shop) -> None:
    run_id = (await shop.executor(CONFIRM).execute(ASKED)).run_id
    assert await shop.sessions.discard_run("s", run_id, owner=ANN) is True
    assert await shop.sessions.discard_run("s", run_id, owner=ANN) is False
    with pytest.raises(NotFound, match="session 's' has no unfinished run; it may have been finished"):
        await shop.executor().execute(AGAIN, resume=Resume(), raise_on_error=True)
    with pytest.raises(NotFound, match=f"has no unfinished run '{run_id}'"):
        await shop.executor().execute(AGAIN, resume=Resume(run_id=run_id), raise_on_error=True)


async def test_an_intent_that_was_never_carried_out_is_withdrawn(shop: Shop) -> None:
    executor = shop.executor(wants(("charge", {"amount": 3})), "done")
    line = Mortal(shop.store)
    sessions = SessionManager(line.as_store)

    def cancel(name: str, args: tuple[Any, ...]) -> None:
        if line.calls.count("record") == 2:
            executor.cancel(next(iter(executor.runs), ""))

    line.after = cancel
    executor = shop.executor(wants(("charge", {"amount": 3})), sessions=sessions)
    assert isinstance((await executor.execute(ASKED)).exception, RunCancelled)
    assert shop.done == []
    [run] = await shop.sessions.unfinished_runs("s", owner=ANN)
    assert run.in_doubt == ()
    assert (await shop.executor("done").execute(AGAIN, resume=Resume())).success
    assert shop.done == ["charge 3"]


async def test_a_step_that_cannot_be_recorded_ends_the_run(shop: Shop) -> None:
    for name, at in (("price", 2), ("charge", 2), ("charge", 3)):
        shop = Shop()
        line = Mortal(shop.store)
        line.before = lambda _, args, line=line, at=at: line.die() if line.calls.count("record") == at else None  # type: ignore[misc]  # bound in the loop
        arguments = {"item": "tea"} if name == "price" else {"amount": 3}
        executor = shop.executor(wants((name, arguments)), "told the model", sessions=SessionManager(line.as_store))
        result = await executor.execute(ASKED)
        assert isinstance(result.exception, StoreUnavailable)
        assert len(shop.done) == (0 if (name, at) == ("charge", 2) else 1)


# What is refused


async def test_what_cannot_be_resumed_says_why(shop: Shop) -> None:
    async def plain(context: AgentContext) -> str:
        return "hello"

    for executor, message in (
        (AgentExecutor(plain), "resume= takes a session"),
        (AgentExecutor(plain, session_manager=shop.sessions), "agent 'plain' does not checkpoint"),
        (
            AgentExecutor(reaches(resumable=True)(plain), session_manager=shop.sessions, on_busy="allow"),
            'with on_busy="allow" nothing is kept',
        ),
    ):
        plain.resumable = False  # type: ignore[attr-defined]  # functions take attributes
        with pytest.raises(ConfigurationError, match=message):
            await executor.execute(AGAIN, resume=Resume(), raise_on_error=True)
    with pytest.raises(ConfigurationError, match="resume= takes a session"):
        await shop.executor().execute(AGAIN.replace(session_id=None), resume=Resume(), raise_on_error=True)
    options: list[dict[str, Any]] = [{"on_busy": "maybe"}, {"durability": "maybe"}]
    for wrong in options:
        with pytest.raises(ConfigurationError, match="is 'maybe'; it must be one of"):
            AgentExecutor(plain, **wrong)


async def test_other_tools_or_another_agent_are_refused_unless_allowed(shop: Shop) -> None:
    run_id = (await shop.executor(CONFIRM).execute(ASKED)).run_id
    fewer = shop.executor("done", tools=shop.tools[1:])
    with pytest.raises(ConfigurationError, match="the agent's tools have changed since run"):
        await fewer.execute(AGAIN, resume=Resume(), raise_on_error=True)
    with pytest.raises(InvalidInput, match="is one of agent 'shop', and the context asks for 'other'"):
        await fewer.execute(AGAIN.replace(agent_id="other"), resume=Resume(run_id=run_id), raise_on_error=True)
    with pytest.raises(NotFound, match="has no unfinished run"):
        await fewer.execute(AGAIN.replace(agent_id="other"), resume=Resume(), raise_on_error=True)
    [waiting] = await shop.sessions.unfinished_runs("s", owner=ANN)
    assert (waiting.status, len(waiting.questions)) == (RunStatus.SUSPENDED, 1)  # as if nobody had tried
    resume = Resume(answers={"ship": 1}, allow_changed=True)
    assert (await fewer.execute(AGAIN, resume=resume)).output == "done"


async def test_another_owner_finds_nothing_to_resume(shop: Shop) -> None:
    run_id = (await shop.executor(CONFIRM).execute(ASKED)).run_id
    bob = Owner(tenant_id=None, user_id="bob")
    with pytest.raises(NotFound):
        await shop.executor().execute(AGAIN.replace(user_id="bob"), resume=Resume(run_id=run_id), raise_on_error=True)
    assert await shop.sessions.unfinished_runs("s", owner=bob) == ()
    assert await shop.sessions.discard_run("s", run_id, owner=bob) is False


async def test_a_resumable_agent_names_its_calls(shop: Shop) -> None:
    @reaches(Stage.TOOL, resumable=True)
    async def agent(context: AgentContext) -> str:
        return (
            await context.call_tool(ToolCall(id="1", name="price", arguments={"item": "tea"}), shop.tools[0])
        ).content

    with pytest.raises(ConfigurationError, match="tool call 'price' has no idempotency_key"):
        await AgentExecutor(agent, session_manager=shop.sessions).execute(ASKED, raise_on_error=True)
    assert (await AgentExecutor(agent).execute(ASKED.replace(session_id=None))).output == "3"


async def test_a_step_over_the_limit_fails_the_run_and_leaves_the_session_free(shop: Shop) -> None:
    executor = shop.executor("x" * 2_000, limits=Limits(checkpoint_bytes=1_000))
    result = await executor.execute(ASKED)
    assert result.error_type is ErrorType.LIMIT
    assert "a checkpoint of" in (result.error or "")
    assert (await shop.executor("short").execute(ASKED)).success


# What goes on with the run


async def test_durable_state_is_there_again(shop: Shop) -> None:
    basket: StateKey[list[str]] = StateKey("basket", durable=True)
    count: StateKey[int] = StateKey("count", durable=True)
    passing: StateKey[int] = StateKey("passing")

    @reaches(resumable=True)
    async def agent(context: AgentContext) -> str:
        state = context.run.state
        if basket not in state:
            state[basket] = ["tea"]
            state[passing] = 1
        answer = await context.ask("?", key="k")
        counted = state.get(count)
        return f"{state[basket]} {answer} {passing in state} {counted}"

    async def counting(context: AgentContext, call_next: CallNext) -> AgentResult:
        context.run.state[count] = 1 if context.run.resume is None else 2
        return await call_next(context)

    executor = AgentExecutor(agent, session_manager=shop.sessions, middleware=[counting])
    assert (await executor.execute(ASKED)).questions
    result = await executor.execute(AGAIN, resume=Resume(answers={"k": 1}))
    assert result.output == "['tea'] 1 False 2"
    state = (await run_state(executor)).run.state
    with pytest.raises(InvalidInput, match="a set is not a JSON value"):
        state[StateKey("x", durable=True)] = {"no JSON"}


async def run_state(executor: AgentExecutor) -> AgentContext:
    seen: list[AgentContext] = []

    async def look(context: AgentContext) -> str:
        seen.append(context)
        return "looked"

    await AgentExecutor(look).execute(ASKED.replace(session_id=None))
    return seen[0]


async def test_recorded_answers_are_told_again_to_a_stream(shop: Shop) -> None:
    both = ScriptedReply(text="one moment", tool_calls=(("confirm", {"what": "ship"}),))
    executor = shop.executor(both, "shipped")
    async with executor:
        assert (await executor.execute(ASKED)).questions
        async with executor.stream(AGAIN, resume=Resume(answers={"ship": 1})) as stream:
            events = [event async for event in stream]
        assert stream.result.output == "shipped"
    assert [type(event).__name__ for event in events] == [
        "RunStarted",
        *("ModelStarted", "TextDelta", "ModelFinished"),
        *("ToolStarted", "ToolFinished"),
        *("ModelStarted", "TextDelta", "ModelFinished"),
        "RunCompleted",
    ]
    assert [event.recorded for event in events if isinstance(event, ModelStarted)] == [True, False]


async def test_a_tool_whose_result_is_recorded_is_told_to_have_been(shop: Shop) -> None:
    executor = shop.executor(CONFIRM, "shipped")
    async with executor:
        assert (await executor.execute(ASKED)).questions
        async with executor.stream(AGAIN, resume=Resume(answers={"ship": 1})) as stream:
            events = [event async for event in stream]
    started = {event.name: event.recorded for event in events if isinstance(event, ToolStarted)}
    assert started == {"charge": True, "confirm": False}


async def test_task_messages_and_metadata_are_those_that_the_run_began_with(shop: Shop) -> None:
    seen: list[AgentContext] = []

    @reaches(resumable=True)
    async def agent(context: AgentContext) -> str:
        seen.append(context)
        return str(await context.ask("?", key="k"))

    executor = AgentExecutor(agent, session_manager=shop.sessions)
    before = Message(role="user", content="before")
    await executor.execute(ASKED.replace(messages=(before,), metadata={"a": [1]}))
    await executor.execute(AGAIN.replace(metadata={"b": 1}), resume=Resume(answers={"k": 1}))
    for context in seen:
        assert (context.current_task, context.messages) == ("buy it", (before,))
        assert dict(context.metadata) == {"a": (1,)}
    assert seen[0].run.run_id != seen[1].run.run_id == seen[1].run_id
    assert seen[0].run.origin == seen[1].run.origin == seen[0].run_id


async def test_text_that_cannot_be_encoded_is_recorded_repaired(shop: Shop) -> None:
    class Cut:
        async def complete(self, request: ModelRequest) -> ModelResponse:
            call = FunctionCall(id="1", name="confirm", arguments='{"what": "ship"}')
            return ModelResponse(message=Message(role="assistant", content="half \ud83d", tool_calls=(call,)))

    executor = AgentExecutor(
        config=AgentConfig(name="shop", model="m"), llm_client=Cut(), tools=shop.tools, session_manager=shop.sessions
    )
    assert (await executor.execute(ASKED)).questions
    assert (await shop.executor("done").execute(AGAIN, resume=Resume(answers={"ship": 1}))).success
    assert (await shop.messages())[1] == ("assistant", "half �")


# Places where two things meet


async def test_a_failure_that_was_recorded_is_told_again(shop: Shop) -> None:
    @tool
    async def refuse() -> str:
        shop.done.append("refuse")
        raise ToolFailed("not today")

    executor = shop.executor(wants(("refuse", {})), DOWN, "done", tools=[refuse])
    assert not (await executor.execute(ASKED)).success
    assert (await executor.execute(AGAIN, resume=Resume())).output == "done"
    assert shop.done == ["refuse"]
    assert "not today" in (await shop.messages())[2][1]


async def test_a_run_whose_session_somebody_else_has_taken_up_leaves_it_to_them(shop: Shop) -> None:
    @tool(kind="idempotent")
    async def oversleep() -> str:
        shop.done.append("oversleep")
        if len(shop.done) == 1:
            shop.now += 31.0
            assert (await shop.executor("theirs", tools=[oversleep]).execute(AGAIN, resume=Resume())).success
        return "awake"

    result = await shop.executor(wants(("oversleep", {})), "mine", tools=[oversleep]).execute(ASKED)
    assert isinstance(result.exception, SessionConflict)
    assert [text for _, text in await shop.messages()] == ["buy it", "", "awake", "theirs"]


async def test_of_several_unfinished_runs_the_newest_or_the_named_one_is_resumed(shop: Shop) -> None:
    executor = shop.executor(CONFIRM, CONFIRM, "one", "two")
    first = await executor.execute(ASKED.replace(current_task="first"))
    again = await shop.executor().execute(AGAIN, resume=Resume())
    second = await executor.execute(ASKED.replace(current_task="second"))
    runs = await shop.sessions.unfinished_runs("s", owner=ANN)
    assert [run.task for run in runs] == ["second", "first"]
    answers = {"ship": 1}
    result = await executor.execute(AGAIN, resume=Resume(run_id=again.run_id, answers=answers))
    assert result.resumed_from == again.run_id != first.run_id
    result = await executor.execute(AGAIN, resume=Resume(answers=answers))
    assert result.resumed_from == second.run_id
    assert [text for role, text in await shop.messages() if role == "user"] == ["first", "second"]


async def test_a_run_without_its_beginning_is_not_resumed(shop: Shop) -> None:
    await shop.sessions.create(owner=ANN, agent_id="shop", session_id="s")
    entry = encode_entry([Stopped(status=RunStatus.FAILED)])
    held = await shop.sessions.acquire("s", owner=ANN, holder="odd", seconds=1, entry=entry)
    await shop.sessions.release("s", held.token, owner=ANN)
    assert await shop.sessions.unfinished_runs("s", owner=ANN) == ()
    with pytest.raises(NotFound, match="run 'odd' of session 's' has no beginning to go on from"):
        await shop.executor().execute(AGAIN, resume=Resume(), raise_on_error=True)
    async with shop.sessions.lease("s", owner=ANN):
        pass


async def test_a_conversation_without_a_users_message_is_no_history(shop: Shop) -> None:
    await shop.sessions.create(owner=ANN, agent_id="shop", session_id="s")
    await shop.sessions.append_messages("s", [Message(role="assistant", content="welcome")], owner=ANN)
    client = ScriptedLLMClient(["hello"])
    executor = AgentExecutor(
        config=AgentConfig(name="shop", model="m"), llm_client=client, session_manager=shop.sessions
    )
    assert (await executor.execute(ASKED)).success
    assert [message.content for message in client.requests[0].messages] == ["buy it"]


async def test_what_a_hook_says_and_cannot_be_recorded_ends_the_run(shop: Shop) -> None:
    async def reconcile(call: ToolCall) -> str:
        line.die()
        return "paid"

    line = Mortal(shop.store)
    executor = shop.executor(CHARGE, "no", tools=slow(shop, reconcile), sessions=SessionManager(line.as_store))
    assert isinstance((await executor.execute(ASKED)).exception, StoreUnavailable)


async def test_behind_the_run_much_is_written_at_once_and_a_store_that_is_away_stops_it(shop: Shop) -> None:
    line = Mortal(shop.store)
    sessions = SessionManager(line.as_store)

    @reaches(Stage.TOOL, resumable=True)
    async def busy(context: AgentContext) -> str:
        for number in range(300):
            call = ToolCall(id="1", name="price", arguments={"item": "x"}, idempotency_key=f"k{number}")
            await context.call_tool(call, free)
        return "done"

    @tool(kind="pure")
    async def free(item: str) -> str:
        return item

    executor = AgentExecutor(busy, session_manager=sessions, durability="async", limits=Limits(tool_calls=1_000))
    assert (await executor.execute(ASKED)).success
    assert 2 <= line.calls.count("record") < 30
    line.before = lambda name, args: line.die() if name == "record" else None
    assert isinstance((await executor.execute(ASKED)).exception, StoreUnavailable)


async def test_what_is_written_behind_the_run_is_written_while_it_goes_on(shop: Shop) -> None:
    line = Mortal(shop.store)
    seen: list[int] = []

    @tool(kind="pure")
    async def think(item: str) -> str:
        await anyio.sleep(0.005)
        seen.append(line.calls.count("record"))
        return item

    steps = [wants(("think", {"item": str(number)})) for number in range(4)]
    executor = shop.executor(*steps, DOWN, tools=[think], sessions=SessionManager(line.as_store), durability="async")
    assert (await executor.execute(ASKED)).error_type is ErrorType.PROVIDER
    assert seen == sorted(seen) and seen[-1] >= 3
    away = Mortal(shop.store)
    away.before = lambda name, args: away.die() if name == "record" else None
    executor = shop.executor(*steps, "no", tools=[think], sessions=SessionManager(away.as_store), durability="async")
    assert not (await executor.execute(ASKED)).success
    shop.now += 31.0
    executor = shop.executor("done", tools=[think], durability="async")
    assert (await executor.execute(AGAIN, resume=Resume())).success


async def test_where_all_are_allowed_an_agent_may_be_started_again(shop: Shop) -> None:
    times = 0

    async def agent(context: AgentContext) -> str:
        nonlocal times
        times += 1
        if times == 1:
            raise ProviderUnavailable("down")
        return "up"

    executor = AgentExecutor(agent, session_manager=shop.sessions, on_busy="allow", middleware=[retry_once])
    assert (await executor.execute(ASKED)).output == "up"
    assert await shop.messages() == [("user", "buy it"), ("assistant", "up")]


async def test_durable_state_is_no_obstacle_to_a_look_at_the_run(shop: Shop) -> None:
    key: StateKey[int] = StateKey("n", durable=True)

    @reaches(resumable=True)
    async def agent(context: AgentContext) -> str:
        context.run.state[key] = 1
        return str(await context.ask("?", key="k"))

    await AgentExecutor(agent, session_manager=shop.sessions).execute(ASKED)
    [run] = await shop.sessions.unfinished_runs("s", owner=ANN)
    assert run.steps == 0


@pytest.mark.parametrize("session_id", ["s", None])
async def test_an_effect_that_is_at_work_is_not_started_beside_itself(shop: Shop, session_id: str | None) -> None:
    refused: list[Exception] = []

    @tool
    async def charge(amount: int) -> str:
        shop.done.append("charge")
        await anyio.wait_all_tasks_blocked()
        return "charged"

    @tool_middleware
    async def hedge(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        results: list[ToolResult] = []

        async def one() -> None:
            try:
                results.append(await call_next(call))
            except OutcomeUnknown as error:
                refused.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(one)
            group.start_soon(one)
        return results[0]

    executor = shop.executor(CHARGE, "done", tools=[charge], middleware=[hedge])
    assert (await executor.execute(ASKED.replace(session_id=session_id))).success
    assert shop.done == ["charge"]
    assert [str(error) for error in refused] == [
        "tool 'charge' is at work on this very call; an effect is not started twice"
    ]


async def test_an_effect_that_a_layer_gave_up_is_asked_about_before_the_run_ends(shop: Shop) -> None:
    @tool_middleware
    async def impatient(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        with anyio.move_on_after(0.02):
            return await call_next(call)
        return ToolResult(content="too slow", is_error=True)

    @tool
    async def charge(amount: int) -> str:
        shop.done.append("charge")
        await anyio.sleep_forever()
        return "never"

    executor = shop.executor(CHARGE, "done", "never asked", tools=[charge], middleware=[impatient])
    [question] = (await executor.execute(ASKED)).questions
    assert (question.kind, question.details) == ("in_doubt", {"tool": "charge", "arguments": {"amount": 3}})
    result = await executor.execute(AGAIN, resume=Resume(answers={question.key: {"result": "paid"}}))
    assert result.output == "done"
    assert [text for role, text in await shop.messages() if role == "tool"] == ["paid"]
    assert shop.done == ["charge"]
    plain = await shop.executor(CHARGE, "done", tools=[charge], middleware=[impatient]).execute(
        ASKED.replace(session_id=None)
    )
    assert plain.output == "done"


@pytest.mark.parametrize("fails", [False, True])
async def test_a_store_that_takes_too_long_over_a_result_ends_the_run_in_time(shop: Shop, fails: bool) -> None:
    @tool
    async def charge(amount: int) -> str:
        shop.done.append("charge")
        line.hang = True
        if fails:
            raise ToolFailed("declined")
        return "charged"

    class Hanging(Mortal):
        hang = False

        def __getattr__(self, name: str) -> Any:
            operation = super().__getattr__(name)

            async def late(*args: Any, **options: Any) -> object:
                if self.hang and name == "record":
                    await anyio.sleep_forever()
                return await operation(*args, **options)

            return late

    line = Hanging(shop.store)
    executor = shop.executor(
        CHARGE, "no", tools=[charge], sessions=SessionManager(line.as_store), limits=Limits(store=0.05)
    )
    result = await executor.execute(ASKED)
    assert isinstance(result.exception, OutcomeUnknown)
    assert "what tool 'charge' gave could not be stored within 0.05 s" in str(result.exception)
    assert result.execution_time_ms < 1_000


async def test_a_run_knows_the_fencing_token_of_its_session(shop: Shop) -> None:
    fences: list[int | None] = []

    async def agent(context: AgentContext) -> str:
        fences.append(context.run.fence)
        return "done"

    executor = AgentExecutor(agent, session_manager=shop.sessions)
    for session_id in ("s", "s", None):
        await executor.execute(ASKED.replace(session_id=session_id))
    first, second, none = fences
    assert none is None and first is not None and second is not None and second > first


async def test_an_answer_about_a_call_holds_for_one_start_only(shop: Shop) -> None:
    question = await in_doubt(shop)
    line = Mortal(shop.store)
    line.after = lambda name, args: line.die() if line.calls.count("record") == 2 else None
    executor = shop.executor(sessions=SessionManager(line.as_store))
    result = await executor.execute(AGAIN, resume=Resume(answers={question.key: "not_done"}))
    assert result.error_type is ErrorType.STORE  # it died again when it had recorded its intent
    shop.now += 31.0
    [run] = await shop.sessions.unfinished_runs("s", owner=ANN)
    assert (run.status, run.questions, run.in_doubt) == (RunStatus.RUNNING, (), ("charge",))
    stale = Resume(answers={question.key: "not_done"})
    [asked] = (await shop.executor("done").execute(AGAIN, resume=Resume())).questions
    assert (asked.kind, asked.details, asked.key == question.key) == ("in_doubt", question.details, False)
    again = await shop.executor("done").execute(AGAIN, resume=stale)  # sent once more, it says nothing of this start
    assert again.questions == (asked,)
    assert shop.done == []


async def test_in_one_run_too_an_answer_holds_for_one_start(shop: Shop) -> None:
    started = 0

    @tool
    async def charge(amount: int) -> str:
        nonlocal started
        started += 1
        await anyio.sleep_forever()
        return "never"

    @tool_middleware
    async def twice(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        with anyio.move_on_after(0.02):
            return await call_next(call)
        return await call_next(call)

    question = await in_doubt(shop, [charge])
    executor = shop.executor("done", tools=[charge], middleware=[twice])
    result = await executor.execute(AGAIN, resume=Resume(answers={question.key: "not_done"}))
    [asked] = result.questions
    assert (asked.kind, asked.key == question.key, started) == ("in_doubt", False, 1)


async def test_what_has_happened_is_recorded_although_the_run_is_cancelled(shop: Shop) -> None:
    line = Mortal(shop.store)

    @tool
    async def charge(amount: int) -> str:
        shop.done.append("charge")
        executor.cancel(next(iter(executor.runs)))
        return "charged"

    class Waiting(Mortal):
        def __getattr__(self, name: str) -> Any:
            operation = super().__getattr__(name)

            async def late(*args: Any, **options: Any) -> object:
                await anyio.sleep(0.001)
                return await operation(*args, **options)

            return late

    line = Waiting(shop.store)
    executor = shop.executor(CHARGE, tools=[charge], sessions=SessionManager(line.as_store))
    assert isinstance((await executor.execute(ASKED)).exception, RunCancelled)
    [run] = await shop.sessions.unfinished_runs("s", owner=ANN)
    assert (run.in_doubt, run.steps) == ((), 2)


async def test_what_a_hook_says_and_cannot_be_recorded_at_once_is_no_question(shop: Shop) -> None:
    async def reconcile(call: ToolCall) -> str:
        line.before = once
        return "paid"

    def once(name: str, args: tuple[Any, ...]) -> None:
        line.before = lambda name, args: None
        raise StoreUnavailable("for a moment")

    line = Mortal(shop.store)
    executor = shop.executor(CHARGE, "no", tools=slow(shop, reconcile), sessions=SessionManager(line.as_store))
    assert isinstance((await executor.execute(ASKED)).exception, StoreUnavailable)
    [run] = await shop.sessions.unfinished_runs("s", owner=ANN)
    assert (run.status, run.in_doubt) == (RunStatus.FAILED, ())  # and was recorded after all


async def test_a_run_that_a_layer_answered_is_not_unfinished(shop: Shop) -> None:
    async def fall_back(context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        except ProviderUnavailable:
            return AgentResult(output="something else")

    executor = shop.executor(wants(("price", {"item": "tea"})), DOWN, middleware=[fall_back])
    assert (await executor.execute(ASKED)).output == "something else"
    assert await shop.sessions.unfinished_runs("s", owner=ANN) == ()
    assert await shop.messages() == []


async def test_each_caller_gets_an_answer_of_its_own(shop: Shop) -> None:
    @reaches(resumable=True)
    async def agent(context: AgentContext) -> str:
        (await context.ask("?", key="k"))["seen"].append(1)
        return str(await context.ask("?", key="k"))

    executor = AgentExecutor(agent, session_manager=shop.sessions)
    assert (await executor.execute(ASKED)).questions
    result = await executor.execute(AGAIN, resume=Resume(answers={"k": {"seen": []}}))
    assert result.output == "{'seen': []}"


async def test_nobody_answers_in_advance_or_twice(shop: Shop) -> None:
    executor = shop.executor(CONFIRM, DOWN, "shipped")
    run_id = (await executor.execute(ASKED)).run_id
    with pytest.raises(InvalidInput, match="nobody asked for"):
        early = Resume(answers={f"in_doubt:{run_id}:0:0:1": {"result": "x"}})
        await executor.execute(AGAIN, resume=early, raise_on_error=True)
    yes = Resume(answers={"ship": "yes"})
    assert (await executor.execute(AGAIN, resume=yes)).error_type is ErrorType.PROVIDER
    with pytest.raises(InvalidInput, match="'ship' has been answered already, and otherwise"):
        await executor.execute(AGAIN, resume=Resume(answers={"ship": "no"}), raise_on_error=True)
    assert (await executor.execute(AGAIN, resume=yes)).output == "shipped"  # the same once more is harmless


async def test_what_is_said_of_a_call_whose_thread_is_at_work_does_not_start_it(shop: Shop) -> None:
    gate = threading.Event()

    @tool(timeout=0.02)
    def charge(amount: int) -> str:
        shop.done.append("start")
        gate.wait(10)
        shop.done.append("end")
        return "charged"

    executor = shop.executor(CHARGE, "done", tools=[charge])
    [first] = (await executor.execute(ASKED)).questions
    [second] = (await executor.execute(AGAIN, resume=Resume(answers={first.key: "not_done"}))).questions
    assert (second.kind, second.key == first.key) == ("in_doubt", False)
    gate.set()
    while charge.abandoned:  # noqa: ASYNC110 - the end of a thread sets no event
        await anyio.sleep(0.001)
    result = await executor.execute(AGAIN, resume=Resume(answers={second.key: {"result": "charged"}}))
    assert (result.output, shop.done) == ("done", ["start", "end"])


async def test_what_the_model_was_told_of_a_failed_call_it_is_told_again(shop: Shop) -> None:
    outages = [ProviderUnavailable("the warehouse is away")]
    allowed: list[str] = []

    @tool(kind="pure")
    async def stock(item: str) -> str:
        shop.done.append("stock")
        if outages:
            raise outages.pop()
        return "0 left"

    @tool
    async def order(item: str) -> str:
        shop.done.append("order")
        raise ProviderUnavailable("closed")

    @tool_middleware
    async def policy(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        if call.name == "charge" and not allowed:
            raise PermissionDenied("not today")
        return await call_next(call)

    calls = wants(("stock", {"item": "tea"}), ("order", {"item": "tea"}), ("charge", {"amount": 3}))
    executor = shop.executor(calls, DOWN, "done", tools=[stock, order, shop.tools[1]], middleware=[policy])
    assert not (await executor.execute(ASKED)).success
    allowed.append("charge")
    result = await executor.execute(AGAIN, resume=Resume())
    assert (result.output, sorted(shop.done)) == ("done", ["order", "stock"])
    assert [text for role, text in await shop.messages() if role == "tool"] == [
        '{"error":"the warehouse is away","error_type":"provider"}',
        '{"error":"closed","error_type":"provider"}',
        '{"error":"not today","error_type":"authorization"}',
    ]


async def test_before_a_question_there_is_nothing_to_answer(shop: Shop) -> None:
    line = Mortal(shop.store)
    line.after = lambda name, args: line.die() if line.calls.count("record") == 2 else None
    executor = shop.executor(CHARGE, sessions=SessionManager(line.as_store))
    run_id = (await executor.execute(ASKED)).run_id
    shop.now += 31.0
    early = Resume(answers={f"in_doubt:{run_id}:0:0:1": {"result": "x"}})
    with pytest.raises(InvalidInput, match="no question is open: resume it without answers first"):
        await shop.executor().execute(AGAIN, resume=early, raise_on_error=True)
