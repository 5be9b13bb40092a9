"""The package as a whole: its public names, its layers, and what serving does not import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import abnn_serve

ROOT = Path(abnn_serve.__file__).parent

# A layer may import itself and what stands below it: runtime and lab stand side by side.
LAYERS = [
    "errors",
    "codec hardware",
    "spec",
    "media",
    "card",
    "bundle",
    "runtime lab",
    "lab.export",
    "service scoring",
    "cli",
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names.split()}


def _layer(module: str) -> str | None:
    parts = module.split(".")[1:]
    return "lab.export" if parts[:2] == ["lab", "export"] else parts[0] if parts else None


def _imports() -> list[tuple[str, str]]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(["abnn_serve", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        found += [(module, node.module) for node in nodes if (node.module or "").startswith("abnn_serve.")]
    return found


def test_imports_point_down_the_layers():
    wrong = []
    for importer, imported in _imports():
        here, there = _layer(importer), _layer(imported)
        if here is None or here == there:
            continue
        if RANK[there] >= RANK[here]:
            wrong.append(f"{importer} imports {imported}")
    assert len(_imports()) > 50
    assert wrong == []


def test_there_is_no_module_without_a_first_line_that_says_its_job():
    for path in ROOT.rglob("*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring, path
        assert docstring.splitlines()[0].endswith((".", ":", "`")) or ":" in docstring.splitlines()[0], path


def test_the_public_names_are_these():
    assert abnn_serve.__all__ == [
        "AbnnError",
        "InputSpec",
        "Prediction",
        "Predictor",
        "RobustnessCard",
        "SurgeryPlan",
        "build_network",
        "export_bundle",
        "load_bundle",
        "train",
    ]


@pytest.mark.parametrize("name", abnn_serve.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(abnn_serve, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = abnn_serve.nothing


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import abnn_serve", ["torch", "bentoml", "onnxruntime", "numpy"]),
        ("import abnn_serve.service", ["torch", "torchvision", "onnx"]),
        ("from abnn_serve.service import AbnnService", ["torch", "torchvision", "onnx"]),
        ("import abnn_serve.cli.main", ["torch", "bentoml", "onnx"]),
        ("import abnn_serve.runtime.predictor", ["torch", "bentoml", "onnx"]),
        ("import abnn_serve.scoring.run", ["torch", "bentoml", "onnx", "matplotlib", "ray", "pandas"]),
        ("import abnn_serve.scoring.decode", ["torch", "onnxruntime", "pyarrow"]),
    ],
)
def test_importing_loads_no_more_than_it_needs(code, absent):
    check = f"{code}; import sys; print([name for name in {absent} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.strip().splitlines()[-1] == "[]"
