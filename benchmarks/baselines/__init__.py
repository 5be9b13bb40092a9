"""The servers that `benchmarks.serve` compares this service with, and how it compares them."""
