"""Replies of a decoding process, checked: it may have been taken over by the file that it decoded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from abnn_serve import errors
from abnn_serve.errors import InputError, TooCostlyError, UnreadableInputError
from abnn_serve.media.isolation.budget import Budget
from abnn_serve.media.isolation.messages import read_array
from abnn_serve.media.isolation.process import Cause, ProcessDiedError
from abnn_serve.media.video import VideoClips
from abnn_serve.spec import InputSpec

_MAX_MESSAGE = 1000  # characters


def read_image(reply: dict[str, Any], memory: int, spec: InputSpec) -> NDArray[np.uint8]:
    """The pixels of an image.

    Raises:
        InputError: the process rejected the image.
        ProcessDiedError: the reply makes no sense, so the process must not be used again.
    """
    _check(reply)
    return _read(memory, spec.shape, np.uint8, 0)


def read_video(reply: dict[str, Any], memory: int, spec: InputSpec) -> VideoClips:
    """The clips of a video; errors as `read_image`."""
    _check(reply)
    sampling = spec.sampling
    clips, counts = reply.get("clips"), [reply.get(name) for name in ("expected", "found", "decoded", "lost")]
    seconds = reply.get("seconds")
    if (
        sampling is None
        or type(clips) is not int
        or not 1 <= clips <= sampling.clips * sampling.crops
        or any(type(count) is not int for count in counts)
        or type(seconds) is not float
    ):
        raise ProcessDiedError("protocol")
    pixels = _read(memory, (clips, *spec.shape), np.uint8, 0)
    frames = _read(memory, (clips, sampling.frames), np.int64, pixels.nbytes)
    times = _read(memory, (clips, sampling.frames), np.float64, pixels.nbytes + frames.nbytes)
    expected, found, decoded, lost = map(int, counts)  # type: ignore[arg-type]
    return VideoClips(
        pixels=pixels,
        frames=frames,
        times=times,
        seconds=seconds,
        expected=expected,
        found=found,
        decoded=decoded,
        lost=lost,
    )


def death_error(cause: Cause, what: str, budget: Budget) -> InputError:
    """What the sender of an `image` or `video` gets whose decoding ended its process."""
    if cause == "time":
        seconds = min(budget.cpu_seconds, budget.seconds)
        return TooCostlyError(
            f"decoding the {what} takes more than {seconds:.1f} s, which is the limit for its size; shrink it, or save "
            "it again"
        )
    if cause in ("memory", "killed"):
        return TooCostlyError(
            f"decoding the {what} takes more than {budget.memory_bytes // 1_000_000:,} MB, which is the limit for its "
            "size; shrink it, or save it again"
        )
    return UnreadableInputError(f"the {what} is damaged: its decoder crashed; save it again")


def _check(reply: dict[str, Any]) -> None:
    if "clips" in reply:
        return
    message = reply.get("message")
    kind = getattr(errors, str(reply.get("error")), None)
    if not isinstance(message, str) or not (isinstance(kind, type) and issubclass(kind, InputError)):
        raise ProcessDiedError("protocol")
    raise kind(message[:_MAX_MESSAGE])


def _read(memory: int, shape: tuple[int, ...], dtype: Any, offset: int) -> NDArray[Any]:
    array = read_array(memory, shape, dtype, offset)
    if array is None:
        raise ProcessDiedError("protocol")
    return array
