"""An answer as data: read into a type, repaired where nothing has to be guessed, asked for again, or refused."""

import asyncio
from datetime import date

from pydantic import BaseModel, Field

from agent_runtime import AgentConfig, AgentContext, AgentExecutor, AgentResult, OutputInvalid
from agent_runtime.testing import ScriptedLLMClient


class Booking(BaseModel):
    """A table in a restaurant."""

    name: str
    day: date
    guests: int = Field(ge=1, le=8)


CONFIG = AgentConfig(name="desk", output_type=Booking, output_retries=1)
CONTEXT = AgentContext(user_id="ann", current_task="A table for two on the third of May, for Ann.")

GOOD = '{"name": "Ann", "day": "2031-05-03", "guests": 2}'
WITH_PROSE = f"Gladly! Here it is:\n```json\n{GOOD}\n```"
FOR_NINE = '{"name": "Ann", "day": "2031-05-03", "guests": 9}'


async def asked(*answers: str) -> AgentResult:
    """A run in which the model gives these answers, one after the other."""
    client = ScriptedLLMClient(answers)
    result = await AgentExecutor(config=CONFIG, llm_client=client).execute(CONTEXT)
    if len(client.requests) > 1:
        print("   the model is told:", client.requests[1].messages[-1].content.splitlines()[1])
    return result


async def main() -> None:
    print("1. what the model says becomes a value")
    result = await asked(GOOD)
    print("  ", repr(result.data))

    print("2. words around it are taken off")
    result = await asked(WITH_PROSE)
    print("  ", result.output, result.metadata)

    print("3. what does not fit is asked for again")
    result = await asked(FOR_NINE, GOOD)
    print("  ", result.data.guests, "guests,", result.usage.requests, "calls of the model")

    print("4. and refused, when it still does not fit")
    result = await asked(FOR_NINE, FOR_NINE)
    print("  ", result.error_type, result.error_details)
    assert isinstance(result.exception, OutputInvalid)
    print("  ", result.exception.text)

    print("5. a stream holds the text until it is known to be the answer")
    executor = AgentExecutor(config=CONFIG, llm_client=ScriptedLLMClient([WITH_PROSE]))
    print("  ", [text async for text in executor.execute_stream(CONTEXT)])


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# 1. what the model says becomes a value
#    Booking(name='Ann', day=datetime.date(2031, 5, 3), guests=2)
# 2. words around it are taken off
#    {"name": "Ann", "day": "2031-05-03", "guests": 2} {'output_repairs': ['prose']}
# 3. what does not fit is asked for again
#    the model is told: - guests: Input should be less than or equal to 8
#    2 guests, 2 calls of the model
# 4. and refused, when it still does not fit
#    the model is told: - guests: Input should be less than or equal to 8
#    output {'problems': ['guests'], 'attempts': 2}
#    {"name": "Ann", "day": "2031-05-03", "guests": 9}
# 5. a stream holds the text until it is known to be the answer
#    ['{"name": "Ann", "day": "2031-05-03", "guests": 2}']
