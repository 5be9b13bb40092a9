"""The `abnn` command line: one small module for each command."""
