"""The API from outside: pure `wire`, two thin shells over it, Python handles, and the command line."""

from reelgraph.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
