"""The thread that creates, captures, runs and frees one session on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from abnn_serve.runtime.engine import GPU_LOCK

T = TypeVar("T")


class GpuThread:
    """A thread for one session, as ONNX Runtime keeps CUDA graphs and handles of cuBLAS and cuDNN per thread.

    A run from another thread would capture every graph again (microsoft/onnxruntime pull request 9978).
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "gpu")

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call `function` in this thread and wait. The caller must not hold GPU_LOCK, which `function` takes."""
        return self._executor.submit(function, *arguments).result()

    def close(self, contents: list[Any]) -> None:
        """Free `contents`, which must hold the only references, in this thread, then end it. Does not wait."""
        try:
            self._executor.submit(_free, contents)
        except RuntimeError:  # at exit the interpreter has already ended the thread
            _free(contents)
        self._executor.shutdown(wait=False)


def _free(contents: list[Any]) -> None:
    with GPU_LOCK:  # freeing calls CUDA, too
        contents.clear()
