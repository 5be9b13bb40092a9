"""Golden vectors: a few inputs and the logits that they must give, in golden.npz."""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import BundleIntegrityError, one_line

_MAX_ENTRIES = 64  # in the directory of the archive; two are expected
_ENTRY = b"PK\x01\x02"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_REMEDY = "download or export the bundle again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Golden vectors: inputs, uint8 (n, H, W, 3) or (n, T, H, W, 3), and their logits, float32 (n, classes)."""

    inputs: NDArray[np.uint8]
    logits: NDArray[np.float32]


def pack_golden(golden: Golden) -> bytes:
    """Bytes of golden.npz; deterministic."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in (("inputs", golden.inputs), ("logits", golden.logits)):
            part = io.BytesIO()
            np.lib.format.write_array(part, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), part.getvalue())
    return out.getvalue()


def unpack_golden(data: bytes, shape: tuple[int, ...], where: str) -> Golden:
    """Read golden.npz; an archive without compression cannot take more memory than its bytes.

    Args:
        data: bytes of the archive.
        shape: of one input.
        where: the file's name, for errors.

    Raises:
        BundleIntegrityError: damaged, compressed, or other dtypes or shapes.
    """
    if data.count(_ENTRY) > _MAX_ENTRIES:
        raise BundleIntegrityError(f"{where}: the archive has too many files; {_REMEDY}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inputs, logits = (_array(archive, f"{name}.npy") for name in ("inputs", "logits"))
    except Exception as error:  # NumPy and zipfile raise many classes on damaged archives
        raise BundleIntegrityError(f"{where}: {one_line(error)}; {_REMEDY}") from error
    if inputs.dtype != np.uint8 or logits.dtype != np.float32 or not len(inputs) == len(logits) > 0:
        raise BundleIntegrityError(f"{where}: expected uint8 inputs and as many float32 logits; {_REMEDY}")
    if inputs.shape[1:] != shape or logits.ndim != 2:
        raise BundleIntegrityError(
            f"{where}: inputs are {inputs.shape} and logits {logits.shape}, expected (n, {', '.join(map(str, shape))}) "
            f"and (n, classes); {_REMEDY}"
        )
    return Golden(inputs=inputs, logits=logits)


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed, expected an archive without compression")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{name} has the NumPy format {version}, expected (1, 0) or (2, 0)")
        shape, fortran, dtype = _HEADERS[version](file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or fortran or file.tell() + size != entry.file_size:
            raise ValueError(f"{name} declares {shape} of {dtype}, which are not its {entry.file_size:,} bytes")
        return np.frombuffer(bytearray(file.read(size)), dtype).reshape(shape)
