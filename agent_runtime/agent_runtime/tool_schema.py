"""What a tool takes, read from its function: a JSON schema for the model, and a validator for what the model writes."""

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, get_args, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict  # pydantic refuses the one of typing before 3.12

from agent_runtime.context import AgentContext, ToolCall
from agent_runtime.errors import ConfigurationError
from agent_runtime.types import Value

ANY_JSON: TypeAdapter[Any] = TypeAdapter(Any)

# Google style: sections start at the margin, and a parameter's text may go on in deeper lines.
_SECTION = re.compile(r"^(Args|Arguments|Attributes|Returns|Raises|Yields|Examples?|Notes?):[ \t]*$", re.MULTILINE)
_BLOCK = re.compile(r"(?:[ \t]*\n|[ \t]+\S.*\n?)*")  # what is indented under a section's title
_PARAMETER = re.compile(r"^(\w+)(?: *\([^)\n]*\))?:(.*(?:\n[ \t]+\S.*)*)", re.MULTILINE)
_LISTS = ("Args", "Arguments", "Attributes")
_typed_dict: Any = TypedDict  # the fields are known at run time only


class Parameters(Value, frozen=True, kw_only=True):
    """A function's parameters.

    Attributes:
        schema: A JSON schema of an object that allows nothing else.
        validate: Gives the keyword arguments for the function, or raises `pydantic.ValidationError`.
        injected: The parameter that takes the `ToolCall`; the model does not know of it.
    """

    schema: Mapping[str, Any]
    validate: Callable[[Mapping[str, Any]], dict[str, Any]]
    injected: str | None


def parameters_of(function: Callable[..., Any], tool: str) -> Parameters:
    """Read the signature; a `ConfigurationError` names the parameter that cannot be filled from JSON."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ConfigurationError(f"tool {tool!r}: an annotation cannot be resolved: {error}") from error
    parameters = list(inspect.signature(function).parameters.values())
    for parameter in parameters:
        _check(parameter, hints, tool)
    injected = [parameter.name for parameter in parameters if hints[parameter.name] is ToolCall]
    if len(injected) > 1:
        raise ConfigurationError(f"tool {tool!r}: {' and '.join(injected)} both take the ToolCall; keep one of them")
    written = [parameter for parameter in parameters if parameter.name not in injected]
    try:
        adapter = _adapter(written, hints)
        schema = adapter.json_schema(schema_generator=_Untitled)
    except (PydanticUserError, NameError) as error:
        raise ConfigurationError(f"tool {tool!r}: a parameter's type has no JSON form: {error}") from error
    _complete(schema, written, summary_of(function)[1])
    return Parameters(
        schema=schema, validate=adapter.validator.validate_python, injected=injected[0] if injected else None
    )


def summary_of(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The docstring's text before its first section, and what its "Args:" section says of each parameter.

    A class of data has "Attributes:" there.
    """
    text, *rest = _SECTION.split(inspect.getdoc(function) or "")
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    block = _BLOCK.match(next((sections[name] for name in _LISTS if name in sections), ""))
    listed = textwrap.dedent(block[0] if block else "")
    return text.strip(), {found[1]: " ".join(found[2].split()) for found in _PARAMETER.finditer(listed)}


def _check(parameter: inspect.Parameter, hints: Mapping[str, Any], tool: str) -> None:
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise ConfigurationError(
            f"tool {tool!r}: parameter {parameter} is {parameter.kind.description}; a model writes arguments by name"
        )
    if parameter.name not in hints:
        raise ConfigurationError(f"tool {tool!r}: parameter {parameter.name!r} has no annotation")
    if AgentContext in (hints[parameter.name], *get_args(hints[parameter.name])):
        raise ConfigurationError(
            f"tool {tool!r}: parameter {parameter.name!r} takes an AgentContext, which no model can write; annotate it "
            "with ToolCall, which is passed in, and has it as `context`"
        )


def _adapter(parameters: Sequence[inspect.Parameter], hints: Mapping[str, Any]) -> TypeAdapter[Any]:
    fields = {
        parameter.name: hints[parameter.name]
        if parameter.default is parameter.empty
        else NotRequired[hints[parameter.name]]
        for parameter in parameters
    }
    arguments = _typed_dict("Arguments", fields)
    arguments.__pydantic_config__ = ConfigDict(extra="forbid")
    return TypeAdapter(arguments)


class _Untitled(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _complete(schema: dict[str, Any], parameters: Sequence[inspect.Parameter], texts: Mapping[str, str]) -> None:
    """Put what pydantic cannot know into `schema`: the function's defaults, and the docstring's descriptions."""
    del schema["title"]
    for parameter in parameters:
        field = schema["properties"][parameter.name]
        if parameter.name in texts:
            field.setdefault("description", texts[parameter.name])
        if parameter.default is not parameter.empty:
            try:
                field.setdefault("default", ANY_JSON.dump_python(parameter.default, mode="json"))
            except ValueError:
                continue  # a default without JSON form is the function's own business
