from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest

from abnn_serve.answer import Answer, Masks, Noise, mask_set, parse_answer
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


def _parsed(text: str) -> Answer | None:
    return parse_answer(text, (32, 32), (1, 2, 3))


def test_answer_rules_are_parsed_with_their_defaults():
    assert _parsed("plain") is None
    assert _parsed("masks:patch=5") == Answer(masks=Masks(patch=(5, 5), k=3, fill=(1, 2, 3)))
    assert _parsed("masks:patch=5x7,k=4").masks == Masks(patch=(5, 7), k=4, fill=(1, 2, 3))
    assert _parsed("masks:patch=10%").masks.patch == (10, 10)
    assert _parsed("noise:sigma=0.25") == Answer(noise=Noise(sigma=0.25, n=1000, n0=100, alpha=0.001))
    assert _parsed("noise:sigma=0.5,n=50,n0=9,alpha=0.01").noise == Noise(sigma=0.5, n=50, n0=9, alpha=0.01)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the answer rule is '', expected plain, masks:patch=5,k=3 or noise:sigma=0.25"),
        ("mask:patch=5", "expected plain, masks"),
        ("plain:k=3", "has the setting 'k', expected none"),
        ("masks", "needs patch, such as masks:patch=5,k=3"),
        ("noise:n=100", "needs sigma, such as noise:sigma=0.25"),
        ("masks:patch=5,sigma=1", "has the setting 'sigma', expected k, patch"),
        ("masks:patch", "has 'patch', expected NAME=VALUE"),
        ("masks:patch=big", "patch is 'big', expected pixels such as 5 or 5x7, or a share of the area such as 10%"),
        ("masks:patch=100%", "expected a share of the area between 0% and 100%"),
        ("masks:patch=33", "the patch's height is 33 pixels, expected 1 to the image's 32"),
        ("masks:patch=32,k=2", "k=2 makes masks of the image's whole height"),
        ("masks:patch=5,k=99", "k=99 needs more than 10,000 passes for a certificate"),
        ("masks:patch=5,k=x", "k is 'x', expected a whole number"),
        ("noise:sigma=0", "sigma is 0, expected more than 0"),
        ("noise:sigma=nan", "sigma is nan, expected more than 0"),
        ("noise:sigma=x", "sigma is 'x', expected a number"),
        ("noise:sigma=1,n=9", "n is 9, and with alpha 0.001 fewer than 10 copies never give a certificate; use n=10"),
        ("noise:sigma=1,n=9999999", "expected n0 >= 1 and at most 100,000 in all"),
        ("noise:sigma=1,alpha=0.5", "alpha is 0.5, expected more than 0 and less than 0.5"),
    ],
)
def test_an_answer_rule_that_cannot_work_is_refused_in_one_line(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        _parsed(text)
    assert "\n" not in str(error.value)


def test_the_fewest_copies_that_can_give_a_certificate_are_accepted():
    for alpha in (0.001, 0.01, 0.05, 0.3):
        needed = next(n for n in range(1, 100) if alpha ** (1 / n) > 0.5)
        assert Noise(sigma=1, n=needed, alpha=alpha).n == needed
        with pytest.raises(ConfigError, match="never give a certificate"):
            Noise(sigma=1, n=needed - 1, alpha=alpha)
