"""What is done to workers, servers, networks and subscribers; importing this registers all scenarios."""

from tests.torture.scenarios import load, networks, servers, subscribers, troubles, workers

__all__ = ["load", "networks", "servers", "subscribers", "troubles", "workers"]
