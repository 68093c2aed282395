"""File names made of labels and picture names, which may hold anything."""

from __future__ import annotations

import hashlib
import re
import unicodedata

__all__ = ["slug"]

_LONGEST = 60
_RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))}


def slug(text: str, longest: int = _LONGEST) -> str:
    """A short, safe, readable file name: letters, digits, dot, dash and underscore.

    Different texts give different names: where something had to be left out, a short hash of the whole
    text is appended. Never empty, never a path, never a name that some system reserves.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", plain.strip()).strip("-._")
    readable = re.sub(r"[\s,]+", "-", text.strip())
    if kept.lower().split(".")[0] in _RESERVED:
        kept = f"x-{kept}"
    if kept and kept == readable and len(kept) <= longest:
        return kept
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{kept[: longest - 9].strip('-._') or 'x'}-{digest}"
