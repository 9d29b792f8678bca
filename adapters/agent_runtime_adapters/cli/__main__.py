"""`python -m agent_runtime_adapters.cli` is `agent-runtime`."""

from agent_runtime_adapters.cli import main

main()
