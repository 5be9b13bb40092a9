"""A card on disk, with the figures and flags beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from abnn_serve.card import RobustnessCard
from abnn_serve.codec import from_json
from abnn_serve.errors import ConfigError
from abnn_serve.files import atomic_write

FLAGS = "flags.npz"
COMMAND = "command.txt"  # the command line of `abnn evaluate`, beside its card
_PICTURES = ("samples.png", "curves.png")


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSource:
    """A card, and where it was read from.

    Attributes:
        name: of the run, bundle, file or endpoint, as far as the folder tells.
        folder: holds the pictures and the flags, if there are any.
        command: the command that wrote it; "" if unknown.
    """

    name: str
    card: RobustnessCard
    folder: Path
    command: str = ""

    def pictures(self) -> dict[str, bytes]:
        """The PNG files that an evaluation left beside the card, by name."""
        return {name: (self.folder / name).read_bytes() for name in _PICTURES if (self.folder / name).is_file()}

    def flags(self) -> tuple[str, dict[str, NDArray[np.bool_]]] | None:
        """A digest of the attacked samples, and by figure which of them were classified correctly; None without."""
        if not (self.folder / FLAGS).is_file():
            return None
        with np.load(self.folder / FLAGS, allow_pickle=False) as arrays:
            return str(arrays["digest"]), {name: arrays[name] for name in arrays.files if name != "digest"}


def read_card(path: Path) -> CardSource:
    """Read a card from a bundle, from the folder of an evaluation or from a JSON file; ConfigError if there is none."""
    file = path / "card.json" if path.is_dir() else path
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} holds no readable card ({error}); give a bundle, an evaluation's folder or a card.json"
        ) from None
    card = from_json(RobustnessCard, value, str(file), ConfigError)
    command = file.with_name(COMMAND)
    return CardSource(
        name=card.endpoint.address if card.endpoint else _subject_of(file.resolve().parent),
        card=card,
        folder=file.parent,
        command=command.read_text(encoding="utf-8").strip() if command.is_file() else "",
    )


def _subject_of(folder: Path) -> str:
    """The name of what was evaluated into `folder`, such as RUN/evaluation or NAME-evaluation."""
    return folder.parent.name if folder.name == "evaluation" else folder.name.removesuffix("-evaluation")


def write_flags(folder: Path, digest: str, flags: dict[str, NDArray[np.bool_]]) -> None:
    """Write for each figure which samples were classified correctly, bool (N,); `digest` identifies the samples."""
    with atomic_write(folder / FLAGS) as file:
        np.savez_compressed(file, digest=np.asarray(digest), **flags)  # type: ignore[arg-type]
