"""The stub of the CUDA libraries, and graphs to open over it."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from tests.cuda_stub.build import build, missing_tools
from tests.cuda_stub.process import Stub


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Stub:
    """Skips if the stub cannot be built."""
    if missing := missing_tools():
        pytest.skip(f"the stub of the CUDA libraries needs {' and '.join(missing)}")
    provider = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if not provider.is_file():
        pytest.skip("this ONNX Runtime was built without CUDA")
    return Stub(build(provider, tmp_path_factory.mktemp("stub")))
