"""`agent-runtime explain`: the onion of an executor, or of a pipeline file."""

from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from agent_runtime import AgentExecutor, Placed, Stage
from agent_runtime_adapters.cli.onion import onion, reached
from agent_runtime_adapters.cli.target import Onion, is_pipeline_file, load_onion
from agent_runtime_adapters.cli.terminal import console, printable


def explain(
    target: Onion, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False
) -> None:
    """Print the layers around an agent as a tree."""
    executor = load_onion(target)
    what = "pipeline" if is_pipeline_file(target) else "agent"
    if as_json:
        typer.echo(msgspec.json.encode({what: executor.agent_id, "stages": _stages(executor)}).decode())
        return
    out = console()
    out.print(Text.assemble(f"{what} ", (printable(executor.agent_id), "bold")))
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
    declared = f", in {layer.declared}" if layer.declared else ""
    return printable(f"{layer.kind}, from {origin}{inside}{declared}")


def _stages(executor: AgentExecutor) -> dict[str, Any]:
    return {
        stage: {"reached": stage in reached(executor), "layers": executor.pipeline.layers(stage)} for stage in Stage
    }
