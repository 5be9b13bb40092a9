"""Which ONNX classifiers of others can be attacked through their gradients, and do the figures agree with torch's?

pip install scikit-learn skl2onnx keras        # for the rows of scikit-learn and Keras
python -m benchmarks.foreign --data cifar10-test.parquet --train 'cifar10-train-*.parquet' --run runs/abnn
python -m benchmarks.foreign --data ... --only resnet18 convnext --out benchmarks/results/foreign-cpu

Networks of torchvision and timm have random weights, at 224 px, and are exported by torch's exporter and by its older
one. Of each file: the operators, the largest difference of a logit from ONNX Runtime relative to the largest logit,
seconds to convert, milliseconds of a query and of a gradient for one image on one thread, and how many of eight images
PGD-10 at 8/255 gives another class in ONNX Runtime. Of files with trained weights also clean and robust accuracy under
PGD-20 at 8/255. Prints a table in Markdown. Rows that the file of --out already has are kept.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from abnn_serve import evaluate
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.foreign.classifier import OnnxClassifier, open_classifier
from abnn_serve.evaluation.foreign.differentiable import operators
from abnn_serve.evaluation.foreign.preprocess import read_preprocess
from abnn_serve.evaluation.foreign.to_torch import to_torch
from abnn_serve.evaluation.served import to_uint8
from abnn_serve.evaluation.threats import Subject
from abnn_serve.lab.attacks.base import cross_entropy
from abnn_serve.lab.attacks.pgd import PGD
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.load import load_data
from abnn_serve.lab.training.batches import to_input
from abnn_serve.spec import InputSpec
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.report import Bar, write_record

EPS = 8 / 255
MODELS = Path(__file__).parents[1] / "models"
_FEW = 8
_PARITY = 1e-4  # relative to the largest logit, of files that do not round

Row = dict[str, Any]


def _torchvision(name: str) -> nn.Module:
    import torchvision

    network: nn.Module = torchvision.models.get_model(name, weights=None)
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():  # a head that starts at zero answers nothing
            nn.init.normal_(module.weight, std=0.02)
    return network


def _timm(name: str) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name, pretrained=False)
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: _torchvision("resnet18"),
    "mobilenet_v3_small": lambda: _torchvision("mobilenet_v3_small"),
    "vit_b_16": lambda: _torchvision("vit_b_16"),
    "convnext_atto": lambda: _timm("convnext_atto"),
}
FILES = (*(f"{name} {exporter}" for name in NETWORKS for exporter in ("dynamo", "older")), "resnet18 int8 QDQ")


def main() -> list[Bar]:
    """Measure every file, print and write the results."""
    parser = new_parser("foreign", __doc__)
    parser.add_argument("--data", required=True, help="labelled test images of CIFAR-10")
    parser.add_argument("--train", help="training images, for the rows of scikit-learn and Keras")
    parser.add_argument("--run", type=Path, help="the run of the default bundle, for its figures in torch")
    parser.add_argument("-n", type=int, default=100, help="images for the figures")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the rows' names")
    add_out_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = _kept(options.out)
    with tempfile.TemporaryDirectory() as folder:
        for name in (*FILES, *TRAINED, "default bundle", "default bundle int8", "default bundle, run"):
            if any(part in name for part in options.only) and name not in [row["file"] for row in rows]:
                rows += _measure(name, Path(folder), options)
                if options.out:
                    write_record(options.out, {"images": options.n}, bars_of(rows), rows=rows)
    print(table(rows))
    return bars_of(rows)


def _kept(out: Path | None) -> list[Row]:
    file = out.with_suffix(".json") if out else None
    return json.loads(file.read_text())["rows"] if file and file.is_file() else []


def bars_of(rows: list[Row]) -> list[Bar]:
    """Parity of each file that does not round, and the default bundle's file beside its run."""
    bars = [
        Bar(name="difference from ONNX Runtime", setting=row["file"], value=row["parity"], limit=_PARITY)
        for row in rows
        if row.get("parity") is not None and "int8" not in row["file"]
    ]
    figures = {row["file"]: row["robust"] for row in rows if row.get("robust") is not None}
    if {"default bundle", "default bundle, run"} <= figures.keys():
        apart = abs(figures["default bundle"] - figures["default bundle, run"])
        bars.append(Bar(name="robust accuracy, file - run, in points", value=round(100 * apart, 6), limit=1.0))
    return bars


def _measure(name: str, folder: Path, options: Any) -> list[Row]:
    if name == "default bundle, run":
        return [{"file": name, **_figures(options.run, options)}] if options.run else []
    if name.startswith("default bundle"):
        path = MODELS / "cifar10-abnn-robust" / ("model.int8.onnx" if "int8" in name else "model.onnx")
        return [{"file": name, **_through(path, options.data), **_figures(path, options)}]
    if name in TRAINED:
        path = folder / f"{name.replace(' ', '-')}.onnx"
        train, images, how = TRAINED[name]
        train(load_data(options.train, InputSpec(height=32, width=32)).spread(images), path)
        return [{"file": name, **_through(path, options.data, **how), **_figures(path, options, **how)}]
    path = folder / f"{name.replace(' ', '-')}.onnx"
    torch.manual_seed(0)
    network, exporter = NETWORKS[name.split(maxsplit=1)[0]]().eval(), name.split()[1]
    started = time.perf_counter()
    if exporter == "int8":
        quantise(network, path, options.data)
    else:
        export(network, path, dynamo=exporter == "dynamo")
    return [
        {"file": name, "export_s": time.perf_counter() - started, **_through(path, options.data, preprocess="imagenet")}
    ]


def export(network: nn.Module, path: Path, *, dynamo: bool) -> None:
    """Write a network of 224 px images by torch's exporter, or by its older one, with an open batch."""
    x = torch.zeros(2, 3, 224, 224)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            batch = torch.export.Dim("batch")
            torch.onnx.export(network, (x,), str(path), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
        else:
            torch.onnx.export(
                network, (x,), str(path), dynamo=False, opset_version=17, input_names=["x"], output_names=["logits"],
                dynamic_axes={"x": {0: "batch"}, "logits": {0: "batch"}},
            )  # fmt: skip


def quantise(network: nn.Module, path: Path, data: str) -> None:
    """Write a network as int8 QDQ, with weights by channel, calibrated on eight images."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    plain = path.with_suffix(".fp32.onnx")
    export(network, plain, dynamo=False)
    pixels = load_data(f"{data}[:{_FEW}]", InputSpec(height=224, width=224)).images
    values = read_preprocess("imagenet").apply(pixels).transpose(0, 3, 1, 2)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter([{"x": np.ascontiguousarray(values)}])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self._batches, None)

    quantize_static(
        str(plain), str(path), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def train_mlp(data: ImageData, path: Path) -> None:
    """Train scikit-learn's multilayer perceptron on pixels in [0, 1], and write it by its own converter."""
    from skl2onnx import to_onnx  # type: ignore[import-not-found]
    from sklearn.neural_network import MLPClassifier  # type: ignore[import-not-found]

    x = (data.images.reshape(len(data), -1) / 255).astype(np.float32)
    model = MLPClassifier((128,), max_iter=20, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that 20 passes are few
        model.fit(x, data.labels)
    path.write_bytes(to_onnx(model, x[:1], options={"zipmap": False}, target_opset=17).SerializeToString())


def train_keras(data: ImageData, path: Path) -> None:
    """Train a small convolutional network in Keras on pixels from 0 to 255, and write it by Keras' own export."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras  # type: ignore[import-not-found]

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255)])
    for channels in (16, 32, 64):
        model.add(keras.layers.Conv2D(channels, 3, strides=2, padding="same", use_bias=False))
        model.add(keras.layers.BatchNormalization())
        model.add(keras.layers.Activation("relu"))
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(len(data.classes), activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(data.images.astype(np.float32), data.labels, batch_size=128, epochs=8, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.export(str(path), format="onnx", verbose=False)


# how a model is trained and written, on how many images, and how it is opened
TRAINED: dict[str, tuple[Callable[[ImageData, Path], None], int, dict[str, str]]] = {
    "scikit-learn MLP": (train_mlp, 5000, {"output": "probabilities"}),
    "Keras CNN": (train_keras, 20000, {"preprocess": "0-255"}),
}


def _through(path: Path, data: str, *, preprocess: str | None = None, output: str | None = None) -> Row:
    """Operators, parity and times of a file, and what PGD does to eight images."""
    settings = read_preprocess(preprocess or "none")
    classifier = open_classifier(path, settings, output=output)
    spec = InputSpec(height=classifier.signature.height, width=classifier.signature.width)
    pixels = load_data(f"{data}[:{_FEW}]", spec).images
    row: Row = {
        "megabytes": sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*")) / 1e6,
        "operators": len(operators(classifier.model)),
        "query_ms": _milliseconds(lambda: classifier.logits(pixels)) / len(pixels),
    }
    started = time.perf_counter()
    try:
        converted = to_torch(classifier, pixels)
    except ConfigError as error:
        return {**row, "refused": str(error)}
    row["convert_s"] = time.perf_counter() - started
    largest = 1.0 if classifier.signature.is_probability else float(np.abs(classifier.logits(pixels)).max())
    row |= {"parity": converted.error / largest, "rounds": converted.is_straight_through}
    return row | _attacked(classifier, converted, pixels)


def _attacked(classifier: OnnxClassifier, converted: Any, pixels: NDArray[np.uint8]) -> Row:
    subject = Subject(network=converted.network, straight_through=converted.is_straight_through)
    model = subject.differentiated
    assert model is not None  # noqa: S101
    labels = classifier.logits(pixels).argmax(axis=1)
    x, y = to_input(pixels), torch.from_numpy(labels)

    def gradient() -> None:
        x_adv = x.clone().requires_grad_()
        torch.autograd.grad(cross_entropy(y)(model(x_adv), torch.arange(len(x))).sum(), x_adv)

    x_adv = PGD(eps=EPS, steps=10)(model, x, y, early_stop=False)
    return {
        "gradient_ms": _milliseconds(gradient) / len(x),
        "changed": int((classifier.logits(to_uint8(x_adv)).argmax(axis=1) != labels).sum()),
    }


def _milliseconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        started = time.process_time()
        call()
        times.append(1000 * (time.process_time() - started))
    return min(times)


def _figures(path: Path, options: Any, **how: Any) -> Row:
    with tempfile.TemporaryDirectory() as out:
        card = evaluate(
            path, options.data, attacks=["pgd"], threats=["whitebox"], images=options.n, curve_images=0, out=out,
            device="cpu", **how,
        )  # fmt: skip
    assert card.clean is not None  # noqa: S101
    return {"clean": card.clean.value, "robust": card.worst["whitebox"].value, "images": options.n}


def table(rows: list[Row]) -> str:
    """The rows in Markdown, in the order of the files."""
    head = ("file", "operators", "difference", "convert, s", "query, ms", "gradient, ms", "changed", "clean", "PGD-20")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in sorted(rows, key=lambda row: str(row["file"])):
        cells = (
            row["file"],
            str(row.get("operators", "")),
            "refused" if "refused" in row else _cell(row, "parity", ".0e"),
            _cell(row, "convert_s", ".1f"),
            _cell(row, "query_ms", ".1f"),
            _cell(row, "gradient_ms", ".1f"),
            _cell(row, "changed", "d", f" of {_FEW}"),
            _cell(row, "clean", ".1%"),
            _cell(row, "robust", ".1%"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Row, key: str, form: str, unit: str = "") -> str:
    return f"{row[key]:{form}}{unit}" if row.get(key) is not None else ""


if __name__ == "__main__":
    run("foreign", main)
