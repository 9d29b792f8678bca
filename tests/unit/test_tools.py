import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from datetime import date
from typing import Annotated, Any, Literal

import anyio
import anyio.from_thread
import anyio.to_thread
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    CallTimeout,
    ConfigurationError,
    InvalidInput,
    LimitExceeded,
    Limits,
    PermissionDenied,
    Stage,
    Tool,
    ToolCall,
    ToolFailed,
    reaches,
    tool,
)
from agent_runtime.tools import parse_arguments

SECRET = "sk-secret"
DEFAULTS = Limits()
NOTHING: dict[str, Any] = {}


async def within(body: Callable[[AgentContext], Awaitable[None]], limits: Limits = DEFAULTS) -> None:
    """Await `body` inside a run."""

    @reaches(Stage.TOOL)
    async def agent(context: AgentContext) -> str:
        await body(context)
        return "done"

    context = AgentContext(agent_id="caller", user_id="ann", current_task="go")
    await AgentExecutor(agent, agent_id="caller", limits=limits).execute(context, raise_on_error=True)


async def call_in(context: AgentContext, used: Tool, arguments: dict[str, Any], key: str = "k1") -> str:
    call = ToolCall(id="c1", name=used.name, arguments=arguments, idempotency_key=key)
    return (await context.call_tool(call, used)).content


async def call(used: Tool, arguments: dict[str, Any] | None = None, limits: Limits = DEFAULTS) -> str:
    results: list[str] = []

    async def body(context: AgentContext) -> None:
        results.append(await call_in(context, used, arguments or {}))

    await within(body, limits)
    return results[0]


class Place(BaseModel):
    city: str
    zip_code: int | None = None


@tool(kind="pure", timeout=5, max_output_bytes=100)
async def find(
    text: str,
    call: ToolCall,
    place: Place,
    order: Literal["asc", "desc"] = "asc",
    limit: Annotated[int, Field(ge=1, description="at most")] = 3,
    *,
    since: date | None = None,
) -> list[Any]:
    """Find things.

    Slowly, but surely.

    Args:
        text: What to look for,
            in any language.
        call: Not for the model.
        limit (int): Overruled by the annotation.
        order: How to sort
    Returns:
        limit: not a parameter
    """
    return [text, place, order, limit, since, call.idempotency_key]


def test_the_model_sees_the_signature_and_the_docstring() -> None:
    place = {
        "title": "Place",
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "zip_code": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        },
        "required": ["city"],
    }
    assert find.definition.name == find.name == "find"
    assert find.definition.description == "Find things.\n\nSlowly, but surely."
    assert find.definition.parameters == {
        "type": "object",
        "$defs": {"Place": place},
        "properties": {
            "text": {"type": "string", "description": "What to look for, in any language."},
            "place": {"$ref": "#/$defs/Place"},
            "order": {"type": "string", "enum": ["asc", "desc"], "default": "asc", "description": "How to sort"},
            "limit": {"type": "integer", "minimum": 1, "default": 3, "description": "at most"},
            "since": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}], "default": None},
        },
        "required": ["text", "place"],
        "additionalProperties": False,
    }
    assert (find.kind, find.timeout, find.max_output_bytes) == ("pure", 5, 100)
    assert repr(find) == "Tool('find', kind='pure')"


def test_a_tool_of_nothing_has_an_empty_schema_and_no_description() -> None:
    @tool
    def ping() -> str:
        return "pong"

    assert ping.definition.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert ping.definition.description == ""
    assert (ping.kind, ping.timeout, ping.max_output_bytes) == ("effect", None, None)
    assert ping.function() == "pong"


def test_parameter_names_are_free_and_a_default_without_json_form_stays_with_the_function() -> None:
    @tool(name="odd-names", description="told")
    def odd(schema: int, model_config: int = 1, _x: Any = odd_default) -> None:
        """Not told.

        Arguments:
            schema: first
        """

    assert odd.definition.name == "odd-names" and odd.definition.description == "told"
    assert odd.definition.parameters["properties"] == {
        "schema": {"type": "integer", "description": "first"},
        "model_config": {"type": "integer", "default": 1},
        "_x": {},
    }


odd_default = object()


async def test_a_bound_method_is_a_tool() -> None:
    class Counter:
        async def add(self, number: int) -> int:
            return number + 1

    assert await call(Tool(Counter().add), {"number": 1}) == "2"


def positional_only(a: int, /) -> None: ...
def many(*values: int) -> None: ...
def named(**values: int) -> None: ...
def bare(a: int) -> None: ...
def lost(a: int) -> None: ...
def no_json(a: threading.Lock) -> None: ...
def no_schema(a: Callable[[], int]) -> None: ...
def two_calls(a: ToolCall, b: ToolCall) -> None: ...
def of_context(context: AgentContext) -> None: ...
def of_maybe_context(context: AgentContext | None = None) -> None: ...
def generates() -> Iterator[int]:
    yield 1


async def generates_too() -> Any:
    yield 1


bare.__annotations__.clear()
lost.__annotations__["a"] = "Missing"


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (positional_only, "parameter a: int is positional-only; a model writes arguments by name"),
        (many, r"parameter \*values: int is variadic positional"),
        (named, r"parameter \*\*values: int is variadic keyword"),
        (bare, "parameter 'a' has no annotation"),
        (lost, "an annotation cannot be resolved: name 'Missing'"),
        (no_json, "a parameter's type has no JSON form"),
        (no_schema, "a parameter's type has no JSON form"),
        (of_context, "parameter 'context' takes an AgentContext, .* annotate it with ToolCall"),
        (of_maybe_context, "parameter 'context' takes an AgentContext"),
        (two_calls, "a and b both take the ToolCall"),
        (generates, "is a generator"),
        (generates_too, "is a generator"),
        (lambda: None, "tool name '<lambda>'"),
        (functools.partial(positional_only, 1), "is no tool: give a function or a bound method"),
        (Place, "is no tool"),
        ("find", "is no tool"),
    ],
)
def test_what_a_model_cannot_call_is_refused(function: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Tool(function)


async def with_two(call: ToolCall, owner: str) -> None: ...
async def with_none() -> None: ...
async def by_name(*, call: ToolCall) -> None: ...


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"kind": "safe"}, "kind is 'safe'; it must be one of"),
        ({"timeout": 0}, "timeout is 0; it must be a number above zero"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"timeout": "3"}, "timeout is '3'; it must be a number"),
        ({"max_output_bytes": "3"}, "max_output_bytes is '3'; it must be a number"),
        (
            {"reconcile": with_two},
            "reconcile is given one argument, the ToolCall: missing a required argument: 'owner'",
        ),
        ({"reconcile": with_none}, "reconcile is given one argument, the ToolCall: too many positional arguments"),
        ({"reconcile": by_name}, "reconcile is given one argument, the ToolCall"),
        ({"max_output_bytes": -1}, "max_output_bytes is -1"),
        ({"name": ""}, "tool name ''"),
        ({"name": "a" * 65}, "at most 64"),
    ],
)
def test_a_wrong_option_is_refused(options: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        tool(**options)(positional_only)


async def test_the_function_gets_validated_typed_arguments_its_defaults_and_the_call() -> None:
    arguments = {"text": "é", "place": {"city": "Oslo", "zip_code": "150"}, "since": "2026-01-02"}
    received = msgspec.json.decode(await call(find, arguments))
    assert received == ["é", {"city": "Oslo", "zip_code": 150}, "asc", 3, "2026-01-02", "k1"]


async def test_arguments_that_do_not_fit_are_named_without_their_values() -> None:
    with pytest.raises(InvalidInput) as caught:
        await call(find, {"place": {}, "limit": SECRET, "nonsense": SECRET, "call": {}})
    assert str(caught.value) == (
        "the arguments of tool 'find' do not fit: text: Field required; place.city: Field required; limit: Input should"
        " be a valid integer, unable to parse string as an integer; nonsense: Extra inputs are not permitted; call: Extra"
        " inputs are not permitted"
    )
    assert caught.value.details == {"field": "text"}


async def test_a_long_list_of_problems_is_cut() -> None:
    @tool
    async def add(numbers: list[int]) -> int:
        return sum(numbers)

    with pytest.raises(InvalidInput, match=r"numbers\.9: .*; and 90 more$"):
        await call(add, {"numbers": ["x"] * 100})


async def test_a_failing_validator_of_the_users_is_a_failing_tool() -> None:
    def refuse(value: int) -> int:
        raise KeyError(SECRET)

    @tool
    async def add(number: Annotated[int, AfterValidator(refuse)]) -> int:
        return number

    with pytest.raises(ToolFailed, match=r"^tool 'add' failed \(KeyError\)$"):
        await call(add, {"number": 1})


@pytest.mark.parametrize("in_thread", [True, False])
async def test_an_error_of_the_body_becomes_tool_failed_with_its_cause_and_without_its_words(in_thread: bool) -> None:
    def sync() -> None:
        raise ConnectionError(SECRET)

    async def direct() -> None:
        sync()

    with pytest.raises(ToolFailed, match=r"^tool 'broken' failed \(ConnectionError\)$") as caught:
        await call(Tool(sync if in_thread else direct, name="broken"))
    assert isinstance(caught.value.__cause__, ConnectionError)


@pytest.mark.parametrize("error", [ToolFailed("no such order"), PermissionDenied("no"), LimitExceeded("too many")])
async def test_an_error_of_the_runtime_passes_as_it_is(error: Exception) -> None:
    @tool
    async def refuse() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await call(refuse)
    assert caught.value is error


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_body_that_awaits_a_cancelled_task_has_failed_and_nobody_was_cancelled() -> None:
    @tool
    async def waits() -> None:
        task = asyncio.create_task(asyncio.sleep(10))
        task.cancel()
        await task

    with pytest.raises(ToolFailed, match="awaited a task that was cancelled"):
        await call(waits)


async def test_a_cancelled_call_cancels_the_body() -> None:
    ended = anyio.Event()

    @tool(timeout=0.01)
    async def hangs() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    with pytest.raises(CallTimeout, match=r"tool 'hangs' took longer than 0.01 s"):
        await call(hangs)
    assert ended.is_set()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        ("\ud83d\ude00 \ud800", "😀 \ufffd"),
        (None, "null"),
        ({"a": [1, 2.5, True]}, '{"a":[1,2.5,true]}'),
        (Place(city="Ålesund"), '{"city":"Ålesund","zip_code":null}'),
        ({date(2026, 1, 2)}, '["2026-01-02"]'),
    ],
)
async def test_text_is_the_result_as_it_is_and_everything_else_becomes_json(value: Any, text: str) -> None:
    @tool
    async def give() -> Any:
        return value

    assert await call(give) == text


async def test_a_result_without_json_form_is_a_failing_tool() -> None:
    @tool
    async def give() -> object:
        return object()

    with pytest.raises(ToolFailed, match="PydanticSerializationError"):
        await call(give)


@pytest.mark.parametrize("as_json", [True, False])
async def test_a_result_over_the_limit_is_refused_whole(as_json: bool) -> None:
    size = 4

    async def give() -> Any:
        return ["x" * (size - 4)] if as_json else "é" * (size // 2)

    own = Tool(give, max_output_bytes=10)
    limits = Limits(tool_result_bytes=10)
    for size in (8, 10):
        assert len((await call(own)).encode()) == size
        assert len((await call(Tool(give), limits=limits)).encode()) == size
    size = 12
    for used, allowed in ((own, DEFAULTS), (Tool(give), limits)):
        with pytest.raises(ToolFailed, match=r"^the result of tool 'give' was 12 bytes, the limit is 10$") as caught:
            await call(used, limits=allowed)
        assert caught.value.details == {"limit": 10, "actual": 12}


variable: ContextVar[str] = ContextVar("variable")


async def test_a_sync_function_runs_in_a_worker_thread_in_the_callers_context() -> None:
    @tool
    def look(call: ToolCall) -> list[Any]:
        key = anyio.from_thread.run_sync(lambda: call.idempotency_key)
        return [threading.current_thread() is threading.main_thread(), variable.get(), key]

    variable.set("seen")
    assert await call(look) == '[false,"seen","k1"]'


async def test_a_decorated_async_function_is_awaited() -> None:
    async def inner(number: int) -> int:
        return number + 1

    @functools.wraps(inner)
    def wrapper(**arguments: Any) -> Any:
        return inner(**arguments)

    assert await call(Tool(wrapper), {"number": 1}) == "2"


async def test_the_threads_of_one_executor_are_bounded() -> None:
    running = most = 0
    lock = threading.Lock()
    pause = threading.Event()
    together = threading.Barrier(3)

    @tool
    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(10)
        pause.wait(0.02)
        with lock:
            running -= 1

    async def body(context: AgentContext) -> None:
        async with anyio.create_task_group() as group:
            for number in range(9):
                group.start_soon(call_in, context, work, NOTHING, f"k{number}")

    await within(body, Limits(tool_threads=3))
    assert most == 3


async def test_threads_that_outlive_their_call_are_counted_and_bounded_and_leave_the_pool_to_others() -> None:
    gate = threading.Event()
    begun: list[str] = []

    @tool
    def hang() -> str:
        begun.append("hang")
        gate.wait(10)
        return "late"

    @tool
    def quick() -> str:
        return "quick"

    async def body(context: AgentContext) -> None:
        for given_up in (1, 2):
            async with anyio.create_task_group() as group:
                group.start_soon(call_in, context, hang, NOTHING, f"k{given_up}")
                while len(begun) < given_up:  # noqa: ASYNC110 - the beginning of a thread sets no event
                    await anyio.sleep(0.001)
                group.cancel_scope.cancel()
            assert hang.abandoned == given_up
        with pytest.raises(ToolFailed, match="tool 'hang' has 2 calls that were given up and did not end"):
            await call_in(context, hang, {}, "k3")
        assert await call_in(context, quick, {}) == "quick"
        gate.set()
        while hang.abandoned:  # noqa: ASYNC110 - the end of a thread sets no event
            await anyio.sleep(0.001)
        assert await call_in(context, hang, {}, "k4") == "late"

    await within(body, Limits(tool_threads=2))
    assert quick.abandoned == 0


async def test_a_call_that_was_given_up_before_its_thread_began_never_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[Callable[[], Any]] = []

    async def run_late(work: Callable[[], Any], **_: Any) -> None:
        waiting.append(work)
        await anyio.sleep_forever()

    monkeypatch.setattr(anyio.to_thread, "run_sync", run_late)
    done: list[str] = []

    @tool(timeout=0.01)
    def effect() -> None:
        done.append("effect")

    with pytest.raises(CallTimeout):
        await call(effect)
    assert (effect.abandoned, effect.is_at_work("k1")) == (0, False)
    waiting[0]()
    assert done == []


async def test_a_call_is_at_work_before_its_thread_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work: list[bool] = []

    async def look_first(work: Callable[[], Any], **_: Any) -> Any:
        at_work.append(effect.is_at_work("k1"))
        return work()

    monkeypatch.setattr(anyio.to_thread, "run_sync", look_first)

    @tool
    def effect() -> str:
        return "done"

    assert await call(effect) == "done"
    assert (at_work, effect.is_at_work("k1")) == ([True], False)


@pytest.mark.parametrize(("text", "arguments"), [("", {}), ("{}", {}), (' {"a": [null, 1e3]} ', {"a": [None, 1000.0]})])
def test_the_object_that_a_model_wrote_is_decoded(text: str, arguments: dict[str, Any]) -> None:
    assert parse_arguments(text) == arguments


OBJECTS = (
    '{"a":{"b":[1,-2.5e3,true,null,"x"]},"":{}}',
    '{"text":"caf\\u00e9 \\ud83d\\ude00 \\n","n":12345678901234567890}',
    ' {"one" : [ [ ] , { } ] , "two" : "\\\\\\"" } ',
)


@settings(max_examples=settings().max_examples * 5)
@given(
    text=st.sampled_from(OBJECTS),
    place=st.integers(0, 50),
    cut=st.integers(0, 50),
    damage=st.text(alphabet=st.sampled_from('{}[]",:\\ud1e-.\0\ud800é') | st.characters(codec=None), max_size=4),
)
def test_a_cut_or_changed_object_is_decoded_or_refused(text: str, place: int, cut: int, damage: str) -> None:
    refused_or_an_object(text[:place] + damage + text[place + cut :])


@settings(max_examples=settings().max_examples * 5)
@given(st.text(alphabet=st.characters(codec=None)))
@example("[" * 100_000)
@example('{"a":' * 100_000)
@example('{"a":1e400}')
@example('{"a":NaN}')
@example('{"a":' + "9" * 5_000 + "}")
@example('{"a":"\\ud800"}')
@example('{"a":"\ud800"}')
@example("[]")
@example("null")
@example("\ufeff{}")
@example('{"a":1} {"a":2}')
def test_any_text_is_an_object_or_refused(text: str) -> None:
    refused_or_an_object(text)


def refused_or_an_object(text: str) -> None:
    try:
        decoded = parse_arguments(text)
    except InvalidInput as error:
        assert str(error).startswith("the arguments are not a JSON object: ")
    else:
        assert type(decoded) is dict
        msgspec.json.encode(decoded)
