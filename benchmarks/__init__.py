"""Benchmarks of abnn_serve: one module each, run as `python -m benchmarks.NAME` from the checkout's root."""
