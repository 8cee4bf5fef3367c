"""The model that the host makes images with, as far as one is loaded, and which network files are for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import LycorisError
from ..hosts.protocol import Generator
from ..models import FAMILIES, BaseModel
from ..networks.loading import fits
from ..tools.examine.inspect import Inspection, inspect
from ..tools.files.store import FileStore


class LoadedModel:
    """What the pages ask of the loaded model; it is another one whenever the user has chosen so."""

    def __init__(self, generator: Callable[[], Generator | None], store: FileStore) -> None:
        self._generator, self._store = generator, store
        self._fits: dict[tuple[Path, int, int], bool] = {}  # of the files that were asked about, with the time and size that they had
        self._identity = ""  # of the model that these fit

    def now(self) -> tuple[str, BaseModel] | None:
        """Return the loaded model's identity and names; None where no model is loaded."""
        generator = self._generator()
        try:
            return None if generator is None else (generator.identity, generator.base)
        except LycorisError:
            return None

    @property
    def short(self) -> str:
        """The family in the word that cards have for it; empty where no model is loaded, or one of no known family."""
        live = self.now()
        return FAMILIES[live[1].family].short if live is not None and live[1].family in FAMILIES else ""

    def fits(self, path: Path) -> bool:
        """Tell whether a network is for the loaded model; True where nothing says otherwise: no model, a file that cannot be read."""
        live = self.now()
        if live is None:
            return True
        if live[0] != self._identity:
            self._identity, self._fits = live[0], {}
        try:
            info = path.stat()
            key = (path, info.st_mtime_ns, info.st_size)
            if key not in self._fits:
                self._fits[key] = fits(path, live[1])
        except (LycorisError, OSError):
            return True
        return self._fits[key]

    def inspect(self, path: Path, family: str | None = None) -> tuple[Inspection, BaseModel | None]:
        """Describe a network against the usual model of its family, or against the loaded one if the file fits that better.

        Returns also the loaded model in that case. Raises NetworkFormatError, UnknownFamilyError.
        """
        usual = inspect(path, family=family)
        told = family is not None or (usual.family is not None and usual.matched_keys == usual.keys)
        live = None if told else self.now()
        if live is None:
            return usual, None
        found = inspect(path, live[1], base_name=self._name())
        better = bool(found.fits) if usual.family is None else found.matched_keys > usual.matched_keys
        return (found, live[1]) if better else (usual, None)

    def described(self, path: Path, family: str | None) -> dict[str, Any]:
        """Return the description of a network as JSON can hold it. Raises as :meth:`inspect`."""
        return self.inspect(path, family)[0].as_dict()

    def _name(self) -> str:
        file = self._store.loaded()
        return "the loaded model" if file is None else f"the loaded model ({file.name})"
