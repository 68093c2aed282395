"""How to open the same model again, in another process or on another machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxvis.errors import ModelError

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["Recipe", "Recipes"]

_LARGEST_SENT = 1 << 30


@dataclass(frozen=True)
class Recipe:
    """A model as plain data.

    Attributes:
        path: the file, where there is one.
        sha256: its fingerprint.
        data: the file's bytes, for machines that do not have it; ``None`` for one with external data or beyond a
            gigabyte, which must be on a file system that all machines share.
        options: arguments of :func:`onnxvis.load`.
    """

    path: str | None
    sha256: str
    data: bytes | None = field(repr=False)
    options: dict[str, Any]

    @classmethod
    def of(cls, model: Model) -> Recipe:
        """The recipe of an opened model, with its preprocessing, labels and provider as they are now."""
        file = model.file
        data: bytes | None = None
        if not file.external and (file.path is None or file.path.stat().st_size <= _LARGEST_SENT):
            data = file.path.read_bytes() if file.path is not None else file.proto.SerializeToString()
        return cls(str(file.path.absolute()) if file.path is not None else None, model.sha256, data, model.options())

    def open(self) -> Model:
        """Open it: from its path where the very same file is there, else from the bytes.

        Raises:
            ModelError: this machine has another file there, or none, and the bytes were not sent.
        """
        from onnxvis.model import load

        if self.path is not None and Path(self.path).is_file():
            model = load(self.path, **self.options)
            if model.sha256 == self.sha256:
                return model
        if self.data is None:
            raise ModelError(
                f"{self.path} is not the same file on every machine, and it is too large to be sent, or has external "
                "data: put it on a file system that all machines share."
            )
        return load(self.data, **self.options)


@dataclass(frozen=True)
class Recipes:
    """Several models, opened together; plain data.

    Attributes:
        parts: one for each.
    """

    parts: tuple[Recipe, ...]

    @classmethod
    def of(cls, models: tuple[Model, ...]) -> Recipes:
        """The recipes of opened models."""
        return cls(tuple(Recipe.of(model) for model in models))

    def open(self) -> tuple[Model, ...]:
        """Open them.

        Raises:
            ModelError: see :meth:`Recipe.open`.
        """
        return tuple(recipe.open() for recipe in self.parts)
