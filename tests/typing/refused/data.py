"""Names that do not exist, and values of the wrong type."""

from agent_runtime import AgentContext, AgentResult, Message, ModelRequest, Secret, StateKey, ToolCall

ATTEMPTS: StateKey[int] = StateKey("attempts")


def copies(context: AgentContext, result: AgentResult, request: ModelRequest, call: ToolCall) -> None:
    context.replace(unknown=1)  # E: call-arg
    context.replace(user_id=1)  # E: arg-type
    context.replace(messages=[Message(role="user", content="hi")])  # E: arg-type
    context.replace(run_id="r")  # E: call-arg
    result.replace(success="x")  # E: arg-type
    result.replace(text="x")  # E: call-arg
    request.replace(attempt="2")  # E: arg-type
    call.replace(name="other")  # E: call-arg


def frozen(context: AgentContext, result: AgentResult) -> None:
    context.user_id = "ann"  # E: misc
    result.output = "x"  # E: misc


def state(context: AgentContext) -> tuple[str, int]:
    context.run.state[ATTEMPTS] = "one"  # E: misc
    context.run.state["attempts"] = 1  # E: index
    attempts: str = context.run.state[ATTEMPTS]  # E: assignment
    maybe: int = context.run.state.get(ATTEMPTS)  # E: assignment
    return attempts, maybe


def made(text: str) -> None:
    AgentContext(agent_id="a", current_task=text, user_name="ann")  # E: call-arg
    AgentContext("a", text)  # E: call-arg
    Message(role="robot", content=text)  # E: arg-type
    AgentContext(agent_id="a", current_task=text, credential=text)  # E: arg-type
    Secret(text) + text  # E: operator


async def called(context: AgentContext) -> None:
    context.run.no_such_thing()  # E: operator
