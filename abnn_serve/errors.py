"""All errors that abnn_serve raises deliberately.

    AbnnError
    ├── ConfigError              invalid setting or option
    │   └── DeviceError          unavailable device
    │       └── DeviceLostError      GPU that failed; only a new process can use it
    ├── InputError               sample that cannot be classified; `code` and `status` are its HTTP error
    │   ├── UnreadableInputError     400
    │   ├── InputTooLargeError       413
    │   ├── TooCostlyError           413
    │   ├── UnsupportedFormatError   415
    │   └── InputShapeError          422
    ├── BundleError              bundle that cannot be used
    │   ├── BundleIntegrityError     the files do not match the manifest
    │   ├── BundleSignatureError     unsigned, or not signed by a required key
    │   └── BundleVersionError       a newer abnn_serve wrote the bundle
    ├── DecoderError             no decoding process is available
    ├── DataError                data set that cannot be read
    ├── ScoringError             offline scoring cannot start, resume or write
    ├── NetworkError             network that cannot be built or does not return logits
    ├── SurgeryError             target and substitute that cannot be combined
    ├── TrainingError            training cannot start or resume, or it diverged
    └── ExportError              export failed; nothing was written
        └── ParityError              the exported graph's logits differ from torch's

A message is one line: the value, the expected value, and a remedy.
"""


class AbnnError(Exception):
    """Base class of all errors that abnn_serve raises deliberately."""


class ConfigError(AbnnError):
    """Invalid setting or option."""


class DeviceError(ConfigError):
    """The requested device is unavailable, or cannot run the graph."""


class DeviceLostError(DeviceError):
    """The GPU failed, and only a new process can use it again."""


class InputError(AbnnError):
    """A sample that cannot be classified. HTTP clients get `status` and `code`."""

    code = "bad_input"
    status = 400


class UnreadableInputError(InputError):
    """The sample is damaged or empty."""

    code = "unreadable_input"
    status = 400


class InputTooLargeError(InputError):
    """The sample exceeds a limit, for example on bytes, pixels or frames."""

    code = "input_too_large"
    status = 413


class TooCostlyError(InputError):
    """Decoding the sample takes more time or memory than its size justifies."""

    code = "too_costly"
    status = 413


class UnsupportedFormatError(InputError):
    """The format or codec is not supported, or the model takes another kind of input."""

    code = "unsupported_format"
    status = 415


class InputShapeError(InputError):
    """The dtype or shape is not that of the model's input."""

    code = "wrong_shape"
    status = 422


class BundleError(AbnnError):
    """A bundle that is missing or cannot be used."""


class BundleIntegrityError(BundleError):
    """The bundle's files or graph do not match its manifest."""


class BundleSignatureError(BundleError):
    """The bundle is unsigned, or its signature is not of a required key and of these files."""


class BundleVersionError(BundleError):
    """A newer abnn_serve wrote the bundle."""


class DecoderError(AbnnError):
    """No decoding process is available, because none starts or all are busy."""


class DataError(AbnnError):
    """A data set that is missing or cannot be read."""


class ScoringError(AbnnError):
    """Offline scoring cannot start, resume or write."""


class NetworkError(AbnnError):
    """A network that cannot be built or does not return logits."""


class SurgeryError(AbnnError):
    """A target and a substitute that cannot be combined into one network."""


class TrainingError(AbnnError):
    """Training cannot start or resume, or it diverged."""


class ExportError(AbnnError):
    """The export failed and nothing was written."""


class ParityError(ExportError):
    """The exported graph's logits differ from torch's."""


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its class name if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
