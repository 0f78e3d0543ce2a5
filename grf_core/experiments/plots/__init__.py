"""Plots that can be read in grey: line styles, markers and hatches tell apart what colours do, and maps grow lighter.

Each function gives a matplotlib `Figure` that belongs to nobody, so no window and no global state is involved.
Needs `pip install grf-runtime[experiments]`.
"""
