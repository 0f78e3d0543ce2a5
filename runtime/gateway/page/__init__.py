"""The dashboard: one HTML file that needs nothing from anywhere else."""

from importlib.resources import files

PAGE = files(__name__).joinpath("dashboard.html").read_text("utf-8")
