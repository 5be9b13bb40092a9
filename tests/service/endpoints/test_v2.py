"""The Open Inference Protocol with Triton's own client, against a real server."""

from __future__ import annotations

import gc

import httpx
import numpy as np
import pytest

triton = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
from tritonclient.utils import InferenceServerException  # noqa: E402

from abnn_serve.runtime.predictor import Predictor  # noqa: E402


@pytest.fixture(scope="module")
def remote(server):
    url = server.client.base_url
    with triton.InferenceServerClient(f"{url.host}:{url.port}") as remote:
        yield remote


@pytest.fixture
def key(server):
    """Headers for one request: the client writes its own into what it is given."""
    return {"authorization": server.client.headers["authorization"]}


def _input(pixels, *, binary, name="image"):
    tensor = triton.InferInput(name, list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    return tensor


def test_health_and_metadata_are_what_the_client_expects(remote, key):
    assert remote.is_server_live()
    assert remote.is_server_ready()
    assert remote.is_model_ready("shapes", headers=key)
    assert not remote.is_model_ready("nix", headers=key)
    assert remote.get_server_metadata(headers=key)["extensions"] == ["binary_tensor_data"]
    shown = remote.get_model_metadata("other", headers=key)
    assert shown["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}]
    assert shown["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}]


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("asked", [True, False, None])
def test_tensors_give_the_predictors_logits_in_every_form(remote, key, predictor, sent, asked):
    pixels = np.random.default_rng(2).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    outputs = None if asked is None else [triton.InferRequestedOutput("logits", binary_data=asked)]
    result = remote.infer("shapes", [_input(pixels, binary=sent)], outputs=outputs, request_id="77", headers=key)
    np.testing.assert_allclose(result.as_numpy("logits"), predictor.session.run(pixels), atol=1e-5)
    assert result.get_response()["id"] == "77"


def test_clips_are_a_tensor_named_video(remote, key, video_bundle):
    shape = list(video_bundle.manifest.input.shape)
    shown = remote.get_model_metadata("clips", headers=dict(key))
    assert shown["inputs"] == [{"name": "video", "datatype": "UINT8", "shape": [-1, *shape]}]
    pixels = np.random.default_rng(2).integers(0, 256, (2, *shape), dtype=np.uint8)
    result = remote.infer("clips", [_input(pixels, binary=True, name="video")], headers=dict(key))
    expected = Predictor.open(video_bundle.path, device="cpu", threads=1).session.run(pixels)
    np.testing.assert_allclose(result.as_numpy("logits"), expected, atol=1e-5)


def test_a_refusal_is_the_clients_own_exception_with_our_message(remote, key):
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(InferenceServerException, match=r"expected UINT8 \[n, 32, 32, 3\]") as refused:
        remote.infer("shapes", [_input(pixels, binary=True)], headers=dict(key))
    assert refused.value.status() == "422"
    with pytest.raises(InferenceServerException, match="no version '9'"):
        remote.infer("shapes", [_input(pixels, binary=True)], model_version="9", headers=dict(key))
    with pytest.raises(InferenceServerException, match="missing API key"):
        remote.infer("shapes", [_input(pixels, binary=True)])


def test_errors_under_v2_carry_the_same_facts_beside_the_message(client):
    shown = client.get("/v2/models/nix").json()
    assert (shown["error"], shown["code"]) == (shown["message"], "unknown_model")
    assert client.get("/v2/nothing").json()["code"] == "not_found"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of what BentoML uses
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_bentomls_own_client_classifies(server, tmp_path, predictor):
    import bentoml

    from tests.service.test_service import PICTURE

    (tmp_path / "x.png").write_bytes(PICTURE)
    expected = server.client.post("/classify?top_k=2", files={"image": PICTURE}).json()
    key = server.client.headers["authorization"].removeprefix("Bearer ")
    with bentoml.SyncHTTPClient(str(server.client.base_url), token=key) as bento:
        assert bento.classify(image=tmp_path / "x.png", top_k=2) == expected
        assert len(bento.classify_batch(images=[tmp_path / "x.png"] * 3)["outcomes"]) == 3
    del bento
    gc.collect()  # its folder is removed, with a warning, by its finalizer


def test_compressed_requests_are_415(client):
    response = client.post("/v2/models/shapes/infer", content=b"x", headers={"content-encoding": "gzip"})
    assert (response.status_code, response.json()["code"]) == (
        httpx.codes.UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
    )
