"""By what names Ray knows the runtime's actors, and the node where the controller lives."""

NAMESPACE = "grf"
CONTROLLER = "grf-controller"
HEAD = "node:__internal_head__"
"""a resource that Ray gives to its head node"""
