"""Fuzz every target for a while, each in a process of its own: python -m tests.fuzz.run --seconds 600

An input that raises anything but a refusal, kills the process, takes over two seconds of the processor or adds over 256
MB of memory is written to the folder of findings, and the command exits with 1.
"""

from __future__ import annotations

import argparse
import mmap
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutate import MAX_BYTES, mutate

_SLOW_SECONDS, _HANG_SECONDS, _LARGE_KILOBYTES = 2.0, 60.0, 256_000
_STATE = struct.Struct("<QI")  # executions so far, length of the current input; the input follows
_CRASHED, _SLOW = 3, 4


@dataclass(slots=True)
class Tally:
    """Figures of one target."""

    executions: int = 0
    crashes: int = 0
    slow: int = 0


def main() -> int:
    """Run the targets in turn; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together")
    parser.add_argument("--only", action="append", help="a target (repeatable)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the mutations; default: the time")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"), help="folder for inputs that were found")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return _child(options.child[0], Path(options.child[1]), options.seed, options.seconds)
    from tests.fuzz.targets import TARGETS

    names = options.only or list(TARGETS)
    print(f"seed {options.seed}", flush=True)
    tallies = [_fuzz(name, options.seed, options.seconds / len(names), options.out) for name in names]
    total = Tally(*(sum(getattr(t, field) for t in tallies) for field in Tally.__slots__))
    print(f"{total.executions:,} executions, {total.crashes} crashes, {total.slow} slow", flush=True)
    return int(total.crashes + total.slow > 0)


def _fuzz(name: str, seed: int, seconds: float, out: Path) -> Tally:
    """Run a target in child processes until its time is over; a child ends at its first finding."""
    tally, end = Tally(), time.monotonic() + seconds
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(_STATE.size + MAX_BYTES)
        state = mmap.mmap(file.fileno(), 0)
        while (left := end - time.monotonic()) > 0:
            state[: _STATE.size] = bytes(_STATE.size)
            command = [sys.executable, "-m", "tests.fuzz.run", "--child", name, file.name]
            child = subprocess.Popen([*command, "--seed", str(seed), "--seconds", str(left)], stderr=subprocess.PIPE)
            code, errors = _watch(child, state, left)
            executions, length = _STATE.unpack(state[: _STATE.size])
            tally.executions += executions
            seed += 1
            if code == 0:
                break
            slow = code == _SLOW
            tally.slow += slow
            tally.crashes += not slow
            out.mkdir(parents=True, exist_ok=True)
            found = out / f"{name}-{seed}-{'slow' if slow else 'crash'}"
            found.write_bytes(state[_STATE.size : _STATE.size + length])
            print(f"{found}: {errors.strip().splitlines()[-1:] or code}", flush=True)
            if executions == 0:
                break
    print(f"{name}: {tally.executions:,} executions, {tally.crashes} crashes, {tally.slow} slow", flush=True)
    return tally


def _watch(child: subprocess.Popen[bytes], state: mmap.mmap, seconds: float) -> tuple[int, str]:
    """Wait for a child; one that makes no progress is killed and counts as slow."""
    last, since = -1, time.monotonic()
    while True:
        try:
            _, errors = child.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            executions = _STATE.unpack(state[: _STATE.size])[0]
            if executions != last:
                last, since = executions, time.monotonic()
            elif time.monotonic() - since > _HANG_SECONDS + seconds * (last == 0):
                child.kill()
                child.communicate()
                return _SLOW, "no progress"
        else:
            return child.returncode, errors.decode(errors="replace")


def _child(name: str, state_file: Path, seed: int, seconds: float) -> int:
    from abnn_serve.media.image import quiet_pillow
    from tests.fuzz.targets import TARGETS, seeds_of

    quiet_pillow()
    target, seeds, rng = TARGETS[name], seeds_of(name), random.Random(seed)
    for data in seeds:
        target(data)
    with state_file.open("r+b") as file:
        state = mmap.mmap(file.fileno(), 0)
    end, executions = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = mutate(rng, seeds, target.tokens)
        state[: _STATE.size + len(data)] = _STATE.pack(executions, len(data)) + data
        started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            target(data)
        except Exception:
            traceback.print_exc()
            return _CRASHED
        executions += 1
        if time.process_time() - started > _SLOW_SECONDS:
            print(f"{time.process_time() - started:.1f} s", file=sys.stderr)
            return _SLOW
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        if grown > _LARGE_KILOBYTES:
            print(f"{grown:,} kB", file=sys.stderr)
            return _SLOW
    state[: _STATE.size] = _STATE.pack(executions, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
