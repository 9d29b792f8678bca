"""Stores in a MongoDB database: a standalone server, a replica set or a sharded cluster, with no transactions needed."""

from agent_runtime_adapters.mongodb.database import MongoDatabase

__all__ = ("MongoDatabase",)
