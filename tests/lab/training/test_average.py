from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from abnn_serve.errors import TrainingError
from abnn_serve.lab.data.load import load_data
from abnn_serve.lab.training.average import average_runs
from abnn_serve.lab.training.run import Run, new_card
from abnn_serve.lab.training.train import train
from abnn_serve.lab.training.validation import evaluate_clean
from abnn_serve.spec import Labels
from tests.conftest import SPEC, request_for


@pytest.fixture(scope="module")
def later_run(shapes, standard_run, tmp_path_factory):
    request = request_for(shapes, init=str(standard_run.path), target=None, epochs=1)
    return train(request, tmp_path_factory.mktemp("runs") / "later")


@pytest.fixture(scope="module")
def averaged(shapes, val_data, standard_run, later_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "averaged"
    return average_runs([standard_run.path, later_run.path], out, load_data(shapes["train"], SPEC), val_data)


def test_weights_are_the_mean_and_statistics_are_taken_anew(averaged, standard_run, later_run):
    first, second, mean = (run.network().state_dict() for run in (standard_run, later_run, averaged))
    for name, value in mean.items():
        expected = (first[name] + second[name]) / 2 if value.is_floating_point() else value
        fresh = "running_" in name
        assert torch.allclose(value, expected) != fresh, name


def test_statistics_are_averaged_on_request(shapes, val_data, standard_run, later_run, tmp_path):
    sources, data = [standard_run.path, later_run.path], load_data(shapes["train"], SPEC)
    kept = average_runs(sources, tmp_path / "kept", data, val_data, recompute=False)
    first, second, mean = (run.network().state_dict() for run in (standard_run, later_run, kept))
    assert all(torch.allclose(mean[name], (first[name] + second[name]) / 2) for name in mean if "running_" in name)


def test_a_bundle_counts_as_the_run_that_it_was_exported_from(bundle, abnn_run, shapes, val_data, tmp_path):
    data = load_data(shapes["train"], SPEC)
    run = average_runs([abnn_run.path, bundle.path], tmp_path / "run", data, val_data)
    assert run.config.init_source == f"{abnn_run.path.name} + {bundle.path.name}"
    expected = abnn_run.network().state_dict()
    assert all(torch.allclose(value, expected[name]) for name, value in run.network().state_dict().items())


def test_an_averaged_run_says_where_it_is_from_and_what_it_is_worth(averaged, val_data, standard_run, later_run):
    assert averaged.metrics[-1]["val_accuracy"] == evaluate_clean(averaged.network(), val_data)[0] > 0.5
    assert averaged.config.init_source == f"{standard_run.path.name} + {later_run.path.name}"
    assert averaged.total_seconds >= later_run.total_seconds
    cost = new_card(averaged, val_data, "").training
    assert (cost.epochs, cost.init_seconds) == (0, later_run.total_seconds)


def test_runs_with_other_classes_are_not_averaged(shapes, val_data, standard_run, tmp_path):
    other = Run(shutil.copytree(standard_run.path, tmp_path / "other"))
    names = standard_run.config.labels.names
    other.write_config(replace(standard_run.config, labels=Labels(names=names[::-1])))
    with pytest.raises(TrainingError, match=r"hold different networks \(labels differs\)"):
        average_runs([standard_run.path, other.path], tmp_path / "out", load_data(shapes["train"], SPEC), val_data)


def test_a_run_that_is_named_twice_weighs_twice(shapes, val_data, standard_run, later_run, tmp_path):
    sources = [standard_run.path, later_run.path, later_run.path]
    run = average_runs(sources, tmp_path / "run", load_data(shapes["train"], SPEC), val_data)
    assert run.config.init_source == f"{standard_run.path.name} + 2 x {later_run.path.name}"
    states = [r.network().state_dict() for r in (standard_run, later_run, run)]
    first, second, mean = (next(v for v in state.values() if v.dim() == 4) for state in states)
    assert torch.allclose(mean, (first + 2 * second) / 3, atol=1e-6)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["standard"], "1 run given, expected at least 2"),
        (["standard", "abnn"], "hold different networks"),
        (["standard", "later"], "already holds a run"),
    ],
)
def test_what_cannot_be_averaged_is_refused(
    chosen, message, shapes, val_data, standard_run, abnn_run, later_run, averaged, tmp_path
):
    runs = {"standard": standard_run, "abnn": abnn_run, "later": later_run}
    out = averaged.path if "already" in message else tmp_path / "out"
    with pytest.raises(TrainingError, match=message):
        average_runs([runs[name].path for name in chosen], out, load_data(shapes["train"], SPEC), val_data)
    assert not (tmp_path / "out").exists()
