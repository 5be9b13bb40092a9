from __future__ import annotations

import numpy as np
import pytest

from abnn_serve.answer import Answer, Masks, Noise
from abnn_serve.errors import ConfigError
from abnn_serve.runtime.rules.base import Certificate, RuleAnswer, answer_all
from abnn_serve.runtime.rules.choose import make_rule, of_video
from abnn_serve.runtime.rules.masks import MaskRule
from abnn_serve.runtime.rules.noise import NoiseRule
from tests.runtime.rules.networks import Constant


def test_a_bundle_without_a_rule_answers_in_one_pass_and_certifies_nothing():
    rule = make_rule(None, (4, 4))
    image = np.zeros((2, 4, 4, 3), np.uint8)
    assert [answer.label for answer in answer_all(rule, image, Constant(1, 3))] == [1, 3]
    assert not rule.certifies
    with pytest.raises(ConfigError, match=r"answers in one pass and proves nothing .* --answer masks:patch=5,k=3"):
        answer_all(rule, image, Constant(1, 3), certify=True)


def test_the_rule_is_that_of_the_bundle():
    masks = Answer(masks=Masks(patch=(1, 1), k=2, fill=(0, 0, 0)))
    assert isinstance(make_rule(masks, (4, 4)), MaskRule)
    assert isinstance(make_rule(Answer(noise=Noise(sigma=0.5)), (4, 4)), NoiseRule)


def _clip(label: int, radius: float | None = None, *, certified: bool = True) -> RuleAnswer:
    kind = "masks" if radius is None else "noise"
    certificate = Certificate(
        kind=kind, certified=certified, passes=10, confidence=1.0 if radius is None else 0.999, radius=radius
    )
    return RuleAnswer(logits=np.eye(3, dtype=np.float32)[label], passes=10, certificate=certificate)


def test_a_video_is_certified_if_all_of_its_clips_are_with_its_class():
    assert of_video([_clip(1), _clip(1)], 1).certified
    assert of_video([_clip(1), _clip(1)], 1).passes == 20
    assert not of_video([_clip(1), _clip(2)], 1).certified
    assert not of_video([_clip(1), _clip(1, certified=False)], 1).certified
    assert of_video([RuleAnswer(logits=np.zeros(3, np.float32), passes=1)], 0) is None


def test_the_radius_of_a_video_is_the_smallest_and_its_confidence_that_of_all_clips():
    certificate = of_video([_clip(1, 0.4), _clip(1, 0.2)], 1)
    assert certificate.radius == 0.2
    assert certificate.confidence == pytest.approx(0.998)
    assert of_video([_clip(1, 0.4), _clip(2, 0.2)], 1).radius == 0
