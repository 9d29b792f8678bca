from datetime import UTC, datetime

import pytest

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentRuntimeError,
    CallNext,
    ConfigurationError,
    InvalidInput,
    ModelRequest,
    ModelResponse,
    Owner,
    Principal,
    ProviderUnavailable,
    Reset,
    State,
    StateKey,
    TextDelta,
    model_middleware,
    translate,
)
from agent_runtime.testing import ScriptedLLMClient

ASKED = AgentContext(user_id="ann", tenant_id="acme", session_id="s", current_task="hello")


def test_a_context_shows_no_content_and_is_changed_by_copying() -> None:
    changed = ASKED.replace(current_task="other")
    assert (ASKED.current_task, changed.current_task) == ("hello", "other")
    assert repr(ASKED) == "AgentContext(agent_id='', session_id='s', run_id='')"
    assert datetime.now(UTC) >= ASKED.created_at
    with pytest.raises(TypeError):
        ASKED.replace(task="x")  # type: ignore[call-arg]  # what is tested
    with pytest.raises(AttributeError):
        ASKED.current_task = "x"  # type: ignore[misc]  # what is tested


def test_the_owner_is_tenant_and_user_and_nobody_has_none() -> None:
    assert ASKED.owner == Owner(tenant_id="acme", user_id="ann")
    with pytest.raises(InvalidInput, match="no user_id"):
        _ = ASKED.replace(user_id="").owner


async def test_a_context_outside_of_a_run_says_so() -> None:
    with pytest.raises(ConfigurationError, match="not in a run"):
        _ = ASKED.run.usage
    with pytest.raises(ConfigurationError, match="not in a run"):
        ASKED.can_restart()
    await ASKED.emit(TextDelta(text="into nothing"))


async def test_a_child_is_the_same_users_one_level_deeper_under_the_same_deadline() -> None:
    seen: list[AgentContext] = []

    async def parent(context: AgentContext) -> str:
        child = context.child("helper", "go on")
        result = await AgentExecutor(helper).execute(child, principal=context.run.principal)
        return result.output

    async def helper(context: AgentContext) -> str:
        seen.append(context)
        return context.agent_id

    anonymous = AgentContext(current_task="x")
    result = await AgentExecutor(parent).execute(anonymous, principal=Principal(subject="ann", tenant="acme"))
    [child] = seen
    assert result.output == "helper"
    assert (child.owner, child.depth, child.parent_run_id) == (ASKED.owner, 1, result.run_id)
    assert child.session_id is None and child.run_id != result.run_id


async def test_a_context_kept_by_an_agent_calls_no_model_after_the_end() -> None:
    kept: list[AgentContext] = []

    async def agent(context: AgentContext) -> str:
        kept.append(context)
        return ""

    class Client:
        async def complete(self, request: ModelRequest) -> None:
            raise AssertionError

    await AgentExecutor(agent).execute(ASKED)
    with pytest.raises(AgentRuntimeError, match="has ended"):
        await kept[0].call_model(ModelRequest(messages=()), Client())  # type: ignore[arg-type]  # never asked


def test_values_of_a_run_are_kept_under_typed_keys() -> None:
    state = State()
    count, same_name = StateKey[int]("count"), StateKey[int]("count")
    assert count not in state and state.get(count) is None and state.get(count, 5) == 5
    state[count] = 1
    assert (state[count], count in state, same_name in state) == (1, True, False)
    with pytest.raises(KeyError):
        _ = state[same_name]
    assert repr(count) == "StateKey('count')"


def test_translate_turns_one_librarys_errors_into_ours() -> None:
    with pytest.raises(ProviderUnavailable, match="the provider is down") as caught:
        with translate(OSError, ProviderUnavailable, "the provider is down"):
            raise ConnectionResetError("10.0.0.1")
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    with pytest.raises(KeyError), translate(OSError, ProviderUnavailable, "the provider is down"):
        raise KeyError
    assert Reset(step=1) == Reset(step=1)


async def test_a_request_says_which_model_is_asked_and_whose_it_is() -> None:
    class Client(ScriptedLLMClient):
        model = "own"
        provider = "acme.models"

    class Plain:
        model = "plain"

        async def generate(self, prompt: str, **parameters: object) -> str:
            return prompt

    seen: list[tuple[str | None, str | None]] = []

    @model_middleware
    async def look(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        seen.append((request.model, request.provider))
        return await call_next(request)

    for client, config in (
        (Client(["a"]), AgentConfig(name="a")),
        (Client(["a"]), AgentConfig(name="a", model="named")),
        (ScriptedLLMClient(["a"]), AgentConfig(name="a")),
        (Plain(), AgentConfig(name="a")),
    ):
        await AgentExecutor(config=config, llm_client=client, middleware=[look]).execute(ASKED.replace(session_id=None))
    assert seen == [("own", "acme.models"), ("named", "acme.models"), (None, None), ("plain", None)]
