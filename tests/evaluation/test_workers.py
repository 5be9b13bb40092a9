from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from abnn_serve import evaluate
from abnn_serve.card import RobustnessCard
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.subject import open_subject
from abnn_serve.evaluation.threats import Subject
from abnn_serve.evaluation.workers import Processes


def _timeless(card: RobustnessCard) -> RobustnessCard:
    return replace(card, attacks=tuple(replace(row, seconds=0.0) for row in card.attacks))


def _batches(folder) -> dict[str, dict[str, np.ndarray]]:
    kept = {}
    for path in sorted(folder.glob("batches/*.np[yz]")):
        arrays = np.load(path)
        names = () if path.suffix == ".npy" else [name for name in arrays.files if name != "seconds"]
        kept[path.name] = {name: arrays[name] for name in names} or {"flags": arrays}
    return kept


def test_two_processes_give_what_one_gives(abnn_run, shapes, tmp_path):
    _same_for_any_number(tmp_path, abnn_run.path, shapes["val"], ["pgd-margin"])


@pytest.mark.slow
def test_two_processes_give_what_one_gives_on_a_bundle(bundle, abnn_run, shapes, tmp_path):
    for jobs in (1, 3):
        shutil.copytree(bundle.path, tmp_path / f"shapes{jobs}")
    _same_for_any_number(tmp_path, abnn_run.path, shapes["val"], ["pgd", "square", "roa"], name="shapes")


def _same_for_any_number(folder, run, data, attacks, name=""):
    cards, batches = [], []
    for jobs in (1, 3) if name else (1, 2):
        path = folder / f"{name}{jobs}" if name else run
        out = folder / f"out{jobs}"
        options = {"run": run if name else None, "attacks": attacks, "images": 52, "out": out}
        cards.append(_timeless(evaluate(path, data, **options, quick=True, corruptions=bool(name), jobs=jobs)))
        batches.append(_batches(out))
    assert cards[0] == cards[1]
    assert batches[0].keys() == batches[1].keys()
    assert len(batches[0]) >= 2 * len(cards[0].attacks) + 15 * bool(name)
    for file, arrays in batches[0].items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, batches[1][file][key])


def _number(number: int, subject: Subject) -> tuple[int, int, int]:
    return number, os.getpid(), torch.get_num_threads()


def _die(subject: Subject) -> None:
    os._exit(3)


def test_each_process_has_one_thread_all_end_together_and_one_that_dies_is_an_error(standard_run):
    processes = Processes(partial(_subject, str(standard_run.path)), 1)
    results = dict(processes.run([partial(_number, number) for number in range(3)]))
    assert [results[number][0] for number in range(3)] == [0, 1, 2]
    assert {threads for _, _, threads in results.values()} == {1}
    ((process,),) = [{process for _, process, _ in results.values()}]
    assert process != os.getpid()
    with pytest.raises(
        ConfigError, match="a process of --jobs died, perhaps for lack of memory; run the command again"
    ):
        list(processes.run([_die]))
    processes.close(wait=True)
    assert not _is_running(process)


def test_jobs_and_suites_that_exclude_each_other_are_refused(standard_run, shapes):
    with pytest.raises(ConfigError, match="jobs is 0, expected at least 1"):
        evaluate(standard_run.path, shapes["val"], jobs=0)
    with pytest.raises(ConfigError, match="--quick and --full exclude each other; choose one"):
        evaluate(standard_run.path, shapes["val"], quick=True, full=True)


def _subject(run: str) -> Subject:
    return open_subject(run).subject


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_killed_evaluation_ends_its_processes_and_resumes_to_the_same_card(standard_run, shapes, tmp_path):
    def start(out):
        abnn = "from abnn_serve.cli.main import main; main()"
        command = [sys.executable, "-c", abnn, "evaluate", str(standard_run.path)]
        options = ["--data", shapes["val"], "--attack", "worst", "-n", "64", "--jobs", "2", "--out", str(out)]
        return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    whole = start(tmp_path / "whole")
    killed = start(tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("killed/batches/*.npz")) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = [int(pid) for pid in Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(children) >= 2
    while any(map(_is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_is_running, children))
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("killed/batches/*.npz")}
    assert start(tmp_path / "killed").wait(120) == 0
    assert whole.wait(120) == 0
    assert all((tmp_path / "killed/batches" / name).read_bytes() == data for name, data in kept.items())
    cards = [json.loads((tmp_path / name / "card.json").read_text()) for name in ("whole", "killed")]
    for card in cards:
        for row in card["attacks"]:
            row["seconds"] = 0
    assert cards[0] == cards[1]
