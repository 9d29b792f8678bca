"""ValidationMiddleware: what it lets in, what it refuses in which words, and what it does not judge."""

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    CallNext,
    ConfigurationError,
    ErrorType,
    InvalidInput,
    LayerKind,
    LimitExceeded,
    MemorySessionStore,
    Message,
    Resume,
    SessionManager,
    Stage,
    reaches,
)
from agent_runtime_middleware.validation import ValidationMiddleware

SECRET = "sk-secret"


class Plan(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tier: str
    seats: int = Field(default=1, ge=1)
    tags: list[str] = []


class Loose(TypedDict):
    tier: str


async def echo(context: AgentContext) -> str:
    return context.current_task


async def run(layer: ValidationMiddleware, task: str = "hello", **fields: Any) -> AgentResult:
    context = AgentContext(user_id="ann", current_task=task, **fields)
    return await AgentExecutor(echo, middleware=[layer], strict=True).execute(context)


TASKS = [
    "What's Ann's plan? It's \"late\".",
    "请总结这篇文章",
    "لخص هذا المقال",
    "👩‍👩‍👧‍👦 and 🇩🇪",
    "def f(x):\n\treturn {'a': x ** 2}  # <b>&amp;</b>",
    "Write to ann@example.com; DROP TABLE users; -- <script>alert(1)</script>",
    "a" * 10_000,
    "😀" * 10_000,
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task[:12])
async def test_any_words_are_let_in(task: str) -> None:
    assert (await run(ValidationMiddleware(), task)).output == task


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str, str, int, int]] = [
    ({}, {"task": "a" * 10_001}, "current_task", "max_characters", 10_000, 10_001),
    ({"max_characters": 3}, {"task": "😀😀😀😀"}, "current_task", "max_characters", 3, 4),
    ({"max_bytes": 3}, {"task": "😀"}, "current_task", "max_bytes", 3, 4),
    ({"max_messages": 0}, {"messages": (Message(role="user", content="hi"),)}, "messages", "max_messages", 0, 1),
    ({"max_depth": 1}, {"metadata": {"a": []}}, "metadata", "max_depth", 1, 2),
    ({"max_depth": 2}, {"metadata": {"a": {"b": [1, {}]}, "c": 1}}, "metadata", "max_depth", 2, 4),
]


@pytest.mark.parametrize(("options", "fields", "field", "option", "limit", "actual"), REFUSED)
async def test_what_is_over_a_bound_is_refused_with_both_numbers(
    options: dict[str, Any], fields: dict[str, Any], field: str, option: str, limit: int, actual: int
) -> None:
    result = await run(ValidationMiddleware(**options), **fields)
    assert isinstance(result.exception, LimitExceeded)
    assert (result.error_type, result.retryable, result.served_by) == (ErrorType.LIMIT, False, "layer")
    assert result.error_details == {"field": field, "limit": limit, "actual": actual}
    assert result.error is not None
    assert f" {actual} " in result.error and f" {limit} " in result.error and option in result.error


async def test_what_is_at_its_bound_is_let_in() -> None:
    layer = ValidationMiddleware(max_characters=2, max_bytes=8, max_messages=1, max_depth=3)
    messages = (Message(role="user", content="a" * 100),)
    assert (await run(layer, "😀😀", messages=messages, metadata={"a": [{}]})).success


async def test_none_sets_no_bound() -> None:
    assert (await run(ValidationMiddleware(max_characters=None), "a" * 100_000, metadata={"a": [[[[1]]]]})).success


@pytest.mark.parametrize("task", ["", " \n\t\u2003"])
async def test_an_empty_task_is_refused_also_when_a_layer_has_made_it_so(task: str) -> None:
    async def emptied(context: AgentContext, call_next: CallNext) -> AgentResult:
        return await call_next(context.replace(current_task=task))

    executor = AgentExecutor(echo, middleware=[emptied, ValidationMiddleware()])
    result = await executor.execute(AgentContext(user_id="ann", current_task="hello"))
    assert isinstance(result.exception, InvalidInput)
    assert result.error_details == {"field": "current_task"}
    assert isinstance((await run(ValidationMiddleware(), task)).exception, InvalidInput)


async def test_metadata_of_the_right_form_is_let_in_as_it_came() -> None:
    seen: list[Any] = []

    async def agent(context: AgentContext) -> str:
        seen.append(context.metadata["seats"])
        return "ok"

    executor = AgentExecutor(agent, middleware=[ValidationMiddleware(metadata=Plan)])
    metadata = {"tier": "gold", "seats": "3", "tags": ["a", "b"]}
    assert (await executor.execute(AgentContext(user_id="ann", current_task="hi", metadata=metadata))).success
    assert seen == ["3"]


FORMS: list[tuple[Any, dict[str, Any], list[str]]] = [
    (Plan, {}, ["metadata['tier']"]),
    (Plan, {"tier": SECRET, "seats": SECRET, "other": SECRET}, ["metadata['seats']", "metadata['other']"]),
    (Plan, {"tier": "gold", "tags": ["a", 1]}, ["metadata['tags'][1]"]),
    (Plan, {"tier": "gold", "k" * 50: 1}, ["metadata['" + "k" * 39 + "]"]),
    (dict[str, int], {str(number): SECRET for number in range(7)}, [f"metadata['{number}']" for number in range(5)]),
    (list[int], {}, ["metadata"]),
]


@pytest.mark.parametrize(("form", "metadata", "places"), FORMS)
async def test_metadata_of_another_form_is_refused_by_its_places(
    form: Any, metadata: dict[str, Any], places: list[str]
) -> None:
    result = await run(ValidationMiddleware(metadata=form), metadata=metadata)
    assert isinstance(result.exception, InvalidInput) and result.error_type == ErrorType.VALIDATION
    assert result.error_details == {"field": places[0], "problems": places}
    assert result.error is not None and SECRET not in result.error
    assert ("and at 2 more places" in result.error) is (len(metadata) == 7)


async def test_unknown_keys_are_the_types_own_business() -> None:
    assert (await run(ValidationMiddleware(metadata=Loose), metadata={"tier": "gold", "other": 1})).success


async def test_the_models_answer_is_not_judged() -> None:
    async def agent(context: AgentContext) -> str:
        return "<script>" + "a" * 20_000

    result = await AgentExecutor(agent, middleware=[ValidationMiddleware(max_characters=5)]).execute(
        AgentContext(user_id="ann", current_task="hi")
    )
    assert len(result.output) == 20_008


async def test_a_resumed_run_may_leave_task_and_metadata_out() -> None:
    @reaches(Stage.TOOL, resumable=True)
    async def agent(context: AgentContext) -> str:
        return f"{context.current_task} {await context.ask('Sure?', key='sure')} {context.metadata['tier']}"

    sessions = SessionManager(MemorySessionStore())
    executor = AgentExecutor(agent, session_manager=sessions, middleware=[ValidationMiddleware(metadata=Plan)])
    context = AgentContext(user_id="ann", session_id="s", current_task="Buy it.", metadata={"tier": "gold"})
    async with executor:
        assert (await executor.execute(context)).error_type == ErrorType.SUSPENDED
        again = context.replace(current_task="", metadata={})
        result = await executor.execute(again, resume=Resume(answers={"sure": "yes"}))
    assert result.output == "Buy it. yes gold"


@pytest.mark.parametrize("name", ["max_characters", "max_bytes", "max_messages", "max_depth"])
def test_a_bound_out_of_range_fails_when_the_layer_is_built(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        ValidationMiddleware(**{name: -1})


@pytest.mark.parametrize("form", [5, "Nowhere", "not a type"])
def test_a_form_that_is_no_type_fails_when_the_layer_is_built(form: Any) -> None:
    with pytest.raises(ConfigurationError, match="metadata="):
        ValidationMiddleware(metadata=form)


def test_it_is_known_as_validation() -> None:
    assert ValidationMiddleware.kind is LayerKind.VALIDATION
