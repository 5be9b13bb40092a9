"""The papers' tables, for `benchmarks.reproduce`."""
