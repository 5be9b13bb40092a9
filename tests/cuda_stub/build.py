"""Compile replacements of the CUDA libraries that the installed ONNX Runtime's CUDA provider loads."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
TOOLS = ("gcc", "nm", "readelf")
_SPECIAL = {  # functions whose results ONNX Runtime reads
    "cublasGetMathMode": "int {0}(void *handle, int *mode) {{ *mode = 0; return 0; }}",
    "cublasLtMatmulAlgoGetHeuristic": (
        "int {0}(void *a, void *b, void *c, void *d, void *e, void *f, void *g, int n, void *r, int *count) "
        "{{ *count = 1; return 0; }}"
    ),
}
_DRIVER = """
#include <stdlib.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) {
    const char *set = getenv("STUB_DEVICES");
    *count = set ? atoi(set) : 1;
    return 0;
}
int cuDriverGetVersion(int *version) {
    const char *set = getenv("STUB_DRIVER");
    *version = set ? atoi(set) : 13000;
    return 0;
}
int cuTensorMapEncodeTiled(void) { return 0; }
"""


def missing_tools() -> list[str]:
    """Programs of TOOLS that are not installed."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def build(provider: Path, out: Path) -> Path:
    """Compile the libraries of `provider`, libonnxruntime_providers_cuda.so, into `out`.

    A process that starts with `out` as LD_LIBRARY_PATH sees one CUDA device.
    """
    out.mkdir(parents=True, exist_ok=True)
    symbols: dict[str, set[str]] = {}
    for symbol, library in re.findall(r" U (\w+)@(lib(?:cu|nv)\w+\.so\.\d+)", _output("nm", "-D", provider)):
        symbols.setdefault(library, set()).add(symbol)
    runtime = next(name for name in symbols if name.startswith("libcudart"))
    _compile(out, runtime, (HERE / "cudart.c").read_text(), symbols.pop(runtime))
    for library, names in symbols.items():
        _compile(out, library, "", names, runtime)
    # cuDNN is not linked: ONNX Runtime looks its functions up by name
    names = set(re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", provider.read_bytes()))
    cudnn = {name.decode() for name in names} | symbols.get("libcudnn.so.9", set())
    _compile(out, "libcudnn.so.9", (HERE / "cudnn.c").read_text(), cudnn, runtime)
    _compile(out, "libcuda.so.1", _DRIVER, set())  # old providers do not link it
    for library in re.findall(r"NEEDED.*\[(libcu\w+\.so\.\d+)\]", _output("readelf", "-d", provider)):
        if not (out / library).exists():
            _compile(out, library, "", set())
    return out


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _compile(out: Path, library: str, source: str, symbols: set[str], runtime: str = "") -> None:
    """Write a library with `source` and, for each symbol that it does not define, a function that succeeds."""
    defined = {symbol for symbol in symbols if re.search(rf"\b{symbol}\(", source)}
    lines = [source, "#include <stdlib.h>", "int stub_note(const char *);", *map(_function, sorted(symbols - defined))]
    versions = out / f"{library}.map"
    versions.write_text(f"{library} {{ global: *; }};\n")
    command = ["gcc", "-O1", "-w", "-fPIC", "-shared", "-x", "c", "-", "-x", "none", "-o", out / library, "-lpthread"]
    command += [f"-Wl,-soname,{library}", f"-Wl,--version-script={versions}", f"-L{out}"]
    command += [f"-l:{runtime}"] if runtime else []
    subprocess.run(command, input="\n".join(lines), text=True, check=True)


def _function(symbol: str) -> str:
    if symbol in _SPECIAL:
        return _SPECIAL[symbol].format(symbol)
    if re.search(r"(GetStatusName|GetStatusString|GetErrorString)$", symbol):
        return f'const char *{symbol}(int error) {{ return "error of the stub"; }}'
    if re.search(r"^(cublas|cublasLt|cudnn|curand|cufft)\w*Create", symbol):
        return f'int {symbol}(void **handle) {{ *handle = calloc(1, 4096); return stub_note("{symbol}"); }}'
    return f'long {symbol}() {{ return stub_note("{symbol}"); }}'
