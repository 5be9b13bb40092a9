from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from abnn_serve import evaluate
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.endpoints.open import open_endpoint
from abnn_serve.evaluation.endpoints.options import EndpointOptions, check_authorized
from abnn_serve.evaluation.opening import output_folder
from abnn_serve.lab.data.load import load_data
from tests.cli.test_cli import _abnn
from tests.evaluation.endpoints.conftest import probabilities, scores
from tests.evaluation.endpoints.server import Behaviour, v2_server

# what a user measures in seconds: few images, few queries
FEW = {"images": 8, "queries": 40, "eps": 16 / 255}


def test_a_service_is_attacked_by_queries_alone_and_its_card_says_what_it_answered(behaviour, coloured, out):
    behaviour.busy += [(429, "0"), (503, None)]
    told = []
    with v2_server(behaviour) as address:
        card = evaluate(address, coloured, out=out, on_estimate=lambda *at: told.append(at), **FEW)
    assert [(row.threat_model, row.attack) for row in card.attacks] == [("blackbox", "Square-40")]
    assert card.clean.correct == 8
    assert card.worst["blackbox"].correct < 8
    use = card.endpoint
    assert (use.protocol, use.scores, use.address) == ("v2", "logits", address)
    assert use.queries == behaviour.images
    assert use.answers["429"] == use.answers["503"] == 1
    assert sum(use.answers.values()) == use.requests
    assert use.waited > 0
    assert 1 < behaviour.most_in_flight <= 4
    ((seconds, queries),) = told
    assert queries > use.queries
    assert seconds > 0
    checks = {check.name: check.passed for check in card.sanity}
    assert checks["the endpoint answers at the end as at the start"]
    assert "was asked over its interface alone" in card.limits[0]
    assert card.training is None


def test_scores_labels_and_functions_give_the_same_clean_accuracy(coloured, out, monkeypatch):
    cards = {}
    for name, answer, options in (
        ("probabilities", probabilities, None),
        ("labels", lambda pixels: scores(pixels).argmax(axis=1), None),
        ("labels", scores, EndpointOptions(labels_only=True)),
    ):
        with v2_server(Behaviour(scores=answer)) as address:
            card = evaluate(address, coloured, endpoint=options, out=out / f"{len(cards)}", **FEW)
        assert card.endpoint.scores == name
        cards[len(cards)] = card
    by_function = evaluate(f"{__name__}:scores", coloured, size=(32, 32), out=out / "function", **FEW)
    assert by_function.endpoint.protocol == "callable"
    assert {card.clean.correct for card in (*cards.values(), by_function)} == {8}
    attacks = [card.attacks[0].attack for card in (*cards.values(), by_function)]
    assert attacks == ["Square-40", "RayS-40", "RayS-40", "Square-40"]
    assert cards[1].worst == cards[2].worst
    assert all(check.passed for card in cards.values() for check in card.sanity)


def test_an_interrupted_evaluation_resumes_and_counts_all_its_queries(behaviour, coloured, out):
    options = {**FEW, "images": 32}
    with v2_server(Behaviour(scores=scores)) as address:
        whole = evaluate(address, coloured, out=out / "whole", **options)
    behaviour.scores = lambda pixels: scores(pixels) if behaviour.images < 800 else None
    with v2_server(behaviour) as address:
        with pytest.raises(
            ConfigError, match=r"cannot connect .* is the service running\?, 6 times in a row; finished"
        ):
            _quickly(lambda: evaluate(address, coloured, out=out / "part", **options))
        spent = json.loads((out / "part" / "endpoint.json").read_text())["queries"]
        assert spent > 400
        kept = {path.name: path.read_bytes() for path in (out / "part" / "batches").glob("*.npz")}
        assert len(kept) == 1
        behaviour.scores = scores
        card = evaluate(address, coloured, out=out / "part", **options)
        assert card.worst == whole.worst
        assert card.endpoint.queries > spent
        for name, data in kept.items():
            assert (out / "part" / "batches" / name).read_bytes() == data
        behaviour.scores = lambda pixels: -scores(pixels)
        with pytest.raises(ConfigError, match="answers differently from when this evaluation began: another model"):
            evaluate(address, coloured, out=out / "part", **options)


def _quickly(run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("abnn_serve.evaluation.endpoints.connection._FIRST_WAIT", 0.001)
        return run()


def _refused(message, subject, data, out, options=None, **more):
    with pytest.raises(ConfigError, match=message):
        _quickly(lambda: evaluate(subject, data, endpoint=options, out=out, **{**FEW, **more}))


def test_an_endpoint_that_is_down_slow_or_elsewhere_is_one_line(behaviour, coloured, out):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{free.getsockname()[1]}/v2/models/tiny"
    _refused(r"/v2/models/tiny: cannot connect \(.*\); is the service running\?", down, coloured, out)
    behaviour.redirect = "https://elsewhere.example/v2/models/tiny"
    with v2_server(behaviour) as address:
        _refused("redirects to https://elsewhere.example/v2/models/tiny; give that address", address, coloured, out)
        behaviour.redirect, behaviour.delay = None, 1.0
        slow = EndpointOptions(timeout=0.1)
        _refused(r"no answer within 0.1 s; is it slow\? raise --timeout, 6 times", address, coloured, out, slow)
        _refused(
            r"is not a model of the Open Inference Protocol, expected http://HOST/v2/models/NAME",
            down[:-15],
            coloured,
            out,
        )
    behaviour.delay, behaviour.busy = 0.0, [(503, "4000")]
    with v2_server(behaviour) as address:
        _refused(r"answers 503 and asks to wait 4,000 s; finished batches are kept", address, coloured, out)


def test_an_endpoint_that_wants_a_key_gets_it_from_the_environment(behaviour, coloured, out, monkeypatch):
    behaviour.key = "secret-of-the-test"
    options = EndpointOptions(key_env="ENDPOINT_KEY")
    with v2_server(behaviour) as address:
        _refused(r"wants a key \(401\); put it into an environment variable and give --key-env", address, coloured, out)
        _refused("--key-env names ENDPOINT_KEY, which is not set", address, coloured, out, options)
        monkeypatch.setenv("ENDPOINT_KEY", "wrong")
        _refused(r"refuses the key \(401\)", address, coloured, out, options)
        monkeypatch.setenv("ENDPOINT_KEY", behaviour.key)
        evaluate(address, coloured, endpoint=options, out=out, **FEW)
    assert not any(b"secret-of-the-test" in path.read_bytes() for path in out.rglob("*") if path.is_file())


def test_other_classes_and_answers_that_change_are_one_line(behaviour, coloured, out):
    with v2_server(behaviour) as address:
        behaviour.scores = lambda pixels: scores(pixels)[:, :2]
        _refused("answers with 2 scores, but there are 3 class names; give --labels with 2", address, coloured, out)
        behaviour.scores = lambda pixels: scores(pixels).argmax(axis=1) + 2
        _refused("answers with class 4, but there are 3 class names", address, coloured, out)
        behaviour.scores = lambda pixels: np.roll(scores(pixels), 1, axis=1)
        _refused(r"\d% right on 32 clean images, as by chance: is --preprocess right", address, coloured, out)
        behaviour.scores = lambda pixels: np.full((len(pixels), 3), np.inf)
        _refused("answers with scores that are not finite", address, coloured, out / "new")
        random = np.random.default_rng(0)
        behaviour.scores = lambda pixels: scores(pixels) + random.normal(size=(len(pixels), 3))
        _refused("changes its answer: two answers to the same 8 images differ by .*--eot K", address, coloured, out)


def test_a_random_endpoint_is_asked_several_times(behaviour, coloured, out):
    random = np.random.default_rng(0)
    behaviour.scores = lambda pixels: scores(pixels) + random.normal(size=(len(pixels), 3)).astype(np.float32)
    with v2_server(behaviour) as address:
        card = evaluate(address, coloured, eot=5, out=out, **{**FEW, "queries": 5})
    assert card.endpoint.repeats == 5
    assert card.endpoint.queries == behaviour.images > 5 * 8 * 5
    assert "randomness is attacked through its expectation" in {check.name for check in card.sanity if check.passed}


def test_a_budget_that_is_too_small_says_what_fits_and_is_never_exceeded(behaviour, coloured, out):
    with v2_server(behaviour) as address:
        small = EndpointOptions(max_queries=400)
        message = r"8 images take up to \d+ queries, but --max-queries is 400: attack fewer images with -n 3, use fewer"
        _refused(message, address, coloured, out, small)
        assert behaviour.images < 100
        budget = 8 * 43 + 64 + 24 + 144
        kept = out / "kept"
        first = evaluate(address, coloured, endpoint=EndpointOptions(max_queries=budget), out=kept, **FEW)
        assert first.endpoint.queries <= budget
        _refused(
            f"the budget of {budget} queries is spent; finished batches are kept", address, coloured, kept,
            EndpointOptions(max_queries=budget), seed=1,
        )  # fmt: skip
        assert json.loads((kept / "endpoint.json").read_text())["queries"] <= budget


def test_another_machine_is_attacked_only_with_permission(coloured, out):
    _refused(
        "203.0.113.7 is not this machine: attack only services whose owner permits it, and say so with --authorized",
        "https://203.0.113.7/v2/models/tiny", coloured, out,
    )  # fmt: skip
    check_authorized("https://203.0.113.7/v2/models/tiny", EndpointOptions(authorized=True))
    for host in ("localhost", "127.0.0.1", "[::1]"):
        check_authorized(f"http://{host}:80/v2/models/tiny", EndpointOptions())


def test_inputs_of_every_form_are_found_in_the_metadata(coloured, out):
    for shape, datatype in (([-1, 32, 32, 3], "UINT8"), ([1, 3, 32, 32], "FP32"), ([-1, 3, -1, -1], "FP32")):
        port = {"name": "x", "datatype": datatype, "shape": shape}
        behaviour = Behaviour(scores=scores, input=port, is_described=datatype == "UINT8")
        with v2_server(behaviour) as address:
            size = (32, 32) if shape[2] == -1 else None
            model = open_endpoint(address, EndpointOptions(), folder=out / f"{shape}", attacked=True, size=size)
            _, data = model.prepare(load_data(coloured, model.input))
            np.testing.assert_allclose(model.logits(data.images), scores(data.images), atol=1e-3)
            model.close()
    other = replace(behaviour, extra_outputs=[{"name": "features", "datatype": "FP32", "shape": [-1, 64]}])
    with v2_server(other) as address:
        _refused(r"leaves its input size open, \(-1, 3, -1, -1\); give it", address, coloured, out, output="scores")
        _refused(r"has several outputs \(scores, features\); choose one with --output NAME", address, coloured, out)
    two = Behaviour(scores=scores, input={"name": "x", "datatype": "BYTES", "shape": [1]})
    with v2_server(two) as address:
        _refused("has the input x of BYTES, expected one of UINT8, FP32, FP64", address, coloured, out)


def broken(pixels):
    raise OSError("no route to the model")


def test_a_function_that_cannot_be_used_is_one_line(coloured, out):
    _refused("cannot import nosuch.module:f: No module named", "nosuch.module:f", coloured, out, size=(32, 32))
    _refused("does not say which images it takes; give their size with --size", f"{__name__}:scores", coloured, out)
    _refused("raised OSError: no route to the model", f"{__name__}:broken", coloured, out, size=(32, 32))
    _refused("attack 'square' needs scores, and the endpoint tells labels alone; choose rays", f"{__name__}:scores",
             coloured, out, EndpointOptions(labels_only=True), size=(32, 32), attacks=["square"])  # fmt: skip
    _refused("--jobs and --full share out computation, and an endpoint computes elsewhere", f"{__name__}:scores",
             coloured, out, size=(32, 32), jobs=2)  # fmt: skip


def test_options_of_endpoints_are_refused_elsewhere(standard_run, shapes, coloured, out):
    _refused(
        "is not an endpoint, so --adapter, .* have no effect", standard_run.path, shapes["val"], out, EndpointOptions()
    )
    address = "http://localhost/v2/models/x"
    message = "--run, --twin, --probe and --gradients are not for endpoints"
    _refused(message, address, coloured, out, twin=standard_run.path)
    for options, message in (
        ({"adapter": "rest"}, "--adapter is 'rest', expected v2 or classify"),
        ({"max_queries": 0}, "--max-queries is 0, expected more than 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            EndpointOptions(**options)


def test_the_command_prints_its_estimate_first_and_what_the_endpoint_answered(behaviour, coloured, tmp_path):
    with v2_server(behaviour) as address:
        arguments = ("evaluate", address, "--data", coloured, "-n", 4, "--queries", 5, "--out", tmp_path / "o")
        done = _abnn(*arguments, "--concurrency", 2)
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("up to 264 queries, which take up to ")
        assert "queries in " in done.stdout
        assert "requests (" in done.stdout
        assert (tmp_path / "o" / "command.txt").read_text().startswith("abnn evaluate http://127.0.0.1:")


def test_results_of_an_endpoint_go_into_a_folder_with_its_name():
    assert output_folder("https://host:8000/v2/models/my-model") == Path("host-8000-v2-models-my-model-evaluation")
    assert output_folder("my.module:function") == Path("my.module-function-evaluation")
