"""The one thread in which a session on a GPU is opened, captured, run and freed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from abnn_serve.runtime.engine import GPU_TURN

T = TypeVar("T")


class GpuThread:
    """A thread for one session: ONNX Runtime keeps CUDA graphs, cuBLAS and cuDNN handles per thread.

    A run from another thread would capture every graph again (microsoft/onnxruntime pull request 9978).
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "gpu")

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """What `function` returns or raises in this thread. The caller must not hold GPU_TURN: `function` takes it."""
        return self._executor.submit(function, *arguments).result()

    def close(self, contents: list[Any]) -> None:
        """Free `contents`, which must hold the only references, in this thread, and end it; does not wait."""
        try:
            self._executor.submit(_free, contents)
        except RuntimeError:  # the interpreter is shutting down and has ended the thread
            _free(contents)
        self._executor.shutdown(wait=False)


def _free(contents: list[Any]) -> None:
    with GPU_TURN:  # freeing is a CUDA call too
        contents.clear()
