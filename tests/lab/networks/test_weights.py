from __future__ import annotations

import re
from urllib.error import URLError

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from abnn_serve.errors import NetworkError
from abnn_serve.lab.networks.weights import read_state
from abnn_serve.lab.networks.zoo import build_network


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise URLError("network is unreachable")

    def not_cached(*args, **kwargs):
        raise LocalEntryNotFoundError("cannot find the file in the cache\nand the hub is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", not_cached)


@pytest.mark.parametrize(
    ("name", "file", "reason"),
    [
        ("resnet18@DEFAULT", "resnet18-f37072fd.pth", "<urlopen error network is unreachable>"),
        ("torchvision:r3d_18@KINETICS400_V1", "r3d_18-b3b3357e.pth", "<urlopen error network is unreachable>"),
        ("timm:resnet18@pretrained", "model.safetensors", "cannot find the file in the cache"),
    ],
)
def test_a_failed_download_names_the_network_the_file_and_the_path_form(offline, name, file, reason):
    network = name.partition("@")[0]
    message = rf"{name}: cannot download .*/{file} \({reason}\); .* give the file by path: {network}@/path/to/{file}$"
    with pytest.raises(NetworkError, match=message):
        build_network(name, 10)


@pytest.mark.parametrize("name", ["resnet18", "torchvision:resnet18", "timm:test_resnet"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_given_by_path_needs_no_download(offline, name, suffix, tmp_path):
    saved, path = build_network(name, 10).state_dict(), tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(saved, path)
    else:
        save_file(saved, path)
    loaded = build_network(f"{name}@{path}", 10).state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in loaded.items())


def test_a_file_without_a_state_dict_is_refused(tmp_path):
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(NetworkError, match=r"text\.pth cannot be read as weights \("):
        read_state(tmp_path / "text.pth")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(NetworkError, match=r"text\.safetensors cannot be read as weights \("):
        read_state(tmp_path / "text.safetensors")
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(NetworkError, match=re.escape("checkpoint.pth does not hold a state dict, expected tensors")):
        read_state(tmp_path / "checkpoint.pth")


def test_a_timm_network_without_published_weights_is_refused(monkeypatch):
    monkeypatch.setattr("timm.models.get_pretrained_cfg", lambda name: None)
    with pytest.raises(NetworkError, match="timm:test_resnet@pretrained: timm has no weights for this network"):
        build_network("timm:test_resnet@pretrained", 10)
