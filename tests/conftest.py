"""Fixtures: a drawn data set, networks trained on it in seconds, their bundles, and the project's real data."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

if (_worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))  # one core per worker, set before libraries size their thread pools
    os.sched_setaffinity(0, {_cores[int(_worker.removeprefix("gw")) % len(_cores)]})

import numpy as np
import pytest
import torch
from hypothesis import settings

from abnn_serve.bundle.store import Bundle, write_bundle
from abnn_serve.export.bundle import export_bundle
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.load import load_data
from abnn_serve.lab.training.recipes import RECIPES
from abnn_serve.lab.training.request import TrainRequest
from abnn_serve.lab.training.run import Run
from abnn_serve.lab.training.train import train
from abnn_serve.lab.training.weights_file import WEIGHTS_FILE
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.spec import InputSpec, Sampling
from tests.drawing import SHAPES, draw_shape, encode_video, passing_square, png, write_parquet

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

settings.register_profile("abnn", deadline=None)  # a first call loads libraries
settings.load_profile("abnn")

torch.cpu._is_avx512_bf16_supported = lambda: False  # so that trainings give the same result on every CPU

SPEC = InputSpec(height=32, width=32)
CLIPS = InputSpec(height=16, width=16, sampling=Sampling(frames=4, stride=2, clips=2))
SEED = 7


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002
    torch.manual_seed(SEED)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ABNN_") and name != "ABNN_DATA"]:
        monkeypatch.delenv(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    data = _data_folder()
    for item in items:
        if "data" in item.keywords and data is None:
            item.add_marker(pytest.mark.skip(reason="needs the project's data: set ABNN_DATA to its folder"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _data_folder() -> Path | None:
    named = os.environ.get("ABNN_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def data_folder() -> Path:
    folder = _data_folder()
    assert folder is not None
    return folder


@pytest.fixture(scope="session")
def cifar10_test(data_folder: Path) -> ImageData:
    return load_data(str(data_folder / "cifar10-test.parquet"), SPEC)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Drawn shapes as Parquet files: `train`, `val`."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(SEED)
    sources = {}
    for split, count in (("train", 192), ("val", 64)):
        labels = rng.integers(0, len(SHAPES), count)
        write_parquet(folder / f"{split}.parquet", [png(draw_shape(int(label), rng)) for label in labels], labels)
        sources[split] = str(folder / f"{split}.parquet")
    return sources


@pytest.fixture(scope="session")
def val_data(shapes: dict[str, str]) -> ImageData:
    return load_data(shapes["val"], SPEC)


def request_for(shapes: dict[str, str], recipe: str = "standard", **options: object) -> TrainRequest:
    """A request to train on the drawn shapes for seconds."""
    from dataclasses import replace

    settings = {
        key: options.pop(key) for key in ("epochs", "batch_size", "lr", "momentum", "optimizer") if key in options
    }
    small = replace(RECIPES[recipe], **{"epochs": 2, "batch_size": 32, "lr": 0.1, **settings})
    return TrainRequest(
        recipe=small,
        **{
            "target": "resnet8s-w4",
            "data": shapes["train"],
            "val": shapes["val"],
            "input": SPEC,
            "seed": SEED,
            **options,
        },
    )


@pytest.fixture(scope="session")
def standard_run(shapes: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(request_for(shapes), tmp_path_factory.mktemp("runs") / "standard")


@pytest.fixture(scope="session")
def abnn_run(shapes: dict[str, str], standard_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(
        request_for(shapes, "abnn", substitute=str(standard_run.path)), tmp_path_factory.mktemp("runs") / "abnn"
    )


@pytest.fixture(scope="session")
def bundle(abnn_run: Run, val_data: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(abnn_run, tmp_path_factory.mktemp("bundles") / "shapes", val_data)


@pytest.fixture(scope="session")
def older_bundle(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle without its weights."""
    files = {name: bundle.read(name) for name in bundle.manifest.files if name != WEIGHTS_FILE}
    folder = tmp_path_factory.mktemp("bundles") / "older"
    return write_bundle(folder, files, lambda entries: replace(bundle.manifest, files=entries))


@pytest.fixture(scope="session")
def masks_bundle(standard_run: Run, val_data: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles")
    return export_bundle(standard_run, folder / "masks", val_data, answer="masks:patch=5,k=3")


@pytest.fixture(scope="session")
def noise_bundle(standard_run: Run, val_data: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles")
    return export_bundle(standard_run, folder / "noise", val_data, answer="noise:sigma=0.1,n=20,n0=10")


@pytest.fixture(scope="session")
def predictor(bundle: Bundle) -> Predictor:
    return Predictor.open(bundle.path, device="cpu", threads=1)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of drawn videos of a square that moves to the left or to the right: `train`, `val`."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(SEED)
    for split, count in (("train", 16), ("val", 6)):
        for name in ("left", "right"):
            class_folder = folder / split / name
            class_folder.mkdir(parents=True)
            for i in range(count):
                frames = passing_square(rng, rightwards=name == "right")
                (class_folder / f"{name}{i:02}.avi").write_bytes(encode_video(frames, container="avi", codec="mpeg4"))
    return {split: str(folder / split) for split in ("train", "val")}


def clip_request(videos: dict[str, str], recipe: str = "standard", **options: object) -> TrainRequest:
    """A request to train on the drawn videos for seconds."""
    return request_for(videos, recipe, **{"target": "resnet3d7-w4", "input": CLIPS, "batch_size": 16, **options})


@pytest.fixture(scope="session")
def clip_run(videos: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(clip_request(videos), tmp_path_factory.mktemp("runs") / "clips")


@pytest.fixture(scope="session")
def abnn_clip_run(videos: dict[str, str], clip_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    request = clip_request(videos, "abnn", substitute=str(clip_run.path))
    return train(request, tmp_path_factory.mktemp("runs") / "abnn-clips")


@pytest.fixture(scope="session")
def video_bundle(abnn_clip_run: Run, videos: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles")
    return export_bundle(abnn_clip_run, folder / "clips", load_data(videos["val"], CLIPS))


@pytest.fixture(scope="session")
def masks_clips_bundle(clip_run: Run, videos: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles")
    return export_bundle(clip_run, folder / "masks-clips", load_data(videos["val"], CLIPS), answer="masks:patch=2,k=3")
