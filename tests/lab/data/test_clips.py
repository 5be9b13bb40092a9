"""Clips of folders of videos, and stills set in motion."""

from __future__ import annotations

import numpy as np
import pytest

from abnn_serve.errors import DataError
from abnn_serve.lab.data.load import load_data
from abnn_serve.lab.data.motions import MOTIONS, moving
from abnn_serve.lab.training.batches import training_batches
from abnn_serve.lab.training.recipes import RECIPES
from abnn_serve.spec import InputSpec, Sampling
from tests.conftest import CLIPS, SPEC


def test_a_folder_of_videos_gives_clips_and_their_classes(videos):
    data = load_data(videos["val"], CLIPS)
    assert data.images.shape == (24, 4, 16, 16, 3)
    assert data.classes.names == ("left", "right")
    assert data.videos.tolist() == np.repeat(np.arange(12), 2).tolist()
    assert data.labels.tolist() == [0] * 12 + [1] * 12
    assert data.frames == 4


def test_a_list_names_the_videos_of_a_split(videos, tmp_path):
    table, names = tmp_path / "splits.tsv", tmp_path / "testlist01.txt"
    table.write_text("file\tsplit\nleft/left00.avi\ttest\nright/right01.avi\ttest\nleft/left02.avi\ttrain\n")
    names.write_text("left/left00.avi 1\nright/right01.avi 2\n")
    listed = load_data(f"{videos['val']}:{table}:test", CLIPS)
    assert listed.labels.tolist() == [0, 0, 1, 1]
    assert load_data(f"{videos['val']}:{names}", CLIPS).digest == listed.digest
    with pytest.raises(DataError, match="no split 'val', expected one of test, train"):
        load_data(f"{videos['val']}:{table}:val", CLIPS)
    names.write_text("left/nothing.avi 1\n")
    with pytest.raises(DataError, match=r"1 of the listed videos are missing; the first: .*nothing\.avi"):
        load_data(f"{videos['val']}:{names}", CLIPS)


def test_corrupt_videos_are_skipped_up_to_a_limit_and_named(videos, tmp_path):
    folder = tmp_path / "left"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.avi").write_bytes(b"RIFF0000AVI damaged" if i else _first(videos))
    with pytest.raises(DataError, match="2 of 3 videos are corrupt"):
        load_data(str(tmp_path), CLIPS)
    (folder / "2.avi").unlink()
    data = load_data(str(tmp_path), CLIPS)
    assert len(data) == 2
    assert "1.avi: " in data.corrupt[0]
    with pytest.raises(DataError, match="no such folder of videos"):
        load_data(str(tmp_path / "nothing"), CLIPS)


def _first(videos):
    from pathlib import Path

    return next(Path(videos["val"]).glob("left/*.avi")).read_bytes()


def test_spread_takes_the_middle_clip_of_each_video(videos):
    data = load_data(videos["val"], CLIPS)
    assert data.spread(100).videos.tolist() == list(range(12))
    assert (data.spread(12).images == data.images[1::2]).all()


def test_scores_are_averaged_over_the_clips_of_a_video(videos):
    data = load_data(videos["val"], CLIPS).part(slice(4))
    logits = np.log(np.asarray([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]], np.float32))
    scores, labels = data.by_video(logits)
    assert scores == pytest.approx(np.asarray([[0.65, 0.35], [0.25, 0.75]]), abs=1e-6)
    assert labels.tolist() == [0, 0]


def test_motions_move_as_they_are_named():
    grid = np.zeros((600, 32, 32, 3), np.uint8)
    grid[:, 12:20, 12:20] = 255  # a square in the middle
    clips, labels = moving(grid, Sampling(frames=6))
    bright = clips.mean(axis=-1) > 120
    mass = np.maximum(bright.sum(axis=(2, 3)), 1)
    x = (bright * np.arange(32)).sum(axis=(2, 3)) / mass
    y = (bright * np.arange(32)[:, None]).sum(axis=(2, 3)) / mass
    trend = {"x": x[:, 4] - x[:, 1], "y": y[:, 4] - y[:, 1], "size": mass[:, 4] / mass[:, 1]}
    of = {name: {key: np.median(value[labels == i]) for key, value in trend.items()} for i, name in enumerate(MOTIONS)}
    assert of["pan left"]["x"] > 3 > -3 > of["pan right"]["x"]  # the camera moves, the image moves the other way
    assert of["pan up"]["y"] > 3 > -3 > of["pan down"]["y"]
    assert of["zoom in"]["size"] > 1.5 > 0.7 > of["zoom out"]["size"]
    still = np.abs(np.diff(clips[labels == MOTIONS.index("static")].astype(int), axis=1)).mean()
    assert still < 4 < np.abs(np.diff(clips[labels == MOTIONS.index("shake")].astype(int), axis=1)).mean()


def test_motions_are_the_same_again_and_no_frame_alone_tells_them(shapes):
    spec = InputSpec(height=32, width=32, sampling=Sampling(frames=5))
    data = load_data(f"motions:{shapes['val']}", spec)
    assert data.images.shape == (64, 5, 32, 32, 3)
    assert data.digest == load_data(f"motions:{shapes['val']}", spec).digest
    assert not data.mirrors
    assert data.name == "motions:val.parquet"
    with pytest.raises(DataError, match="motions are clips"):
        load_data(f"motions:{shapes['val']}", SPEC)


def test_all_frames_of_a_clip_are_augmented_alike_and_motions_are_not_mirrored(shapes):
    import torch

    spec = InputSpec(height=32, width=32, sampling=Sampling(frames=3))
    data = load_data(f"motions:{shapes['val']}", spec)
    data.images[:] = data.images[:, :1]  # still: any difference between frames would come from the augmentation
    recipe = RECIPES["standard"]
    for x, _ in training_batches(data, _small(recipe, cutout=8), np.random.default_rng(0), torch.device("cpu")):
        assert x.shape == (32, 3, 3, 32, 32)
        assert torch.equal(x[:, :, 0], x[:, :, 2])
    plain = _small(recipe, crop_padding=0)
    for x, _ in training_batches(data, plain, np.random.default_rng(0), torch.device("cpu")):
        stills = {sample.tobytes() for sample in data.images}
        assert all((s.permute(1, 2, 3, 0) * 255).round().byte().numpy().tobytes() in stills for s in x)


def _small(recipe, **settings):
    from dataclasses import replace

    return replace(recipe, batch_size=32, **settings)


@pytest.mark.data
def test_the_fight_videos_are_read_by_folder_and_by_list(data_folder):
    fights = data_folder / "fight2"
    data = load_data(f"{fights}:{fights / 'splits.tsv'}:test", CLIPS)
    assert data.by_video(np.zeros((len(data), 2), np.float32))[1].tolist() == [0] * 36 + [1] * 38
    assert data.classes.names == ("fight", "noFight")
    assert not data.corrupt
    assert load_data(str(fights / "test"), CLIPS).digest == data.digest
