"""The pages: each one HTML file that needs nothing from anywhere else, so they work where there is no Internet."""

from importlib.resources import files

DASHBOARD = files(__name__).joinpath("dashboard.html").read_text("utf-8")
REFERENCE = files(__name__).joinpath("reference.html").read_text("utf-8")
"""renders /openapi.json"""
