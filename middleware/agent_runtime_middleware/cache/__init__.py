"""Give the answer that was given before."""

from agent_runtime_middleware.cache.layer import CacheMiddleware, CacheStats

__all__ = ("CacheMiddleware", "CacheStats")
