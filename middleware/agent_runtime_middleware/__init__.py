"""Ready-made layers for `agent_runtime`, one per file."""
