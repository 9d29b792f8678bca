"""Scenarios 21 to 24, 26 to 30, 32 and 33: what the onion does with its layers."""

from agent_runtime import AgentContext, AgentExecutor, AgentResult, CallNext


def ask(task: str = "hello") -> AgentContext:
    return AgentContext(user_id="ann", current_task=task)


class Recording:
    """Writes its name on the way in and on the way out."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name = name
        self.told = told

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.told.append(f"in {self.name}")
        try:
            return await call_next(context)
        finally:
            self.told.append(f"out {self.name}")


async def test_s21_the_first_layer_is_the_outermost() -> None:
    told: list[str] = []

    async def agent(context: AgentContext) -> str:
        told.append("agent")
        return "done"

    layers = [Recording(name, told) for name in ("logging", "auth", "rate limit")]
    await AgentExecutor(agent, middleware=layers).execute(ask())
    assert told == ["in logging", "in auth", "in rate limit", "agent", "out rate limit", "out auth", "out logging"]
