"""What is finished of an interrupted command, one line of JSON each; only lines of the very same question count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onnxvis.errors import OutputError

__all__ = ["Partial"]


class Partial:
    """Finished pieces of a long command on disk.

    Args:
        path: of the file; ``None`` keeps nothing.
        key: a fingerprint of everything that the pieces depend on.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path, self._key = path, key

    def read(self) -> dict[str, Any]:
        """The finished pieces by name; lines that are cut off or of another question are passed over."""
        if self._path is None:
            return {}
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return {}
        found = {}
        for line in lines:
            try:
                data = json.loads(line)
                same = data["key"] == self._key
            except (ValueError, KeyError, TypeError):  # the last line of a killed run may be cut
                continue
            if same and data.get("name"):
                found[data["name"]] = data.get("piece")
        return found

    def add(self, name: str, piece: Any) -> None:
        """Keep a finished piece.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._path is None:
            return
        line = json.dumps({"key": self._key, "name": name, "piece": piece}, ensure_ascii=True)
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write("\n" + line + "\n")  # a line of its own, also after one that was cut off
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}: {error.strerror or error}. What is finished is kept: make room, or the "
                "folder writable, and give the same command again."
            ) from error

    def remove(self) -> None:
        """Delete the file: everything is finished."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
