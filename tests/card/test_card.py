from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abnn_serve.card import Accuracy, AttackResult, Curve, QueryAttacks, RobustnessCard, SanityCheck, TrainingCost
from abnn_serve.codec import from_json, to_json
from abnn_serve.errors import ConfigError

COST = TrainingCost(
    recipe="abnn", epochs=1, images=2, passes_per_step=3, seconds=4.5, hardware="x", substitute_seconds=1
)


def test_a_card_loses_nothing_in_json():
    row = AttackResult(
        threat_model="whitebox",
        attack="pgd",
        norm="Linf",
        eps=8 / 255,
        parameters={"steps": 20, "step_size": None, "loss": "ce", "random_start": True, "p_init": 0.8},
        seed=1,
        accuracy=Accuracy(correct=1, n=3),
    )
    card = RobustnessCard(
        model_sha256="0",
        data="d",
        data_digest="1",
        clean=Accuracy(correct=2, n=3),
        training=COST,
        attacks=(row,),
        worst={"whitebox": Accuracy(correct=1, n=3)},
        curves=(Curve(parameter="eps", attack="pgd", points=((0.0, Accuracy(correct=2, n=3)),)),),
        sanity=(SanityCheck(check="c", raised=True, detail="d"),),
        limits=("l",),
    )
    assert from_json(RobustnessCard, to_json(card), "card", ConfigError) == card


SIGN = QueryAttacks(
    attack="Square",
    queries=300,
    images=20,
    noticed_after=33.0,
    broken=3,
    broken_label_only=1,
    data="test.parquet",
    innocent=10000,
    false_alarms=0,
    frames=4333,
    false_frames=727,
)


def test_what_the_sign_of_query_attacks_is_worth_is_the_last_sentence_of_a_card_that_has_it():
    card = RobustnessCard(model_sha256="0", data="d", data_digest="1", clean=None, training=None, limits=("l",))
    assert card.sentences == ("l",)
    assert "query_attacks" not in to_json(card)
    measured = replace(card, query_attacks=SIGN)
    assert from_json(RobustnessCard, to_json(measured), "card", ConfigError) == measured
    first, last = measured.sentences
    assert first == "l"
    assert "notices Square under one key after 33 queries (median of 20 images, 300 queries each" in last
    assert "0 of 10,000 images of test.parquet and 727 of 4,333 frames of videos" in last
    assert last.endswith("It slows an attacker with one key; it is not a defence.")
    assert "under one key not at all" in str(replace(SIGN, noticed_after=None))


def test_a_sanity_check_has_a_name_and_passed_and_keeps_its_keys_on_disk():
    check = SanityCheck.of("queries alone do not beat gradients", passed=False, detail="d")
    assert (check.name, check.passed) == ("queries alone do not beat gradients", False)
    assert to_json(check) == {"check": "queries alone do not beat gradients", "raised": True, "detail": "d"}
    assert from_json(SanityCheck, {"check": "c", "raised": False, "detail": ""}, "card", ConfigError).passed


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share_and_stays_within_0_and_1(counts):
    accuracy = Accuracy(correct=counts[0], n=counts[1])
    low, high = accuracy.interval
    assert 0 <= low <= accuracy.value + 1e-12
    assert accuracy.value - 1e-12 <= high <= 1


def test_the_interval_is_wilsons():
    low, high = Accuracy(correct=8, n=10).interval
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@pytest.mark.parametrize(("correct", "n"), [(3, 2), (-1, 2), (0, 0)])
def test_impossible_counts_are_refused(correct, n):
    with pytest.raises(ConfigError, match="expected 0 <= correct <= n and n > 0"):
        Accuracy(correct=correct, n=n)
