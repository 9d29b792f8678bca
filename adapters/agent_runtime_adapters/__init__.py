"""Clients, stores and the command line for `agent_runtime`, one third-party dependency per file."""
