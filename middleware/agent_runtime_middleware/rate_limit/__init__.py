"""Admit so many requests and tokens in a time, for each user, tenant, agent or model."""

from agent_runtime_middleware.rate_limit.layer import OnStoreFailure, RateLimitMiddleware
from agent_runtime_middleware.rate_limit.quota import By, Quota

__all__ = ("By", "OnStoreFailure", "Quota", "RateLimitMiddleware")
