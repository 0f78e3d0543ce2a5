"""By what names the runtime's actors are found in Ray."""

NAMESPACE = "grf"
CONTROLLER = "grf-controller"
HEAD = "node:__internal_head__"
"""a resource that Ray gives to its head node"""
