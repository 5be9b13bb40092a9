"""Values that commands read."""

from __future__ import annotations

import pytest

from abnn_serve.cli.options import read_eps, read_sampling, read_size
from abnn_serve.errors import ConfigError
from abnn_serve.spec import Sampling


def test_a_sampling_is_read_from_one_text():
    assert read_sampling("frames=16") == Sampling(frames=16)
    assert read_sampling("frames=8, stride=2,clips=3,placement=windows,crops=3,fps=12.5") == Sampling(
        frames=8, stride=2, clips=3, placement="windows", crops=3, fps=12.5
    )
    assert read_sampling("frames=8,fps=12").fps == 12.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stride=2", "key 'frames' is missing"),
        ("frames=8,speed=2", "unknown key 'speed'"),
        ("frames=many", "frames is 'many', expected a JSON whole number"),
        ("frames=8,placement=random", "placement is 'random', expected one of spread, windows"),
        ("frames=8,crops=2", "crops is 2, expected one of 1, 3"),
    ],
)
def test_a_sampling_that_makes_no_sense_is_refused(text, message):
    with pytest.raises(ConfigError, match=f"--sampling.*{message}"):
        read_sampling(text)


def test_sizes_and_budgets_are_read_from_text():
    assert (read_size("224"), read_size("224x320")) == ((224, 224), (224, 320))
    assert (read_eps("8/255"), read_eps("0.03")) == (8 / 255, 0.03)
    with pytest.raises(ConfigError, match=r"--size is '224x', expected pixels such as 224, or height and width"):
        read_size("224x")
    with pytest.raises(ConfigError, match=r"--eps is 'eight', expected a number or a fraction, such as 8/255"):
        read_eps("eight")
    for text in ("8", "-1", "nan"):
        with pytest.raises(ConfigError, match=rf"--eps is {text}, expected a budget from 0 to 1, in units of"):
            read_eps(text)
