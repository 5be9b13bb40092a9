"""The package as a whole: its public names, its layers, and what serving does not import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import abnn_serve

ROOT = Path(abnn_serve.__file__).parent

# Bottom up; a layer imports itself and the layers below it. Names on one line stand side by side.
LAYERS = [
    "errors version files hardware arrays significance",
    "codec",
    "spec answer",
    "media card",
    "bundle",
    "runtime lab",
    "export evaluation scoring service doctor",
    "cli",
]
LAB_LAYERS = ["device abnn networks data", "attacks", "training"]


def _imports() -> list[tuple[str, str]]:
    """Pairs of module and imported module, both as dotted names below the package; the package itself is ''."""
    pairs = []
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} has a relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            pairs += [(module, name[len("abnn_serve") :].strip(".")) for name in names if _is_ours(name)]
    return pairs


def _is_ours(name: str) -> bool:
    return name == "abnn_serve" or name.startswith("abnn_serve.")


def _upward(imports: list[tuple[str, str]], layers: list[str]) -> list[str]:
    """The imports that do not point down; what imports or is imported is in none of `layers` where it is no module."""
    rank = {name: row for row, names in enumerate(layers) for name in names.split()}
    wrong = []
    for importer, imported in imports:
        here, there = importer.split(".")[0], imported.split(".")[0]
        if here and here != there and (there not in rank or rank[there] >= rank[here]):
            wrong.append(f"{importer} imports {imported or 'abnn_serve'}")
    return wrong


def test_imports_point_down_the_layers():
    assert len(_imports()) > 400
    assert _upward(_imports(), LAYERS) == []


def test_imports_inside_lab_point_down_its_layers():
    inside = [(a[4:], b[4:]) for a, b in _imports() if a.startswith("lab.") and b.startswith("lab.")]
    assert len(inside) > 50
    assert _upward(inside, LAB_LAYERS) == []


def test_every_module_stands_in_a_layer():
    named = {name for names in LAYERS for name in names.split()}
    found = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert found - {"__init__"} == named


@pytest.mark.parametrize(
    "imported", ["", "__version__", "service.app"], ids=["import abnn_serve", "from abnn_serve import", "upwards"]
)
def test_an_import_that_points_up_is_seen(imported):
    assert _upward([("runtime.session", imported)], LAYERS)


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
        "evaluate",
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
        ("import abnn_serve.scoring.score", ["torch", "bentoml", "onnx", "matplotlib", "ray", "pandas"]),
        ("import abnn_serve.scoring.decode", ["torch", "onnxruntime", "pyarrow"]),
    ],
)
def test_importing_loads_no_more_than_it_needs(code, absent):
    check = f"{code}; import sys; print([name for name in {absent} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.strip().splitlines()[-1] == "[]"
