"""From typing the command to the first map: import time, whole-process time and peak memory.

Run ``python benchmarks/startup.py [--repeats N] [--imports N] [--json FILE]``. Every figure is of a fresh
process; numba's cache is empty, so a compilation on the way would show. The demo network is exported before
the clock starts (``pip install onnxvis[cpu,demo]``). Exit code 1 when importing takes longer than its goal or
loads a heavy module.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

IMPORT_GOAL = 0.5
METHODS = ("grad-cam", "occlusion", "saliency")
HEAVY = ("torch", "numba", "onnxruntime", "onnx_ir", "matplotlib")

IMPORT = f"""
import time
start = time.perf_counter()
import onnxvis
seconds = time.perf_counter() - start
import json, sys
print(json.dumps([seconds, [name for name in {HEAVY} if name in sys.modules]]))
"""
COMMAND = f"""
import json, sys
from pathlib import Path
from onnxvis.cli import main
code = main(sys.argv[2:])
Path(sys.argv[1]).write_text(json.dumps([name for name in {HEAVY} if name in sys.modules]))
raise SystemExit(code)
"""


@dataclass(frozen=True)
class Cold:
    """One command, several fresh processes: seconds, the largest peak in MiB, and what was imported."""

    command: str
    first_s: float
    median_s: float
    cpu_s: float
    peak_mib: float | None
    loaded: tuple[str, ...]


def python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def clocked(arguments: list[str], environment: dict[str, str]) -> tuple[float, float, float | None]:
    """Seconds, CPU seconds and peak MiB of a process.

    A child that has not yet replaced its memory counts its parent's as its own peak: so this process
    imports nothing of onnxvis.
    """
    start = time.perf_counter()
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL) as child:
        if not hasattr(os, "wait4"):
            code, used = child.wait(), None
        else:
            _, status, used = os.wait4(child.pid, 0)
            code = child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if code:
        raise SystemExit(f"{' '.join(arguments[-8:])} ended with code {code}")
    if used is None:
        return seconds, float("nan"), None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / unit


def cold(command: str, arguments: list[str], repeats: int, scratch: Path) -> Cold:
    loaded, environment = scratch / "loaded.json", {**os.environ, "NUMBA_CACHE_DIR": str(scratch / "numba")}
    runs = [clocked([sys.executable, "-c", COMMAND, str(loaded), *arguments], environment) for _ in range(repeats)]
    peaks = [peak for *_, peak in runs if peak is not None]
    return Cold(
        command,
        runs[0][0],
        statistics.median(seconds for seconds, *_ in runs),
        statistics.median(cpu for _, cpu, _ in runs),
        max(peaks, default=None),
        tuple(json.loads(loaded.read_text())),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="processes for each command")
    parser.add_argument("--imports", type=int, default=15, help="processes that only import")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()

    found = [json.loads(python(IMPORT)) for _ in range(options.imports)]
    median, slowest = statistics.median(s for s, _ in found), max(s for s, _ in found)
    heavy = sorted({name for _, names in found for name in names})
    print(f"import onnxvis: median {median * 1e3:.1f} ms, slowest {slowest * 1e3:.1f} ms of {options.imports}")
    print(f"  heavy modules loaded by it: {', '.join(heavy) or 'none'}; goal below {IMPORT_GOAL * 1e3:.0f} ms")

    files = "from onnxvis.demo import lite0, photo; import json; print(json.dumps([str(lite0()), str(photo())]))"
    model, picture = json.loads(python(files).splitlines()[-1])
    rows = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        commands = {"--help": ["--help"], "methods": ["methods"]}
        for method in METHODS:
            out = str(scratch / method)
            commands[f"explain -m {method}"] = ["explain", model, picture, "-m", method, "-q", "-o", out]
        print(f"\n{'command':<24}{'first s':>9}{'median s':>10}{'CPU s':>8}{'peak MiB':>10}  loaded")
        for command, arguments in commands.items():
            row = cold(command, arguments, options.repeats, scratch)
            rows.append(row)
            peak = "-" if row.peak_mib is None else f"{row.peak_mib:.0f}"
            figures = f"{row.first_s:>9.2f}{row.median_s:>10.2f}{row.cpu_s:>8.2f}{peak:>10}"
            print(f"{command:<24}{figures}  {', '.join(row.loaded) or '-'}")
    if options.json:
        data = {"import_median_s": median, "import_slowest_s": slowest, "import_loads": heavy}
        options.json.write_text(json.dumps({**data, "commands": [asdict(row) for row in rows]}, indent=2))
    return int(median > IMPORT_GOAL or bool(heavy))


if __name__ == "__main__":
    sys.exit(main())
