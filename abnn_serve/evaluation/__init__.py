"""Runs and bundles attacked, to a robustness card; needs both torch and the runtime."""
