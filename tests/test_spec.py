from __future__ import annotations

import pytest

from abnn_serve.errors import ConfigError
from abnn_serve.spec import InputSpec, Labels


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"height": 0}, "height is 0, expected a whole number of pixels from 1 to 4096"),
        ({"width": 32.0}, "width is 32.0"),
        ({"fit": "pad"}, "fit is 'pad', expected one of crop, stretch"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic'"),
    ],
)
def test_an_input_spec_refuses_what_it_cannot_do(values, message):
    with pytest.raises(ConfigError, match=message):
        InputSpec(**{"height": 32, "width": 32, **values})


@pytest.mark.parametrize(
    ("names", "message"),
    [((), "is empty"), (("a", " "), "label 1 is ' '"), (("a", "b", "a"), "'a' appears more than once")],
)
def test_labels_are_distinct_names(names, message):
    with pytest.raises(ConfigError, match=message):
        Labels(names=names)
