"""Every error that abnn_serve raises on purpose.

    AbnnError
    ├── ConfigError              a setting or an option that cannot be used
    │   └── DeviceError          the device asked for is not there
    │       └── DeviceLostError      the GPU failed, and works again only in a new process
    ├── InputError               a sample that cannot be classified; carries `code` and `status` for HTTP
    │   ├── UnreadableInputError     400
    │   ├── InputTooLargeError       413
    │   ├── UnsupportedFormatError   415
    │   └── InputShapeError          422
    ├── BundleError              a bundle that cannot be used
    │   ├── BundleIntegrityError     bytes, files or graph are not what the manifest says
    │   └── BundleVersionError       written by a newer abnn_serve
    ├── DataError                a data set that cannot be read
    ├── ScoringError             offline scoring cannot start, go on or write
    ├── NetworkError             a network that cannot be built, or does not return logits
    ├── SurgeryError             a target and a substitute that cannot be joined
    ├── TrainingError            training cannot start, go on or resume
    └── ExportError              nothing was written
        └── ParityError              the exported graph disagrees with torch

A message is one line: what was found, what was expected, what to do.
"""


class AbnnError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(AbnnError):
    """A setting or an option that cannot be used."""


class DeviceError(ConfigError):
    """The device asked for is not there."""


class DeviceLostError(DeviceError):
    """The GPU failed, and works again only in a new process."""


class InputError(AbnnError):
    """A sample that cannot be classified. `code` and `status` are what HTTP clients see."""

    code = "bad_input"
    status = 400


class UnreadableInputError(InputError):
    """The bytes cannot be decoded."""

    code = "unreadable_input"
    status = 400


class InputTooLargeError(InputError):
    """More bytes or pixels than the limits allow."""

    code = "input_too_large"
    status = 413


class UnsupportedFormatError(InputError):
    """Not one of the formats that are accepted."""

    code = "unsupported_format"
    status = 415


class InputShapeError(InputError):
    """Decoded, but not of the shape that the model takes."""

    code = "wrong_shape"
    status = 422


class BundleError(AbnnError):
    """A bundle that cannot be used."""


class BundleIntegrityError(BundleError):
    """Bytes, files or graph are not what the manifest says."""


class BundleVersionError(BundleError):
    """Written by a newer abnn_serve."""


class DataError(AbnnError):
    """A data set that cannot be read."""


class ScoringError(AbnnError):
    """Offline scoring cannot start, go on or write."""


class NetworkError(AbnnError):
    """A network that cannot be built, or does not return logits."""


class SurgeryError(AbnnError):
    """A target and a substitute that cannot be joined."""


class TrainingError(AbnnError):
    """Training cannot start, go on or resume."""


class ExportError(AbnnError):
    """The export failed and nothing was written."""


class ParityError(ExportError):
    """The exported graph disagrees with torch."""


def one_line(error: BaseException) -> str:
    """The first line of what an error says, or its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
