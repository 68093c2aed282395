"""`import onnxvis`, and asking the command line for help, must not pay for what is not used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import onnxvis

HEAVY = ("torch", "numba", "onnxruntime", "onnx_ir", "onnx", "matplotlib", "PIL", "scipy", "skimage", "numpy")


def loaded_by(code: str, *allowed: str) -> list[str]:
    """Names of heavy modules in a fresh process that ran ``code``, without the allowed ones."""
    report = f"{code}\nimport json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    names = set(json.loads(done.stdout.splitlines()[-1]))
    return [name for name in HEAVY if name in names and name not in allowed]


@pytest.mark.parametrize("code", ["import onnxvis", "import onnxvis.cli", "import onnxvis; dir(onnxvis)"])
def test_import_loads_nothing_heavy(code: str) -> None:
    assert loaded_by(code) == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["explain", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_by(f"from onnxvis.cli import main; assert main({arguments}) == 0") == []


def test_listing_the_methods_loads_no_runtime() -> None:
    code = "from onnxvis.cli import main; assert main(['methods']) == 0"
    assert loaded_by(code, "numpy", "onnx") == []


def test_the_check_sees_heavy_modules() -> None:
    assert loaded_by("import numpy, PIL") == ["PIL", "numpy"]


def test_every_public_name_exists() -> None:
    missing = [name for name in onnxvis.__all__ if getattr(onnxvis, name, None) is None]
    assert missing == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'explane'"):
        _ = onnxvis.explane
