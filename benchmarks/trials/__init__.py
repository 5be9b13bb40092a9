"""The trials of `benchmarks.hostile`, one module each."""
