from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import MAX_BYTES, mutate
from tests.fuzz.targets import TARGETS, seeds_of

_SECONDS = 2.0  # of the processor, for the slowest input that is no finding


@pytest.mark.parametrize("name", TARGETS)
def test_every_finding_and_its_valid_neighbours_are_read_or_refused(name):
    for seed in seeds_of(name):
        started = time.process_time()
        TARGETS[name](seed)
        assert time.process_time() - started < _SECONDS


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs_are_read_or_refused(name):
    target = TARGETS[name]

    @given(seed=st.integers(0, 1 << 32))
    @settings(max_examples=25, derandomize=True, deadline=None, database=None)
    def run(seed: int) -> None:
        data = mutate(random.Random(seed), seeds_of(name), target.tokens)
        assert len(data) <= MAX_BYTES
        started = time.process_time()
        target(data)
        assert time.process_time() - started < _SECONDS

    run()


def test_mutations_follow_their_seed():
    assert mutate(random.Random(5), [b"abc", b"def"], [b"x"]) == mutate(random.Random(5), [b"abc", b"def"], [b"x"])
    assert len({mutate(random.Random(i), [b"abc"]) for i in range(50)}) > 25


def test_the_long_form_reports_executions_crashes_and_slow_inputs(tmp_path):
    command = [sys.executable, "-m", "tests.fuzz.run", "--seconds", "1", "--only", "manifest", "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 crashes, 0 slow" in result.stdout
    assert not list(tmp_path.iterdir())
