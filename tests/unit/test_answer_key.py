"""The key of a question: equal only where one answer serves both, and never in the way of a run."""

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    AnswerKey,
    FunctionCall,
    Limits,
    Message,
    ModelRequest,
    ModelResponse,
    Owner,
    Principal,
    Question,
    Run,
    Share,
    Stage,
    Tool,
    ToolCall,
    ToolDefinition,
    ToolResult,
    Usage,
    client_identity,
    model_answer_key,
    reaches,
    run_answer_key,
    shared_response,
    shared_result,
)
from agent_runtime.answer_key import NOT_SHAPING
from agent_runtime.edge import PLAIN
from agent_runtime.run import Handlers
from agent_runtime.testing import ScriptedLLMClient

QUESTION = (Message(role="user", content="What?"),)


async def unreachable(value: Any) -> Any:
    raise AssertionError("no handler is called here")


def running(*, principal: Principal | None = None, **fields: Any) -> AgentContext:
    """A context in a run."""
    handlers = Handlers(run=unreachable, model=unreachable, tool=unreachable)
    run = Run("run1", handlers=handlers, limits=Limits(), bus=None, edge=PLAIN, scope=anyio.CancelScope())
    if principal is not None:
        run.authenticated(principal)
    fields = {"user_id": "ann", "agent_id": "support", "current_task": "What?", **fields}
    return AgentContext(run=run, run_id="run1", **fields)


def request(context: AgentContext | None = None, **fields: Any) -> ModelRequest:
    fields = {"messages": QUESTION, "client": ScriptedLLMClient([]), **fields}
    return ModelRequest(context=context or running(), **fields)


def digest(key: AnswerKey | None) -> str:
    assert key is not None
    return key.digest


# --- what is in the key of a model call ---

SHAPING = {"messages", "tools", "parameters", "output_schema"}


def test_somebody_has_decided_about_every_field_of_a_request() -> None:
    assert set(ModelRequest.__struct_fields__) == SHAPING | NOT_SHAPING


CHANGES: dict[str, Callable[[], ModelRequest]] = {
    "another question": lambda: request(messages=(Message(role="user", content="Who?"),)),
    "a system prompt": lambda: request(messages=(Message(role="system", content="Be brief."), *QUESTION)),
    "another role": lambda: request(messages=(Message(role="system", content="What?"),)),
    "a name": lambda: request(messages=(Message(role="user", content="What?", name="ben"),)),
    "a call": lambda: request(
        messages=(Message(role="user", content="What?", tool_calls=(FunctionCall(id="1", name="f"),)),)
    ),
    "an answered call": lambda: request(messages=(Message(role="user", content="What?", tool_call_id="1"),)),
    "two messages for one": lambda: request(
        messages=(Message(role="user", content="Wh"), Message(role="user", content="at?"))
    ),
    "a tool": lambda: request(tools=(ToolDefinition(name="f", description="", parameters={}),)),
    "another tool": lambda: request(tools=(ToolDefinition(name="f", description="", parameters={"type": "object"}),)),
    "another model": lambda: request(parameters={"model": "m2"}),
    "temperature": lambda: request(parameters={"temperature": 0.0}),
    "another temperature": lambda: request(parameters={"temperature": 1.0}),
    "a parameter of the provider": lambda: request(parameters={"extra": {"seed": 1}}),
    "a schema": lambda: request(output_schema={"type": "object"}),
    "another agent": lambda: request(running(agent_id="sales")),
    "another user": lambda: request(running(user_id="ben")),
    "a tenant": lambda: request(running(tenant_id="acme")),
    "another client": lambda: request(client=Endpoint("b", "m")),
    "another model of the client": lambda: request(client=Endpoint("b", "n")),
}


class Endpoint(ScriptedLLMClient):
    def __init__(self, identity: object, model: object) -> None:
        super().__init__([])
        self.identity = identity
        self.model = model


async def test_all_that_shapes_the_answer_makes_another_key() -> None:
    digests = {what: digest(model_answer_key(make())) for what, make in CHANGES.items()}
    digests["the first"] = digest(model_answer_key(request()))
    digests["another version"] = digest(model_answer_key(request(), version="2"))
    for share in ("tenant", "everyone"):
        digests[f"shared with {share}"] = digest(model_answer_key(request(), share=share))
    same = {"another model of the client"}  # its identity is the same, and that is what says it
    assert len(set(digests.values())) == len(digests) - len(same)
    assert all(len(found) == 64 for found in digests.values())


@pytest.mark.parametrize("what", [{"step": 3}, {"attempt": 2}, {"stream": True}, {"emit": unreachable}])
async def test_what_does_not_shape_it_does_not(what: dict[str, Any]) -> None:
    assert model_answer_key(request(**what)) == model_answer_key(request())


async def test_neither_does_the_order_of_parameters_nor_their_kind_of_mapping() -> None:
    plain = request(parameters={"a": 1, "b": {"c": 2, "d": [3]}})
    other = request(parameters=Reversed({"b": Reversed({"d": [3], "c": 2}), "a": 1}))
    assert model_answer_key(plain) == model_answer_key(other)


class Reversed(Mapping[str, Any]):
    """A mapping that is no dict."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values_in = values

    def __getitem__(self, key: str) -> Any:
        return self.values_in[key]

    def __iter__(self) -> Any:
        return reversed(list(self.values_in))

    def __len__(self) -> int:
        return len(self.values_in)


cyclic: list[Any] = []
cyclic.append(cyclic)


UNKEYED: dict[str, object] = {
    "an object": object(),
    "a function": lambda: None,
    "a large integer": 2**70,
    "half a character": "half \ud800",
    "a key with half a character": {"\udc00": 1},
    "a key that is no text": {1: "a"},
    "a set": {1, "a"},
    "a cycle": cyclic,
    "a class": ScriptedLLMClient,
}


@pytest.mark.parametrize("unkeyed", UNKEYED)
async def test_what_is_no_plain_value_has_no_key(unkeyed: str) -> None:
    assert model_answer_key(request(parameters={"extra": UNKEYED[unkeyed]})) is None


async def test_a_message_with_half_a_character_has_no_key() -> None:
    assert model_answer_key(request(messages=(Message(role="tool", content="\ud800"),))) is None


# --- injectivity (F8) ---

texts = st.text(alphabet=":/,\0\n\"'{}[]a\u00e9b ", max_size=4)
messages = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["system", "user", "assistant", "tool"]),
        content=texts,
        name=st.none() | texts,
        tool_call_id=st.none() | texts,
        tool_calls=st.lists(st.builds(FunctionCall, id=texts, name=texts, arguments=texts), max_size=2).map(tuple),
    ),
    max_size=3,
).map(tuple)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, 2.5]) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
questions = st.tuples(
    messages,
    st.lists(
        st.builds(ToolDefinition, name=texts, description=texts, parameters=st.dictionaries(texts, values)), max_size=2
    ),
    st.dictionaries(texts, values, max_size=2),
    texts,  # agent
    texts,  # version
    st.sampled_from(["user", "tenant", "everyone"]),
    texts,  # the client's identity
    st.none() | st.sampled_from(["a", "b", "a:b"]),  # tenant
    st.sampled_from(["a", "b", "b:a", "a:b"]),  # user
)


def asked(question: tuple[Any, ...]) -> AnswerKey | None:
    said, tools, parameters, agent, version, share, identity, tenant, user = question
    context = running(agent_id=agent, tenant_id=tenant, user_id=user)
    made = request(context, messages=said, tools=tuple(tools), parameters=parameters, client=Endpoint(identity, ""))
    return model_answer_key(made, share=share, version=version)


def meant(question: tuple[Any, ...]) -> str:
    """What a question is, written so that only equal ones are written alike."""
    said, tools, parameters, agent, version, share, identity, tenant, user = question
    whose = {"user": (tenant, user), "tenant": (tenant, user if tenant is None else ""), "everyone": ()}[share]
    body = msgspec.json.encode([said, tools, parameters], order="deterministic")
    return repr((body, agent, version, share, identity, whose))


@given(questions, questions)
async def test_two_questions_have_one_key_only_when_they_are_the_same(
    one: tuple[Any, ...], two: tuple[Any, ...]
) -> None:
    assert (asked(one) == asked(two)) == (meant(one) == meant(two))


@given(questions, st.integers(0, 8), st.data())
async def test_a_question_that_differs_in_one_place_has_another_key(
    one: tuple[Any, ...], place: int, data: st.DataObject
) -> None:
    other = data.draw(questions)
    two = (*one[:place], other[place], *one[place + 1 :])
    assume(meant(one) != meant(two))
    assert digest(asked(one)) != digest(asked(two))


# --- whose it is ---


@pytest.mark.parametrize(
    ("share", "tenant", "owner"),
    [
        ("user", "acme", Owner(tenant_id="acme", user_id="ann")),
        ("user", None, Owner(tenant_id=None, user_id="ann")),
        ("tenant", "acme", Owner(tenant_id="acme", user_id="")),
        ("tenant", None, Owner(tenant_id=None, user_id="ann")),
        ("everyone", "acme", Owner(tenant_id=None, user_id="")),
    ],
)
async def test_the_owner_is_who_may_share_it(share: Share, tenant: str | None, owner: Owner) -> None:
    context = running(tenant_id=tenant)
    for key in (model_answer_key(request(context), share=share), run_answer_key(context, share=share)):
        assert key is not None and key.owner == owner


async def test_who_shares_what_in_a_tenant() -> None:
    def key(tenant: str | None, user: str, share: Share) -> str:
        return digest(model_answer_key(request(running(tenant_id=tenant, user_id=user)), share=share))

    assert key("acme", "ann", "tenant") == key("acme", "ben", "tenant") != key("beta", "ann", "tenant")
    assert key(None, "ann", "tenant") != key(None, "ben", "tenant")
    assert key("acme", "ann", "everyone") == key("beta", "ben", "everyone")


async def test_a_context_that_names_another_than_the_principal_has_no_key() -> None:
    ann = Principal(subject="ann", tenant="acme")
    assert run_answer_key(running(principal=ann, tenant_id="acme")) is not None
    for changed in ({"user_id": "ben", "tenant_id": "acme"}, {"tenant_id": "beta"}, {}):
        context = running(principal=ann, **changed)
        assert run_answer_key(context) is None and model_answer_key(request(context)) is None


# --- the key of a run ---


async def test_all_that_shapes_a_run_makes_another_key() -> None:
    contexts = [
        running(),
        running(current_task="Who?"),
        running(agent_id="sales"),
        running(user_id="ben"),
        running(tenant_id="acme"),
        running(messages=QUESTION),
        running(metadata={"lang": "de"}),
        running(depth=1),
        running(principal=Principal(subject="ann")),
        running(principal=Principal(subject="ann", scopes=frozenset({"read"}))),
        running(principal=Principal(subject="ann", scopes=frozenset({"read", "write"}))),
    ]
    digests = {digest(run_answer_key(context)) for context in contexts}
    digests |= {digest(run_answer_key(running(), version="2")), digest(model_answer_key(request(running())))}
    assert len(digests) == len(contexts) + 2
    assert run_answer_key(running(metadata={"a": 1, "b": 2})) == run_answer_key(running(metadata={"b": 2, "a": 1}))


async def test_a_run_with_a_session_has_no_key() -> None:
    assert run_answer_key(running(session_id="s1")) is None


# --- who answers ---


async def test_a_client_is_known_by_its_identity_or_by_its_class_and_model() -> None:
    assert client_identity(Endpoint("host/v1 m", "n")) == "host/v1 m"
    assert client_identity(Endpoint(None, "n")) == f"{__name__}.Endpoint n"
    assert client_identity(Endpoint(3, None)) == f"{__name__}.Endpoint"
    assert client_identity(ScriptedLLMClient([])).endswith(".ScriptedLLMClient")


async def test_a_client_of_text_is_known_by_what_it_is() -> None:
    class Echo:
        identity = "echo of the house"

        async def generate(self, prompt: str, **parameters: Any) -> str:
            return prompt

    seen: list[str] = []

    class Notes:
        async def process_model(self, request: ModelRequest, call_next: Any) -> Any:
            seen.append(client_identity(request.client))
            return await call_next(request)

    executor = AgentExecutor(config=AgentConfig(name="support"), llm_client=Echo(), middleware=[Notes()])
    await executor.execute(AgentContext(user_id="ann", current_task="hi"))
    assert seen == ["echo of the house"]


# --- what others may get ---

ANSWER = ModelResponse.of("Here.", usage=Usage(requests=1, output_tokens=5), model="m1")


async def test_others_get_a_response_for_nothing() -> None:
    shared = shared_response(request(), ANSWER)
    assert shared is not None and (shared.text, shared.model, shared.cached) == ("Here.", "m1", True)
    assert shared.usage == Usage()


async def test_a_response_that_wants_tools_is_not_for_others() -> None:
    message = Message(role="assistant", content="I look.", tool_calls=(FunctionCall(id="1", name="f"),))
    assert shared_response(request(), ModelResponse(message=message)) is None


async def test_others_get_the_answer_of_a_run_and_nothing_of_the_run_itself() -> None:
    result = AgentResult(output="Here.", messages=QUESTION, model="m1", finish_reason="stop", metadata={"a": 1})
    given = result.replace(usage=Usage(requests=1), run_id="run1", trace_id="t", attempts=3, execution_time_ms=5.0)
    shared = shared_result(running(), given)
    assert shared is not None and shared.served_by == "cache"
    assert shared.to_record() == result.replace(served_by="cache").to_record()
    assert (shared.messages, shared.metadata) == (QUESTION, {"a": 1})


@pytest.mark.parametrize(
    "result",
    [
        AgentResult(success=False, output="no"),
        AgentResult(output="{}", data={}),
        AgentResult(output="?", questions=(Question(key="k", text="?"),)),
    ],
    ids=["failure", "data", "question"],
)
async def test_some_results_are_not_for_others(result: AgentResult) -> None:
    assert shared_result(running(), result) is None


@pytest.mark.parametrize(
    ("kind", "is_shared"), [("pure", True), ("idempotent", False), ("effect", False), (None, False)]
)
async def test_a_run_that_started_a_tool_which_is_not_pure_is_not_for_others(kind: Any, is_shared: bool) -> None:
    async def look() -> str:
        return "found"

    async def unknown(call: ToolCall, /) -> ToolResult:
        return ToolResult(content="found")

    @reaches(Stage.TOOL)
    async def agent(context: AgentContext) -> str:
        assert shared_result(context, AgentResult(output="Here.")) is not None
        await context.call_tool(ToolCall(id="1", name="look"), Tool(look, kind=kind) if kind else unknown)
        assert (shared_result(context, AgentResult(output="Here.")) is not None) == is_shared
        return "Here."

    assert (await AgentExecutor(agent).execute(AgentContext(user_id="ann", current_task="What?"))).success


def by_its_scope(run: Run) -> None:
    run.scope.cancel()


@pytest.mark.parametrize("end", [Run.cancel, Run.abort, by_its_scope])
async def test_what_a_cancelled_run_gives_is_not_for_others(end: Callable[[Run], None]) -> None:
    context = running()
    end(context.run)
    assert shared_result(context, AgentResult(output="Here.")) is None
    assert shared_response(request(context), ANSWER) is None
