from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from abnn_serve.card import Accuracy
from abnn_serve.errors import ConfigError, DataError, ScoringError
from abnn_serve.evaluation.threats import Subject
from abnn_serve.evaluation.trials import run_trials
from abnn_serve.lab.data.load import load_data
from abnn_serve.media.limits import ImageLimits, VideoLimits
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.scoring.ledger import ScoringConfig, open_ledger
from abnn_serve.scoring.score import ScoreProgress, score
from abnn_serve.scoring.scorer import Columns
from abnn_serve.scoring.sources.open import open_source
from tests.drawing import write_parquet
from tests.scoring.conftest import fingerprint, table

COMMAND = [sys.executable, "-c", "from abnn_serve.cli.main import main; main()", "score"]


@pytest.fixture
def parquet(pictures, tmp_path) -> Path:
    """400 rows, every 50th of them damaged, in row groups of 130."""
    images = [pictures[i % 40] if i % 50 != 7 else pictures[0][: i % 90] for i in range(400)]
    write_parquet(tmp_path / "rows.parquet", images, [i % 3 for i in range(400)], classes=("cat", "dog", "frog"))
    pq.write_table(pq.read_table(tmp_path / "rows.parquet"), tmp_path / "rows.parquet", row_group_size=130)
    return tmp_path / "rows.parquet"


def test_rows_are_answered_by_the_rule_of_the_bundle(masks_bundle, folder, tmp_path):
    predictor = Predictor.open(masks_bundle.path, device="cpu", threads=1)
    score(predictor, str(folder), tmp_path / "out", columns=Columns(logits=True))
    rows = [row for row in table(tmp_path / "out").to_pylist() if not row["error"]]
    assert len(rows) == 30
    images = [predictor.decode(Path(row["source"]).read_bytes()) for row in rows]
    for row, expected in zip(rows, predictor.predict(images), strict=True):
        assert row["label"] == expected.top[0].label
        np.testing.assert_allclose(row["logits"], expected.logits, atol=1e-5)


def test_every_row_is_answered_as_the_predictor_answers_it(served, folder, pictures, tmp_path):
    summary = score(served, str(folder), tmp_path / "out", columns=Columns(top_k=3, logits=True), shard_rows=7)
    found = table(tmp_path / "out").to_pylist()
    assert (summary.rows, summary.errors) == (32, 2)
    assert [row["id"] for row in found] == sorted(
        [f"{'cat' if i % 2 else 'dog'}/{i:02}.png" for i in range(30)] + ["cat/empty.png", "dog/half.png"]
    )
    for row in found:
        if row["error"]:
            assert row["label"] is row["index"] is row["probability"] is row["top"] is row["logits"] is None
            continue
        image = served.decode(Path(row["source"]).read_bytes())
        expected = served.predict(image[None], top_k=3)[0]
        assert row["label"] == expected.top[0].label
        assert [top["index"] for top in row["top"]] == [c.index for c in expected.top]
        assert row["probability"] == pytest.approx(expected.top[0].probability, abs=1e-5)
        np.testing.assert_allclose(row["logits"], expected.logits, atol=1e-4)
        assert row["bundle"] == served.bundle.digest
        assert row["provider"] == "CPUExecutionProvider"


def test_bad_files_are_rows_and_the_quarantine_list_scores_again(served, folder, tmp_path):
    score(served, str(folder), tmp_path / "out")
    empty, half = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert (empty["id"], empty["error"]) == ("cat/empty.png", "the file is empty, expected an image")
    assert (half["id"], half["path"]) == ("dog/half.png", str(folder / "dog" / "half.png"))
    assert half["error"].startswith("the PNG image is damaged: image file is truncated")
    (folder / "cat" / "empty.png").write_bytes((folder / "cat" / "01.png").read_bytes())
    again = score(served, str(tmp_path / "out" / "quarantine.jsonl"), tmp_path / "again", allow_remote=True)
    assert (again.rows, again.errors) == (2, 1)


def test_labels_give_accuracy_and_confusion(served, parquet, tmp_path):
    summary = score(served, str(parquet), tmp_path / "out")
    rows = [row for row in table(tmp_path / "out").to_pylist() if not row["error"]]
    names = served.bundle.labels.names
    truth = [names.index(("cat", "dog", "frog")[int(row["id"].split("#")[1]) % 3]) for row in rows]
    assert [row["truth"] for row in rows] == truth
    assert summary.accuracy.n == len(truth) == 392
    assert summary.accuracy.correct == sum(row["truth"] == row["index"] for row in rows)
    assert np.asarray(summary.confusion).sum(axis=1).tolist() == np.bincount(truth, minlength=10).tolist()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["accuracy"]["n"] == 392


def test_ids_by_content_follow_the_bytes_and_fall_back_on_the_path(served, folder, tmp_path):
    import hashlib

    (folder / "cat" / "gone.png").symlink_to("nowhere.png")
    score(served, str(folder), tmp_path / "out", columns=Columns(id="content"))
    for row in table(tmp_path / "out").to_pylist():
        data = Path(row["source"]).read_bytes() if Path(row["source"]).exists() else b""
        assert row["id"] == (hashlib.sha256(data).hexdigest() if data else row["source"].removeprefix(f"{folder}/"))
    with pytest.raises(ConfigError, match="--id is 'name', expected path or content"):
        Columns(id="name")


def test_decoding_in_other_processes_changes_no_output(served, parquet, tmp_path):
    for workers in (0, 2):
        score(served, str(parquet), tmp_path / f"{workers}", shard_rows=100, workers=workers)
    assert fingerprint(tmp_path / "0") == fingerprint(tmp_path / "2")


def test_an_empty_source_and_a_finished_run_are_no_errors(served, parquet, tmp_path):
    pq.write_table(pq.read_table(parquet).slice(0, 0), tmp_path / "none.parquet")
    assert score(served, str(tmp_path / "none.parquet"), tmp_path / "none").rows == 0
    score(served, str(parquet), tmp_path / "out")
    before, progress = fingerprint(tmp_path / "out"), []
    score(served, str(parquet), tmp_path / "out", on_start=progress.append)
    assert progress == [ScoreProgress(total=400, rows=400, errors=8)]
    assert fingerprint(tmp_path / "out") == before


def test_too_many_errors_stop_the_run_and_a_higher_limit_resumes_it(served, parquet, tmp_path):
    score(served, str(parquet), tmp_path / "whole", shard_rows=50)
    with pytest.raises(ScoringError, match=r"out: 4 rows have errors, --max-errors allows 3"):
        score(served, str(parquet), tmp_path / "out", shard_rows=50, max_errors=3)
    assert len((tmp_path / "out" / "done.jsonl").read_text().splitlines()) == 4
    assert len((tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()) == 4
    with pytest.raises(ScoringError, match="allows 1"):
        score(served, str(parquet), tmp_path / "out", shard_rows=50, max_errors=1)
    score(served, str(parquet), tmp_path / "out", shard_rows=50, max_errors=8)
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "whole")


def test_a_second_run_and_another_configuration_are_refused(served, parquet, folder, tmp_path):
    out = tmp_path / "out"
    config = ScoringConfig.of(open_source(str(parquet), served.bundle.labels), served, Columns())
    with open_ledger(out, config), pytest.raises(ScoringError, match="out: another run is writing here"):
        score(served, str(parquet), out)
    score(served, str(parquet), out)
    with pytest.raises(ScoringError, match="out was started with source = "):
        score(served, str(folder), out)
    with pytest.raises(ScoringError, match="out was started with columns = "):
        score(served, str(parquet), out, columns=Columns(top_k=1))
    with pytest.raises(ScoringError, match="out was started with shard_rows = "):
        score(served, str(parquet), out, shard_rows=1)
    (out / "run.json").unlink()
    with pytest.raises(ScoringError, match="out holds predictions of an unknown run"):
        score(served, str(parquet), out)


@pytest.mark.parametrize("place", ["scored", "."])
def test_a_run_whose_output_is_inside_its_source_resumes(place, served, folder, tmp_path):
    out, progress = folder / place, []
    first = score(served, str(folder), out, shard_rows=10)
    (out / "confusion.png").write_bytes(b"drawn")
    before = fingerprint(out)
    assert score(served, str(folder), out, shard_rows=10, on_start=progress.append) == first
    assert progress[0].rows == 32
    assert fingerprint(out) == before
    (tmp_path / "link").symlink_to(folder)
    assert open_source(str(tmp_path / "link"), served.bundle.labels, out=out).rows == 32
    with pytest.raises(
        DataError, match=r"quarantine\.jsonl is output of a run with --out .*, expected samples; choose another"
    ):
        score(served, str(out / "quarantine.jsonl"), out)


def test_another_limit_is_another_configuration(served, folder, tmp_path):
    score(served, str(folder), tmp_path / "out")
    smaller = Predictor(served.session, ImageLimits(max_pixels=100))
    with pytest.raises(ScoringError, match=r"out was started with limits = \{.*40000000.*, now it is .*100\}"):
        score(smaller, str(folder), tmp_path / "out")
    others = Predictor(served.session, video_limits=VideoLimits(max_frames=1))
    assert score(others, str(folder), tmp_path / "out").rows == 32


def test_a_damaged_shard_and_a_torn_line_are_made_again(served, parquet, tmp_path):
    out = tmp_path / "out"
    score(served, str(parquet), out, shard_rows=100)
    whole = fingerprint(out)
    shard = out / "predictions" / "part-000002.parquet"
    shard.write_bytes(shard.read_bytes()[:-10])
    (out / "predictions" / ".part-000003.parquet.1.partial").write_bytes(b"left by a kill")
    lines = (out / "done.jsonl").read_bytes().splitlines(keepends=True)
    (out / "done.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    progress = []
    score(served, str(parquet), out, shard_rows=100, on_start=progress.append)
    assert progress[0].rows == 200
    assert fingerprint(out) == whole


# Runs `abnn score`, and kills itself at its N-th fsync or rename: what is on the disk then is what a kill leaves.
_DIES = """
import os, sys, pathlib
left = int(sys.argv.pop(1))
def deadly(call):
    def counted(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)
        return call(*args, **kwargs)
    return counted
os.fsync, pathlib.Path.replace = deadly(os.fsync), deadly(pathlib.Path.replace)
from abnn_serve.cli.main import main
main()
"""


def test_a_run_killed_between_its_steps_ends_as_an_uninterrupted_one(served, parquet, tmp_path):
    arguments = ["score", str(parquet), "--shard-rows", "100", "--workers", "0", "--out", str(tmp_path / "out")]
    score(served, str(parquet), tmp_path / "whole", shard_rows=100)
    # 1-4: run.json and done.jsonl; then for each shard: fsync, rename, sync of the directory, fsync of the line
    for step in (6, 7, 8):
        died = subprocess.run([sys.executable, "-c", _DIES, str(step), *arguments], capture_output=True, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr
    score(served, str(parquet), tmp_path / "out", shard_rows=100)
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "whole")


def test_decoding_processes_end_with_a_killed_run(parquet, tmp_path):
    run = subprocess.Popen([*COMMAND, str(parquet), "--workers", "1", "--out", str(tmp_path / "out")])
    while not (children := psutil.Process(run.pid).children()):
        time.sleep(0.05)
        assert run.poll() is None
    time.sleep(0.5)
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


@pytest.mark.slow
def test_twenty_random_kills_lose_and_repeat_nothing(served, pictures, tmp_path):
    images = [pictures[i % 40] if i % 97 else b"" for i in range(4000)]
    write_parquet(tmp_path / "rows.parquet", images, [0] * len(images), classes=("cat",))
    whole = score(served, str(tmp_path / "rows.parquet"), tmp_path / "whole", shard_rows=64)
    rng = np.random.default_rng(11)
    command = [*COMMAND, str(tmp_path / "rows.parquet"), "--shard-rows", "64", "--workers", "0"]
    command += ["--out", str(tmp_path / "out")]
    ledger, kills = tmp_path / "out" / "done.jsonl", 0
    while kills < 20:
        run = subprocess.Popen(command, env={**os.environ, "ABNN_THREADS": "1"}, stdout=subprocess.DEVNULL)
        before = len(ledger.read_bytes()) if ledger.exists() else 0
        while run.poll() is None and (not ledger.exists() or len(ledger.read_bytes()) == before):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        assert run.poll() is None, "it ended before it was killed: give it more rows"
        run.kill()
        run.wait()
        kills += 1
    assert subprocess.run(command, check=False).returncode == 0
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "whole")
    ids = table(tmp_path / "out")["id"].to_pylist()
    assert len(set(ids)) == len(ids) == whole.rows == 4000


_FULL_DISK = """
set -e
cd "$1" && mkdir disk && mount -t tmpfs -o size=400k tmpfs disk
head -c 350000 /dev/zero > disk/filler
cd - && disk=$1/disk && shift
"$@" --out $disk/out && exit 9
rm $disk/filler
"$@" --out $disk/out
cp -r $disk/out $disk/../copied
"""


def test_a_full_disk_is_one_line_and_what_was_done_is_kept(served, parquet, tmp_path):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a mount namespace of its own")
    command = [*COMMAND, str(parquet), "--shard-rows", "40", "--workers", "0"]
    shell = ["unshare", "-rm", "bash", "-c", _FULL_DISK, "bash", str(tmp_path), *command]
    result = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert re.search(r"(?m)^abnn: .*disk/out: the disk is full; finished shards are kept", result.stderr)
    assert "400 rows\n" in result.stdout
    assert re.search(r"8 rows with errors\naccuracy [\d.]+% of 392 ", result.stdout)
    score(served, str(parquet), tmp_path / "whole", shard_rows=40)
    assert fingerprint(tmp_path / "copied") == fingerprint(tmp_path / "whole")


def test_the_output_is_one_arrow_dataset(served, parquet, tmp_path):
    score(served, str(parquet), tmp_path / "out", shard_rows=150)
    read = pa.dataset.dataset(tmp_path / "out" / "predictions").to_table()
    assert read.num_rows == 400
    assert pa.types.is_dictionary(read.schema.field("label").type)


@pytest.mark.slow
@pytest.mark.data
def test_the_test_images_are_scored_with_the_accuracy_on_the_card(served, data_folder, tmp_path):
    summary = score(served, str(data_folder / "cifar10-test.parquet"), tmp_path / "out", workers=1)
    assert summary.accuracy == served.bundle.card.clean


@pytest.mark.slow
@pytest.mark.data
def test_fifty_thousand_rows_are_scored_with_the_accuracy_of_evaluate(served, data_folder, tmp_path):
    source = str(data_folder / "cifar10-train-*.parquet")
    subject = Subject(network=None, served=served.session.run, served_digest=served.bundle.digest)
    evaluation = run_trials(subject, load_data(source, served.bundle.manifest.input), [])
    summary = score(served, source, tmp_path / "out", workers=1)
    assert summary.accuracy == Accuracy.of(evaluation.clean)
    assert summary.accuracy.n == 50_000
