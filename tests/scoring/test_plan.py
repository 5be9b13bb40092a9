from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from abnn_serve.scoring.plan import LabelMap
from tests.scoring.conftest import LABELS


@given(st.one_of(st.text(), st.integers(), st.none(), st.floats(), st.binary()))
def test_any_label_maps_to_a_class_of_the_bundle_or_none(label):
    assert LabelMap(LABELS)(label) in {None, 0, 1, 2}


def test_a_class_named_by_digits_takes_precedence_over_a_number():
    assert [LabelMap(LABELS)(label) for label in ("7", " dog ", "1", 2, -1, 3)] == [2, 1, 1, 2, None, None]
