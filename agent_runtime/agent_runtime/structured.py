"""Structured output: what the model is told to answer, and its answer as a value of the agent's output type."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from pydantic import PydanticUserError, TypeAdapter, ValidationError

from agent_runtime.errors import ConfigurationError, OutputInvalid
from agent_runtime.json_text import Repair, repair_json
from agent_runtime.types import Message, Value

_SHOWN_PROBLEMS = 10
_COUNTED_PROBLEMS = 1_000  # listing more would take longer than all the rest
_LONGEST_REASON = 300
_WHOLE = "answer"


class Problem(Value, frozen=True, kw_only=True):
    """Why an answer does not fit. `place` holds only names of the schema; `told` is for the model, which wrote the answer."""

    place: str
    told: str


class Reading(Value, frozen=True, kw_only=True):
    """An answer that was read. Without `problems`, `value` is what `text`, which is JSON, says."""

    value: Any = None
    text: str = ""
    repairs: tuple[Repair, ...] = ()
    problems: tuple[Problem, ...] = ()


class OutputFormat:
    """An output type: any that pydantic can read from JSON; another one is a `ConfigurationError`.

    Attributes:
        schema: Its JSON schema.
        instruction: What the model is told.
    """

    def __init__(self, output_type: Any) -> None:
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(output_type)
            self.schema: Mapping[str, Any] = self._adapter.json_schema()
        except (PydanticUserError, NameError, SyntaxError, TypeError) as error:
            raise ConfigurationError(f"output_type={output_type!r} cannot be read from JSON: {error}") from error
        self.instruction = (
            "Your final answer is one JSON value that fits the following JSON schema, and nothing else: no words around it, "
            f"no code fence.\n{msgspec.json.encode(self.schema).decode()}"
        )
        self._names = frozenset(_names(self.schema))

    def read(self, answer: str) -> Reading:
        """Read the model's text, repaired where that is possible. Values are not converted: `"41"` is no integer."""
        try:
            found = repair_json(answer)
        except ValueError as error:
            return Reading(problems=(Problem(place=_WHOLE, told=f"{_WHOLE}: not one JSON value ({error})"),))
        try:
            value = self._adapter.validate_json(found.text, strict=True)
        except ValidationError as error:
            return Reading(problems=self._problems(error))
        return Reading(value=value, text=found.text, repairs=found.repairs)

    def fits(self, answer: str) -> bool:
        """Whether the model's text, repaired where that is possible, is a value of the type."""
        return not self.read(answer).problems

    def _problems(self, error: ValidationError) -> tuple[Problem, ...]:
        if error.error_count() > _COUNTED_PROBLEMS:
            return (Problem(place=_WHOLE, told=f"{_WHOLE}: does not fit in {error.error_count()} places"),)
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        return tuple(
            Problem(
                place=".".join(self._known(step) for step in problem["loc"]) or _WHOLE,
                told=f"{'.'.join(map(str, problem['loc'])) or _WHOLE}: {problem['msg']}"[:_LONGEST_REASON],
            )
            for problem in problems[:_SHOWN_PROBLEMS]
        )

    def _known(self, step: int | str) -> str:
        """A step of a path without what the model has written: an index, or a name of the schema."""
        return str(step) if isinstance(step, int) or step in self._names else "*"

    def reprompt(self, reading: Reading) -> Message:
        """What the model is told about an answer that does not fit."""
        listed = "\n".join(f"- {problem.told}" for problem in reading.problems)
        return Message(
            role="user",
            content=f"The answer does not fit the JSON schema:\n{listed}\nGive the whole answer again, corrected, as JSON only.",
        )

    def refusal(self, reading: Reading, answer: str, *, agent: str, attempts: int) -> OutputInvalid:
        """The error for an answer that does not fit, after `attempts` of them."""
        places = [problem.place for problem in reading.problems]
        return OutputInvalid(
            f"the model of agent {agent!r} did not answer in the form of its output type, in {attempts} attempts "
            f"(AgentConfig.output_type, output_retries); the last answer does not fit at: {', '.join(places)}",
            text=answer,
            details={"problems": places, "attempts": attempts},
        )


def _names(schema: Any) -> Iterator[str]:
    """The names of all properties in a schema, in which defaults and examples may be any JSON."""
    kind: Any = schema.__class__  # isinstance() would narrow to containers of unknown types
    if issubclass(kind, dict) and isinstance(schema.get("properties"), dict):
        yield from schema["properties"]
    for part in schema.values() if issubclass(kind, dict) else schema if issubclass(kind, list) else ():
        yield from _names(part)
