"""What crosses a layer keeps its types."""

from typing import assert_type

from agent_runtime import AgentContext, AgentResult, Message, Owner, Secret, StateKey, Usage

ATTEMPTS: StateKey[int] = StateKey("attempts")
LABELS = StateKey[tuple[str, ...]]("labels")


def state(context: AgentContext) -> None:
    context.run.state[ATTEMPTS] = 1
    assert_type(context.run.state[ATTEMPTS], int)
    assert_type(context.run.state.get(ATTEMPTS), int | None)
    assert_type(context.run.state.get(LABELS, ()), tuple[str, ...] | tuple[()])


def copies(context: AgentContext, result: AgentResult) -> None:
    assert_type(context.replace(user_id="ann", messages=(Message(role="user", content="hi"),)), AgentContext)
    assert_type(context.replace(credential=None), AgentContext)
    assert_type(context.owner, Owner)
    assert_type(result.replace(output="x", usage=Usage(input_tokens=1)), AgentResult)
    assert_type(result.usage + Usage(output_tokens=1), Usage)
    assert_type(Secret("x").reveal(), str)
