"""`module:attribute` on the command line becomes an executor."""

import importlib
import inspect
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from agent_runtime import AgentContext, AgentExecutor, AgentRuntimeError, MiddlewarePipeline, Stage, StandIns, reaches
from agent_runtime_adapters.cli.exits import CommandFailed, described
from agent_runtime_adapters.cli.terminal import notice

_FORM = "write MODULE:ATTRIBUTE, such as app:executor for `executor` in app.py"

Onion = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:ATTRIBUTE|FILE", help="An AgentExecutor, a function that makes one, or a pipeline file."
    ),
]

_PIPELINE_FILES = (".toml", ".yaml", ".yml")


def is_pipeline_file(target: str) -> bool:
    """Whether `target` names a file with a pipeline, not an executor."""
    return Path(target).suffix.lower() in _PIPELINE_FILES


def load_onion(target: str) -> AgentExecutor:
    """The executor that `target` names; of a pipeline file, its layers around an agent that reaches every stage.

    It is for looking at: objects of the program that a file names are stood in for, which is told on standard error.
    Raises `CommandFailed`, and `ConfigurationError` for a file that is wrong.
    """
    if not is_pipeline_file(target):
        return load_executor(target)
    resources = StandIns()
    try:
        pipeline = MiddlewarePipeline.from_config(target, resources=resources)
    finally:
        if resources:
            notice(f"{target} names resources, for which something stands in here: {', '.join(sorted(resources))}")
    return AgentExecutor(_anybody, agent_id=target, middleware=pipeline)


@reaches(Stage.MODEL, Stage.TOOL)
async def _anybody(context: AgentContext) -> str:
    return context.current_task


def load_executor(target: str) -> AgentExecutor:
    """Import the executor that `target` names, or call the zero-argument function that makes it.

    The current folder is importable. Raises `CommandFailed` when there is no such thing, or its module does not import.
    """
    module_name, colon, attribute = target.partition(":")
    parts = [*module_name.split("."), *attribute.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise CommandFailed(f"{target!r} is not MODULE:ATTRIBUTE", hint=_FORM)
    found = _attribute(_module(module_name), attribute, module_name)
    if not isinstance(found, AgentExecutor) and _is_factory(found):
        found = _made(found, target)
    if not isinstance(found, AgentExecutor):
        raise CommandFailed(
            f"{target} is of type {type(found).__name__}, not AgentExecutor",
            hint="name an AgentExecutor, or a function without parameters that returns one",
        )
    return found


def _is_factory(thing: Any) -> bool:
    if not callable(thing) or inspect.iscoroutinefunction(thing):
        return False
    try:
        inspect.signature(thing).bind()
    except (TypeError, ValueError):  # it needs arguments, or does not say
        return False
    return True


def _module(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            hint = f"name the module without .py: {name.removesuffix('.py')}" if name.endswith(".py") else _FORM
            raise CommandFailed(
                f"there is no module {error.name!r} in {here} or among the installed", hint=hint
            ) from None
        raise CommandFailed(f"module {name!r} needs {error.name!r}, which is not installed") from error
    except AgentRuntimeError as error:
        raise CommandFailed(f"module {name!r} does not import: {error}") from error
    except SyntaxError as error:  # it names its place itself
        raise CommandFailed(f"module {name!r} does not import: {type(error).__name__}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        raise CommandFailed(f"module {name!r} does not import: {described(error)}") from error


def _attribute(module: Any, path: str, module_name: str) -> Any:
    found = module
    for name in path.split("."):
        if not hasattr(found, name):
            known = [name for name in dir(found) if not name.startswith("_")]
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {module_name}:{path.replace(name, close[0])}?" if close else None
            raise CommandFailed(f"{module_name!r} has no {name!r}", hint=hint)
        found = getattr(found, name)
    return found


def _made(factory: Any, target: str) -> Any:
    try:
        return factory()
    except AgentRuntimeError as error:
        raise CommandFailed(f"{target}() failed: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a user's function raises
        raise CommandFailed(f"{target}() failed: {described(error)}") from error
