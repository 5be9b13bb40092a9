"""What is fuzzed: functions of bytes, the inputs to start from, and the only errors that they may raise."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from abnn_serve.errors import AbnnError
from tests.fuzz import files, media, requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One parser.

    Attributes:
        run: reads the bytes; raises nothing but `AbnnError`.
        make_seeds: returns valid inputs, and the hostile ones that were found.
        tokens: byte strings that mean something to it.
    """

    run: Callable[[bytes], object]
    make_seeds: Callable[[], Sequence[bytes]]
    tokens: tuple[bytes, ...] = ()

    def __call__(self, data: bytes) -> None:
        """Read an input; a refusal is what a hostile one should get."""
        with contextlib.suppress(AbnnError):
            self.run(data)


TARGETS = {
    "json": Target(run=requests.read_json, make_seeds=requests.json_seeds, tokens=requests.JSON_TOKENS),
    "multipart": Target(run=requests.read_form, make_seeds=requests.form_seeds, tokens=requests.FORM_TOKENS),
    "head": Target(run=requests.read_connection, make_seeds=requests.head_seeds, tokens=requests.HEAD_TOKENS),
    "image-header": Target(run=media.read_header, make_seeds=media.image_seeds, tokens=media.IMAGE_TOKENS),
    "image": Target(run=media.read_image, make_seeds=media.image_seeds, tokens=media.IMAGE_TOKENS),
    "mp4-header": Target(run=media.read_mp4, make_seeds=media.mp4_seeds, tokens=media.MP4_TOKENS),
    "video": Target(run=media.read_video, make_seeds=media.video_seeds, tokens=media.MP4_TOKENS),
    "graph": Target(run=files.read_graph, make_seeds=files.graph_seeds),
    "golden": Target(run=files.read_golden, make_seeds=files.golden_seeds),
    "manifest": Target(run=files.read_manifest, make_seeds=files.manifest_seeds, tokens=requests.JSON_TOKENS),
    "parquet": Target(run=files.read_parquet, make_seeds=files.parquet_seeds),
    "tar": Target(run=files.read_tar, make_seeds=files.tar_seeds),
    "list": Target(run=files.read_list, make_seeds=files.list_seeds, tokens=files.LIST_TOKENS),
}


@functools.cache
def seeds_of(name: str) -> Sequence[bytes]:
    """The seeds of a target, made once."""
    return TARGETS[name].make_seeds()
