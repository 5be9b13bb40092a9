from __future__ import annotations

from shutil import copytree

import numpy as np
import pytest

from abnn_serve import evaluate
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.endpoints.options import EndpointOptions
from abnn_serve.evaluation.reports.source import read_card
from tests.service.server import serving

FEW = {"images": 8, "queries": 20, "eps": 32 / 255}


@pytest.mark.slow
def test_our_service_gives_over_http_what_its_bundle_gives(bundle, shapes, tmp_path):
    with serving(bundle.path, tmp_path / "log") as client:
        root = str(client.base_url)
        tensors = evaluate(f"{root}/v2/models/shapes", shapes["val"], out=tmp_path / "v2", **FEW)
        pictures = evaluate(
            f"{root}/classify",
            shapes["val"],
            endpoint=EndpointOptions(adapter="classify", labels_only=True),
            out=tmp_path / "classify",
            **FEW,
        )
        with pytest.raises(ConfigError, match=r"/v2/models/other answers 404: .*unknown model 'other'"):
            evaluate(f"{root}/v2/models/other", shapes["val"], out=tmp_path / "other", **FEW)
    assert (tensors.endpoint.protocol, tensors.endpoint.scores) == ("v2", "logits")
    assert (pictures.endpoint.protocol, pictures.endpoint.scores) == ("classify", "labels")
    assert set(tensors.endpoint.answers) == set(pictures.endpoint.answers) == {"200"}
    attacks = [(row.threat_model, row.attack) for row in (*tensors.attacks, *pictures.attacks)]
    assert attacks == [("blackbox", "Square-20"), ("blackbox", "RayS-20")]
    assert tensors.clean == pictures.clean
    copy = copytree(bundle.path, tmp_path / "shapes")
    options = {**FEW, "threats": ["blackbox"], "out": tmp_path / "bundle"}
    assert evaluate(copy, shapes["val"], **options).worst == tensors.worst
    flags = [read_card(tmp_path / name).flags()[1]["blackbox"] for name in ("bundle", "v2")]
    np.testing.assert_array_equal(*flags)
