from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import benchmarks
from abnn_serve.bundle.store import load_bundle
from tests.drawing import draw_shape, png

NAMES = ["--target", "x", "--val", "d", "--out", "o"]
COMMANDS = [
    "train",
    "evaluate",
    "certify",
    "export",
    "sign",
    "verify",
    "show",
    "predict",
    "score",
    "serve",
    "compare-traffic",
    "calibrate",
    "key",
    "bench",
    "doctor",
]


def _abnn(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    command = [sys.executable, "-c", "from abnn_serve.cli.main import main; main()", *map(str, arguments)]
    env = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def _fails(result: subprocess.CompletedProcess[str], message: str) -> None:
    assert result.returncode == 1, result.stderr
    assert re.fullmatch(rf"abnn: .*{message}.*\n", result.stderr), result.stderr


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    (tmp_path / "picture.png").write_bytes(png(draw_shape(1, np.random.default_rng(0))))
    return tmp_path / "picture.png"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    result = _abnn(command, "--help")
    assert result.returncode == 0
    assert f"Example: abnn {command}" in result.stdout


def test_the_list_of_commands_cuts_no_summary():
    listed = _abnn("--help").stdout.partition("Commands:")[2].splitlines()
    rows = [line for line in listed if line.strip()]
    assert len(rows) >= len(COMMANDS)
    assert [row for row in rows if not row.endswith(".") or row.endswith("...")] == []


def test_wrong_usage_exits_with_2():
    assert _abnn("export").returncode == 2
    assert _abnn("frobnicate").returncode == 2


def test_train_export_verify_show_and_predict_work_in_a_row(shapes, standard_run, picture, tmp_path):
    arguments = [
        "--data",
        shapes["train"],
        "--val",
        shapes["val"],
        "--target",
        "resnet8s-w4",
        "--epochs",
        2,
        "--batch-size",
        32,
        "--substitute",
        standard_run.path,
    ]
    abnn = _abnn("train", "abnn", *arguments, "--out", tmp_path / "abnn")
    assert abnn.returncode == 0, abnn.stderr
    assert "epoch 2/2" in abnn.stderr
    assert re.search(r"validation accuracy [\d.]+% after epoch 2", abnn.stderr)
    assert "features.6.body.1.1" in abnn.stderr
    export = _abnn("export", tmp_path / "abnn", "--out", tmp_path / "bundle", "--data", shapes["val"])
    assert export.returncode == 0, export.stderr
    assert "7 layers" in export.stdout
    assert "Robustness has not been evaluated" in export.stdout
    digest = load_bundle(tmp_path / "bundle").digest
    assert digest in _abnn("verify", tmp_path / "bundle").stdout
    assert json.loads(_abnn("show", tmp_path / "bundle", "--json").stdout)["digest"] == digest
    predicted = _abnn("predict", picture, "--bundle", tmp_path / "bundle", "--json", "--top-k", 2)
    assert len(json.loads(predicted.stdout)["top"]) == 2


def test_train_refuses_a_directory_that_holds_a_run_and_resumes_a_finished_one(shapes, standard_run):
    arguments = [
        "--data",
        shapes["train"],
        "--val",
        shapes["val"],
        "--target",
        "resnet8s-w4",
        "--out",
        standard_run.path,
    ]
    _fails(_abnn("train", "standard", *arguments), "already holds a run; add --resume")
    again = _abnn(
        "train", "standard", *arguments, "--epochs", 2, "--batch-size", 32, "--lr", 0.1, "--seed", 7, "--resume"
    )
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "magic", *NAMES, "--data", "d"], "no recipe named 'magic'"),
        (["train", "standard", *NAMES, "--data", "none.parquet"], "none.parquet: no such file"),
        (["train", "standard", *NAMES, "--data", "d", "--device", "tpu"], "expected auto, cpu or cuda"),
        (["score", "d", "--out", "o", "--engine", "spark"], "--engine is 'spark', expected local or ray"),
        (
            ["score", "d", "--out", "o", "--gpus", "1", "--actors", "2"],
            "--actors, --gpus without --engine ray; add --engine ray",
        ),
        (["score", "d", "--out", "o", "--address", "a", "--cpus", "1"], "--address, --cpus without --engine ray"),
        (
            ["score", "d", "--out", "o", "--engine", "ray", "--workers", "0"],
            "--workers is 0 with --engine ray, whose actors decode their own rows; use --actors instead",
        ),
        (["verify", "nowhere"], "nowhere is not a bundle .bundle.json not found."),
        (["show", "nowhere"], "nowhere is not a bundle .bundle.json not found."),
        (["export", "nowhere", "--out", "o", "--data", "d"], "nowhere is not a run directory of `abnn train`"),
        (
            ["export", "r", "--out", "o", "--data", "d", "--precision", "int4"],
            "--precision is 'int4', expected fp32, optionally followed by fp16, bf16, int8, such as fp32,int8",
        ),
    ],
)
def test_errors_are_one_plain_line(arguments, message, tmp_path):
    _fails(_abnn(*arguments), message)


def test_score_of_nothing_is_one_line_and_leaves_nothing(tmp_path):
    _fails(
        _abnn("score", tmp_path / "in", "--out", tmp_path / "out", ABNN_DEVICE="cpu"),
        "in: no such file or folder; expected a folder",
    )
    assert not (tmp_path / "out").exists()


def test_predict_answers_what_it_can_and_reports_the_rest(picture, bundle, tmp_path):
    (tmp_path / "broken.png").write_bytes(picture.read_bytes()[:50])
    result = _abnn("predict", tmp_path / "broken.png", tmp_path / "missing.png", picture, "--bundle", bundle.path)
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 1
    assert result.stdout.startswith(f"{picture}: ")
    errors = [line for line in result.stderr.splitlines() if line.startswith("abnn: ")]
    assert len(errors) == 2
    assert "broken.png: the PNG image is damaged" in errors[0]
    assert "missing.png: cannot be read: No such file" in errors[1]


def test_predict_prints_what_is_proved_of_an_answer(picture, masks_bundle, bundle):
    shown = _abnn("predict", picture, picture, "--certify", "--bundle", masks_bundle.path)
    assert shown.returncode == 0, shown.stderr
    proof = "  (proof against any patch of 5 x 5 pixels of the model's input|nothing is proved)\n"
    assert re.search(proof, shown.stdout)
    _fails(_abnn("predict", picture, "--certify", "--bundle", bundle.path, ABNN_DEVICE="cpu"), "proves nothing of its")
    assert "masks against patches of 5 x 5 pixels, k=3" in _abnn("show", masks_bundle.path).stdout


def test_predict_reads_its_settings_from_the_environment(picture, bundle):
    shown = _abnn("predict", picture, ABNN_BUNDLE=str(bundle.path), ABNN_DEVICE="cpu")
    assert shown.returncode == 0
    assert shown.stderr == ""
    _fails(_abnn("predict", picture, ABNN_DEVICE="gpu"), "ABNN_DEVICE is 'gpu'")
    _fails(_abnn("predict", picture, ABNN_BUNDLE=str(bundle.path), ABNN_BUNDLE_DIGEST="00"), "but 00 is required")


def test_cuda_where_there_is_none_is_one_line(picture, bundle):
    from abnn_serve.hardware import has_cuda_device

    if has_cuda_device():
        assert _abnn("predict", picture, ABNN_BUNDLE=str(bundle.path), ABNN_DEVICE="cuda").returncode == 0
    else:
        _fails(
            _abnn("predict", picture, ABNN_BUNDLE=str(bundle.path), ABNN_DEVICE="cuda"),
            "this machine has no CUDA device",
        )


def test_bench_lists_what_there_is_and_hands_on_arguments_and_exit_status():
    names = sorted(path.stem for path in Path(benchmarks.__file__).parent.glob("*.py") if path.stem != "__init__")
    _fails(_abnn("bench", "speed"), f"no benchmark named 'speed', expected one of {', '.join(names)}")
    shown = _abnn("bench", "latency", "--", "--help")
    assert shown.returncode == 0
    assert "--quick" in shown.stdout
    assert _abnn("bench", "latency", "--slowly").returncode == 2
