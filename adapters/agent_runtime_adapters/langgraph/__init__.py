"""Our stores under LangGraph. Needs the `langgraph` extra."""

from agent_runtime_adapters.langgraph.saver import LangGraphSaver

__all__ = ("LangGraphSaver",)
