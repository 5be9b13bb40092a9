"""The `abnn` command line: one module per command."""
