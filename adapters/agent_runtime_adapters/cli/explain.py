"""`agent-runtime explain`: the onion of an executor."""

from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from agent_runtime import AgentExecutor, Placed, Stage
from agent_runtime_adapters.cli.onion import onion, reached
from agent_runtime_adapters.cli.run import Target
from agent_runtime_adapters.cli.target import load_executor
from agent_runtime_adapters.cli.terminal import console, printable


def explain(
    target: Target, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False
) -> None:
    """Print the layers around an agent as a tree."""
    executor = load_executor(target)
    if as_json:
        typer.echo(msgspec.json.encode(_document(executor)).decode())
        return
    out = console()
    out.print(Text.assemble("agent ", (printable(executor.agent_id), "bold")))
    out.print()
    out.print(onion(executor, _beside, out.width))
    unreached = [stage for stage in Stage if stage not in reached(executor)]
    if unreached:
        out.print()
        out.print(
            Text(f"This agent reaches no {' and no '.join(unreached)} calls: no layer stands around them.", "dim")
        )


def _beside(stage: Stage, layer: Placed | None) -> str:
    if layer is None:
        return ""
    origin = layer.origin.removesuffix(f".{layer.name}")
    inside = "".join(f", inside {name}" for name in layer.inside)
    return printable(f"{layer.kind}, from {origin}{inside}")


def _document(executor: AgentExecutor) -> dict[str, Any]:
    stages = {
        stage: {"reached": stage in reached(executor), "layers": executor.pipeline.layers(stage)} for stage in Stage
    }
    return {"agent": executor.agent_id, "stages": stages}
