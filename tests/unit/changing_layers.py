"""Layers that change answers, which is their job: sound ones, and ones that do it wrongly."""

from agent_runtime import (
    AgentContext,
    AgentResult,
    BaseMiddleware,
    CallNext,
    ModelRequest,
    ModelResponse,
    StreamEvent,
    TextDelta,
    Usage,
)

CallModel = CallNext[ModelRequest, ModelResponse]


def shouted(response: ModelResponse) -> ModelResponse:
    return response.replace(message=response.message.replace(content=response.text.upper()))


# Sound


class Polite(BaseMiddleware):
    """Of the README; what it adds is not streamed."""

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        result = await call_next(context)
        return result.replace(output=f"{result.output}. You are welcome.")


class ShoutMiddleware(BaseMiddleware):
    """Changes the text on its way, and the answer."""

    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        async def shout(event: StreamEvent) -> None:
            loud = event.text.upper() if isinstance(event, TextDelta) else ""
            await request.emit(TextDelta(text=loud, step=request.step) if loud else event)

        return shouted(await call_next(request.replace(emit=shout)))


async def sign(context: AgentContext, call_next: CallNext) -> AgentResult:
    result = await call_next(context)
    return result.replace(metadata={**result.metadata, "signed_by": "the night shift", "for": context.user_id})


# Broken


class SignsForAnother(BaseMiddleware):
    """Signs for the user who came in last."""

    context: AgentContext

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.context = context
        result = await call_next(context)
        return result.replace(metadata={"for": self.context.user_id})


class AddsWhatAnotherAsked(BaseMiddleware):
    asked = ""

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.asked = context.current_task
        result = await call_next(context)
        return result.replace(output=f"{self.asked}: {result.output}")


class ShoutsInPlainRunsOnly(BaseMiddleware):
    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        response = await call_next(request)
        return response if request.stream else shouted(response)


class CountsItsAnswers(BaseMiddleware):
    """Says something else of a run that others went before."""

    answers = 0

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        result = await call_next(context)
        self.answers += 1
        return result.replace(metadata={"answer": self.answers})


class StreamsTheBeginning(ShoutMiddleware):
    """Changes the answer, and says only the first word of it."""

    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        said = False

        async def say_first(event: StreamEvent) -> None:
            nonlocal said
            if not (said and isinstance(event, TextDelta)):
                await request.emit(event)
            said = said or isinstance(event, TextDelta)

        return await super().process_model(request.replace(emit=say_first), call_next)


class ForgetsWhatItCost(BaseMiddleware):
    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        return shouted(await call_next(request)).replace(usage=Usage())


class HidesErrorsPolitely(Polite):
    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await super().process(context, call_next)
        except KeyError:
            return AgentResult(output="Pardon me.")


class TagsTheQuestion(BaseMiddleware):
    """Changes what it was given in place."""

    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        request.parameters["stop"].append("!")
        return shouted(await call_next(request))
