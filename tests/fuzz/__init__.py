"""Fuzzers of everything that reads bytes from strangers: `make fuzz`, and a short form in the suite."""
