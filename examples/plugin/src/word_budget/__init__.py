"""Keep answers short."""

from agent_runtime import (
    AgentContext,
    AgentResult,
    BaseMiddleware,
    CallNext,
    ConfigurationError,
    Message,
    ModelRequest,
    ModelResponse,
)

__all__ = ("WordBudgetMiddleware",)


class WordBudgetMiddleware(BaseMiddleware):
    """Asks the model for an answer of so many words at most, and tells the program when it gave more.

    The answer itself is never cut: `result.metadata["words_over_budget"]` says by how many words it is too long.

    Args:
        words: How many an answer may have, at least 1.
    """

    def __init__(self, *, words: int = 150) -> None:
        if words < 1:
            raise ConfigurationError(f"WordBudgetMiddleware(words={words!r}): at least 1")
        self.words = words
        self._asked = Message(role="system", content=f"Answer in at most {words} words.")

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        result = await call_next(context)
        over = len(result.output.split()) - self.words
        if over <= 0:
            return result
        return result.replace(metadata={**result.metadata, "words_over_budget": over})

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        return await call_next(request.replace(messages=(self._asked, *request.messages)))
