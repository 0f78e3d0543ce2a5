"""By what names Ray knows the runtime's actors and the node where the controller lives; by what address others know an
actor's process."""

from __future__ import annotations

import ray

NAMESPACE = "grf"
CONTROLLER = "grf-controller"
HEAD = "node:__internal_head__"
"""a resource that Ray gives to its head node"""
EVERYWHERE = "0.0.0.0"


def address_of(host: str) -> str:
    """How others reach this process, which listens on `host`: by the node's address, if that is all of them."""
    return str(ray.util.get_node_ip_address()) if host == EVERYWHERE else host
