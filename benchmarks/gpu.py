"""Does everything run correctly on this machine's GPU, and how fast?

python -m benchmarks.gpu --out benchmarks/results/gpu

Runs `abnn doctor`, the tests marked `gpu`, `latency --quick` and `steps`, one after the other, in less than ten
minutes, and leaves their reports in the folder --out. A part that fails or exceeds its time does not stop the others.
"""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.command import new_parser, run
from benchmarks.common.report import Bar


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One program of the examination.

    Attributes:
        arguments: of Python.
        report: name of the file that gets what it prints.
        seconds: time limit.
    """

    name: str
    arguments: tuple[str, ...]
    report: str
    seconds: float


def main() -> list[Bar]:
    """Run all parts; a part that failed is a missed bar."""
    parser = new_parser("gpu", __doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the parts without a GPU")
    parser.add_argument("--out", type=Path, help="folder for the reports (default benchmarks/results/gpu-DATE)")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in parts("cuda", Path())], help="these parts")
    options = parser.parse_args()
    out = options.out or Path("benchmarks/results", f"gpu-{dt.datetime.now(tz=dt.UTC).date().isoformat()}")
    chosen = [part for part in parts(options.device, out) if options.only is None or part.name in options.only]
    failed = run_parts(chosen, out)
    return [Bar(name=f"{part.name} failed", value=float(part.name in failed), limit=0) for part in chosen]


def parts(device: str, out: Path) -> list[Part]:
    """The parts on a device, in order; those that write files put them into `out`."""
    doctor = "from abnn_serve.cli.main import main; main()"
    latency = ("-m", "benchmarks.latency", "--quick", "--device", device, "--out", str(out / "latency"))
    steps = ("-m", "benchmarks.steps", "--device", device, "--out", str(out / "steps"))
    return [
        Part(
            name="doctor",
            arguments=("-c", doctor, "doctor", "--device", device, "--json"),
            report="doctor.json",
            seconds=150,
        ),
        Part(name="tests", arguments=("-m", "pytest", "-q", "-m", "gpu"), report="tests.txt", seconds=120),
        Part(name="latency", arguments=latency, report="latency.txt", seconds=150),
        Part(name="steps", arguments=steps, report="steps.txt", seconds=150),
    ]


def run_parts(chosen: Sequence[Part], out: Path) -> set[str]:
    """Run parts one after the other, with their output in files of `out`; returns the names of those that failed."""
    out.mkdir(parents=True, exist_ok=True)
    failed = set()
    for part in chosen:
        started = time.perf_counter()
        with (out / part.report).open("w") as report:
            try:
                command = [sys.executable, *part.arguments]
                done = subprocess.run(command, stdout=report, timeout=part.seconds, check=False)  # noqa: S603
                verdict = "passed" if done.returncode == 0 else f"FAILED with status {done.returncode}"
            except subprocess.TimeoutExpired:
                verdict = f"FAILED: not done within {part.seconds:.0f} s"
        if verdict != "passed":
            failed.add(part.name)
        print(f"{part.name:<10} {verdict} in {time.perf_counter() - started:.0f} s: {out / part.report}", flush=True)
    return failed


if __name__ == "__main__":
    run("gpu", main)
