"""The command `agent-runtime`: a composition root, so it puts layers and adapters together. Needs the `cli` extra."""

import importlib
import sys

_INTERRUPTED = 130


def main() -> None:
    """Run the command line of this process and exit; `exits` has the codes."""
    try:
        # Here and not above: where the libraries of the extra are missing, this says so in one line.
        app = importlib.import_module("agent_runtime_adapters.cli.app")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in ("rich", "typer"):
            raise
        sys.exit(f"error: agent-runtime needs {library}: pip install 'onion-agent-runtime[cli]'")
    app.start()
