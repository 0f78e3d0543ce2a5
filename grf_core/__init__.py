"""Gated Recurrent Fusion (arXiv 2507.02985): the model, its training, its bundles. Imports nothing of the runtime."""
