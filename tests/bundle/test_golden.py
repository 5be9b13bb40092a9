from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from abnn_serve.bundle.golden import Golden, pack_golden, unpack_golden
from abnn_serve.errors import BundleIntegrityError

SHAPE = (2, 2, 3)
INPUTS, LOGITS = np.zeros((1, *SHAPE), np.uint8), np.ones((1, 4), np.float32)


def _npy(header: bytes, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


def _npz(method: int = zipfile.ZIP_STORED, **files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(f"{name}.npy", data)
    return out.getvalue()


def test_the_same_golden_arrays_give_the_same_bytes_and_come_back():
    golden = Golden(inputs=INPUTS, logits=LOGITS)
    assert pack_golden(golden) == pack_golden(golden)
    again = unpack_golden(pack_golden(golden), SHAPE, "golden.npz")
    assert np.array_equal(again.inputs, INPUTS)
    assert np.array_equal(again.logits, LOGITS)
    assert again.inputs.flags.writeable


def test_an_archive_that_inflates_is_refused_without_inflating():
    import tracemalloc

    out = io.BytesIO()
    np.savez_compressed(out, inputs=np.zeros((500, 200, 200, 3), np.uint8), logits=np.zeros((500, 4), np.float32))
    tracemalloc.start()
    with pytest.raises(BundleIntegrityError, match=r"inputs\.npy is compressed, expected an archive without"):
        unpack_golden(out.getvalue(), (200, 200, 3), "golden.npz")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 2, 2, 3)}\n",
        b"{'descr': '|u1', 'fortran_order': True, 'shape': (1, 2, 2, 3)}\n",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -12)}\n",
    ],
)
def test_a_header_that_is_not_of_its_bytes_is_refused(header):
    data = _npz(inputs=_npy(header, bytes(12)), logits=_npy(header))
    with pytest.raises(BundleIntegrityError, match=r"golden\.npz: .*; download or export the bundle again"):
        unpack_golden(data, SHAPE, "golden.npz")


def test_an_archive_of_many_files_is_refused_before_its_directory_is_read():
    data = _npz(**{f"a{number}": b"" for number in range(100)})
    with pytest.raises(BundleIntegrityError, match="the archive has too many files"):
        unpack_golden(data, SHAPE, "golden.npz")


@pytest.mark.parametrize(
    ("inputs", "logits", "message"),
    [
        (INPUTS.astype(np.float32), LOGITS, "expected uint8 inputs and as many float32 logits"),
        (np.repeat(INPUTS, 2, 0), LOGITS, "expected uint8 inputs and as many float32 logits"),
        (INPUTS[:0], LOGITS[:0], "expected uint8 inputs and as many float32 logits"),
        (INPUTS[:, :1], LOGITS, r"inputs are \(1, 1, 2, 3\) .*expected \(n, 2, 2, 3\) and \(n, classes\)"),
        (INPUTS, LOGITS[0, :1], r"logits \(1,\), expected"),
    ],
)
def test_golden_vectors_of_another_kind_are_refused(inputs, logits, message):
    with pytest.raises(BundleIntegrityError, match=message):
        unpack_golden(pack_golden(Golden(inputs=inputs, logits=logits)), SHAPE, "golden.npz")
