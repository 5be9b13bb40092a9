"""Augmentation on a device: the same choices and the same pixels as in numpy, and no wait in between."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training import loop
from abnn_serve.lab.training.batches import batches_on_device, copy_to, training_batches
from abnn_serve.lab.training.recipes import RECIPES
from abnn_serve.lab.training.train import train
from abnn_serve.spec import Labels
from tests.conftest import request_for

CPU = torch.device("cpu")
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")


def data(*shape: int) -> ImageData:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, shape[0])
    return ImageData(
        source="noise",
        images=rng.integers(0, 256, shape, dtype=np.uint8),
        labels=labels,
        classes=Labels(names=("a", "b")),
    )


def recipe(**settings: object):
    return replace(RECIPES["standard"], batch_size=4, **{"crop_padding": 0, "flip": False, "cutout": 0, **settings})


@pytest.mark.parametrize("shape", [(11, 9, 7, 3), (9, 3, 8, 8, 3)], ids=["images", "clips"])
@pytest.mark.parametrize(
    ("settings", "levels"),
    [
        ({}, 0),
        ({"crop_padding": 3}, 0),
        ({"flip": True}, 0),
        ({"cutout": 4}, 0),
        ({"crop_padding": 2, "flip": True, "cutout": 3}, 0),
        ({"crop_padding": 2, "photometric": 0.3}, 1),
    ],
)
def test_a_device_augments_as_numpy_does_by_the_same_choices(shape, settings, levels):
    chosen, samples = recipe(**settings), data(*shape)
    expected = list(training_batches(samples, chosen, np.random.default_rng(1), CPU))
    found = list(batches_on_device(samples, copy_to(samples, CPU), chosen, np.random.default_rng(1)))
    assert len(found) == len(expected) == 2
    for (x, y), (expected_x, expected_y) in zip(found, expected, strict=True):
        assert torch.equal(y, expected_y)
        assert x.dtype == torch.float32
        assert x.stride() == expected_x.stride()
        assert (255 * (x - expected_x)).abs().max() <= levels + 1e-3 * bool(levels)


def test_choices_change_pixels():
    samples = data(11, 9, 7, 3)
    plain, augmented = (
        next(batches_on_device(samples, copy_to(samples, CPU), chosen, np.random.default_rng(1)))[0]
        for chosen in (recipe(), recipe(crop_padding=2, flip=True, cutout=3))
    )
    assert not torch.equal(plain, augmented)


class Recorder(TorchDispatchMode):
    """Names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.append(function.name().partition("::")[2].partition(".")[0])
        return function(*arguments, **(options or {}))


def test_no_step_copies_from_the_host_or_waits_for_the_device():
    chosen = recipe(crop_padding=2, flip=True, cutout=3, photometric=0.1)
    samples = data(11, 9, 7, 3)
    batches = batches_on_device(samples, copy_to(samples, CPU), chosen, np.random.default_rng(1))
    next(batches)  # everything is on the device from here on
    with Recorder() as recorder:
        next(batches)
    assert recorder.names
    assert not {*WAITS, "lift_fresh"} & set(recorder.names)


def test_a_run_copies_its_data_to_the_device_once_and_ends_with_the_bits_of_one_that_does_not(
    shapes, standard_run, tmp_path, monkeypatch
):
    copies = []

    def held(samples, device):
        copies.append(len(samples))
        return copy_to(samples, device)

    monkeypatch.setattr(loop, "hold", held)  # as on CUDA
    run = train(request_for(shapes), tmp_path / "held")
    assert (len(copies), len(run.metrics)) == (1, 2)
    found, expected = (each.network().state_dict() for each in (run, standard_run))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
