"""The decoding process: `python -m abnn_serve.media.isolation.worker SOCKET MEMORY`, with two open file descriptors."""

from __future__ import annotations

import base64
import fcntl
import gc
import importlib
import io
import os
import pkgutil
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

import av
import numpy as np
import PIL
from PIL import Image

from abnn_serve.errors import InputError, UnreadableInputError, one_line
from abnn_serve.media.image import FORMATS, load_image, quiet_pillow
from abnn_serve.media.isolation.messages import KEPT_BYTES, Channel, Job, read_job, write_array
from abnn_serve.media.isolation.sandbox import Sandbox
from abnn_serve.media.limits import ImageLimits, VideoLimits
from abnn_serve.media.video import decode_video
from abnn_serve.spec import InputSpec, Sampling

OUT_OF_MEMORY = 71  # exit status

_CHANNEL, _MEMORY = 3, 4
_DISPLAYS = ("Tk", "_tkinter_finder", "Qt", "Show", "Grab")  # modules of Pillow
_SPEC = InputSpec(height=16, width=16)
_AVIF = base64.b64decode(  # a red square
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUIAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAAAAAAAAAOcGl0"
    "bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAAKgAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEAAGF2MDFDb2xvcgAAAABqaXBy"
    "cAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAACAAAAAgAAAAQcGl4aQAAAAADCAgIAAAADGF2MUOBAAwAAAAAE2NvbHJuY2x4AAEADQAGgAAAABdpcG1h"
    "AAAAAAAAAAEAAQQBAoMEAAAAMm1kYXQSAAoIGAi/aICGg0IyHBTHh4ZlAgggnlAAAABIWtlc1jIgMQsbXgqRN4A="
)
_CLIP_SPEC = InputSpec(height=16, width=16, sampling=Sampling(frames=2))


def main() -> None:
    """Decode until the other end of the socket closes."""
    channel = _take_descriptors(*map(int, sys.argv[1:3]))
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to whole process groups; the service ends this process itself
        signal.signal(number, signal.SIG_IGN)
    quiet_pillow()
    _load_everything()
    gc.collect()
    gc.freeze()  # or full collections would visit the objects of all imported modules again and again
    sandbox = Sandbox(_MEMORY + 1)
    with suppress(OSError):
        channel.send({"mechanisms": sandbox.mechanisms})
        while (task := channel.receive()) is not None:
            sandbox.limit_task(task["memory"], task["cpu"])
            channel.send(_run(task, channel))


def _take_descriptors(connection: int, memory: int) -> Channel:
    """Move the descriptors to their places beside standard input, output and error, and close all others."""
    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _MEMORY + 1) for descriptor in (connection, memory)]
    for copy, place in zip(copies, (_CHANNEL, _MEMORY), strict=True):
        os.dup2(copy, place)
    os.closerange(_MEMORY + 1, max(*copies, connection, memory) + 1)
    return Channel(socket.socket(fileno=_CHANNEL))


def _load_everything() -> None:
    """Import what Pillow and PyAV import on demand, and decode something of every kind, sound and damaged.

    Nothing can be imported in the sandbox.
    """
    Image.init()
    for package, left_out in ((PIL, _DISPLAYS), (av, ())):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith((*left_out, "__main__")):
                with suppress(ImportError):
                    importlib.import_module(module.name)
    image = Image.new("RGB", (8, 8))
    for kind in FORMATS:
        out = io.BytesIO(_AVIF if kind == "AVIF" else b"")
        if kind != "AVIF":  # an AV1 encoder would start threads
            image.save(out, kind)
        for data in (out.getvalue(), out.getvalue()[:-8], out.getvalue()[:20]):
            with suppress(InputError):
                load_image(data, _SPEC, ImageLimits())
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        for packet in (*stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))), *stream.encode()):
            file.mux(packet)
    for data in (out.getvalue(), out.getvalue()[:-40]):
        with suppress(InputError):
            decode_video(data, _CLIP_SPEC, VideoLimits())


def _run(task: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Decode one file from the shared memory into it; the reply."""
    data = os.pread(_MEMORY, task["size"], 0)
    if len(data) > KEPT_BYTES:
        os.ftruncate(_MEMORY, KEPT_BYTES)
    try:
        job = read_job(task["job"])
        return _decode_video(data, job, channel) if job.spec.sampling else _decode_image(data, job)
    except InputError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        os._exit(OUT_OF_MEMORY)  # what is left of the task may hold more memory than the next may take
    except Exception as error:
        message = f"the file cannot be decoded: {type(error).__name__}: {one_line(error)}"
        return {"error": UnreadableInputError.__name__, "message": message}


def _decode_image(data: bytes, job: Job) -> dict[str, Any]:
    write_array(_MEMORY, load_image(data, job.spec, job.limits, is_checked=True), 0)
    return {"clips": 1}


def _decode_video(data: bytes, job: Job, channel: Channel) -> dict[str, Any]:
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    clips = decode_video(data, job.spec, job.video_limits, is_cancelled=lambda: bool(poll.poll(0)))
    offset = 0
    for array in (clips.pixels, clips.frames, clips.times):
        offset = write_array(_MEMORY, array, offset)
    counts = {name: getattr(clips, name) for name in ("seconds", "expected", "found", "decoded", "lost")}
    return {"clips": len(clips.pixels), **counts}


if __name__ == "__main__":
    main()
