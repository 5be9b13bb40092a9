from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from abnn_serve.answer import mask_set
from abnn_serve.errors import ConfigError


@pytest.mark.parametrize("k", [2, 3, 4, 5])
@pytest.mark.parametrize("size", [(8, 8), (9, 12), (7, 16)])
def test_some_mask_covers_every_place_of_every_allowed_patch(size, k):
    for patch in product(range(1, size[0] + 1), range(1, size[1] + 1)):
        try:
            masks = mask_set(size, patch, k)
        except ConfigError:
            continue
        assert len(masks) <= k * k
        for top, left in np.ndindex(size[0] - patch[0] + 1, size[1] - patch[1] + 1):
            assert masks[:, top : top + patch[0], left : left + patch[1]].all(axis=(1, 2)).any()


def test_the_mask_set_is_that_of_the_paper():
    masks = mask_set((32, 32), (5, 5), 3)
    assert masks.shape == (9, 32, 32)
    assert {int(mask.sum()) for mask in masks} == {14 * 14}
    corners = [tuple(np.argwhere(mask)[0]) for mask in masks]
    assert corners == [(row, column) for row in (0, 10, 18) for column in (0, 10, 18)]


def test_equal_masks_are_one_mask():
    assert len(mask_set((8, 8), (5, 5), 16)) == 16


@pytest.mark.parametrize(
    ("patch", "k", "message"),
    [
        ((40, 5), 3, "the patch's height is 40 pixels, expected 1 to the image's 32"),
        ((5, 0), 3, "the patch's width is 0 pixels, expected 1 to the image's 32"),
        ((5, 5), 1, "k=1 makes masks of the image's whole height for a patch of 5 pixels; use a larger k or a smaller"),
        ((32, 32), 3, "k=3 makes masks of the image's whole height"),
    ],
)
def test_a_mask_set_that_hides_everything_or_nothing_is_refused(patch, k, message):
    with pytest.raises(ConfigError, match=message):
        mask_set((32, 32), patch, k)
