"""The command line that all benchmarks share: the parser, the printed bars and the exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from abnn_serve.errors import AbnnError
from benchmarks.common.report import Bar, print_bars


def new_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser for `python -m benchmarks.NAME`; the description is printed as it is."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_out_option(parser: argparse.ArgumentParser, suffixes: str = "JSON") -> None:
    """Add --out, a path whose suffix is replaced for each file."""
    parser.add_argument("--out", type=Path, help=f"write the results here ({suffixes}); the suffix is added")


def run(name: str, main: Callable[[], Sequence[Bar]]) -> None:
    """Run a benchmark and print its bars; exit with 0 if all passed, 1 if one was missed or the benchmark failed."""
    try:
        bars = main()
    except AbnnError as error:
        sys.exit(f"{name}: {error}")
    print_bars(bars)
    sys.exit(0 if all(bar.passed for bar in bars) else 1)
