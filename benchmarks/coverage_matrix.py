"""Which files work: architectures x exporters x opsets x formats, written to docs/coverage.md.

    python benchmarks/coverage_matrix.py            # everything (about half an hour on two cores)
    python benchmarks/coverage_matrix.py --quick    # a few, for a look

Every row is a real file written by a real exporter. Outputs are compared with onnxruntime on the same
file; gradients, in float64, with the original torch module; batches with pictures one by one.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import importlib.util
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support import formats, zoo  # noqa: E402 - the tests' own networks

import onnxvis  # noqa: E402
from onnxvis.runtime.parity import output_error  # noqa: E402

SIZES = {"alexnet": 224, "vgg11": 224, "vgg11_bn": 224, "vgg16_bn": 224, "vit_b_16": 224, "swin_t": 224,
         "maxvit_t": 224, "inception_v3": 96}  # fmt: skip
EXPORTS = (("legacy", 13), ("legacy", 17), ("dynamo", 18), ("dynamo", 20), ("dynamo", 22))
TRANSFORMERS = ("maxvit_t", "swin_t", "vit_b_16")


@dataclass(frozen=True)
class Row:
    """One file and what was found."""

    name: str
    form: str
    converted: str
    output: float | None
    gradient: float | None
    batch: str
    head: str
    seconds: float


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-300))


def torch_gradient(module: Any, x: np.ndarray) -> np.ndarray:
    """D (sum of logits) / d x of the original module in float64."""
    import torch

    variable = torch.from_numpy(x.astype(np.float64)).requires_grad_(True)
    module.double()(variable).sum().backward()
    assert variable.grad is not None
    return variable.grad.numpy()


def examine(name: str, form: str, source: Any, reference: np.ndarray | None, size: int, channels: int = 3) -> Row:
    """Convert one file and compare; a refusal is written into the row."""
    began = time.perf_counter()
    converted, output, gradient, batch, head = "yes", None, None, "", ""
    try:
        model = onnxvis.load(source, size=size)
        x = zoo.image(size)[:, :channels].astype(model.image_input.dtype)
        tensor = model.logits.tensor
        head = model.head.kind
        deployed = model.engine.forward(x, (tensor,))[tensor]
        batch = model.engine.batch_plan(x).kind
        feeds = {model.image_input.name: x.astype(np.float32)}
        ones = np.ones(deployed.shape, np.float64)
        found = model.engine.gradients(feeds, tensor, [ones], (model.image_input.name,))
        output = output_error(found.output, deployed)
        if reference is not None:
            double = model.engine.gradients(feeds, tensor, [ones], (model.image_input.name,), float64=True)
            ours = double.grads[0][model.image_input.name]
            if form.startswith(("legacy", "dynamo", "ORT")):
                gradient = float(np.abs(ours - reference).max() / np.abs(reference).max())
            else:
                gradient = cosine(ours, reference)
    except onnxvis.OnnxvisError as error:
        converted = "refused: " + " ".join(str(error).split())[:160]
    return Row(name, form, converted, output, gradient, batch, head, time.perf_counter() - began)


def exported(quick: bool) -> Iterator[Callable[[], list[Row]]]:
    """The torchvision networks through both exporters."""
    names = zoo.NAMES[:4] if quick else zoo.NAMES + zoo.MORE_NAMES
    for name in names:
        yield lambda name=name: exports_of(name, quick)


def exports_of(name: str, quick: bool) -> list[Row]:
    size = SIZES.get(name, 64)
    module = zoo.torch_module(name)
    reference = torch_gradient(module, zoo.image(size))
    del module
    rows = []
    chosen = EXPORTS[1:3] if quick else EXPORTS
    for exporter, opset in chosen:
        form = f"{exporter} {opset}"
        try:
            path = zoo.export(name, exporter, opset, size)
        except Exception as error:  # noqa: BLE001 - the exporter's own failures are rows too
            reason = " ".join(str(error).split())[:80]
            rows.append(Row(name, form, f"the exporter itself fails: {reason}", None, None, "", "", 0.0))
            continue
        rows.append(examine(name, form, path, reference, size))
        gc.collect()
    return rows


def number_formats(quick: bool) -> Iterator[Callable[[], list[Row]]]:
    """fp16, int8 in three forms, and what onnxruntime saves."""
    for name in ("resnet18",) if quick else ("resnet18", "mobilenet_v2", "squeezenet1_1"):
        yield lambda name=name: formats_of(name)


def formats_of(name: str) -> list[Row]:
    size = 64
    proto = onnx.load(zoo.export(name, "legacy", 17, size))
    reference = torch_gradient(zoo.torch_module(name), zoo.image(size))
    makers: dict[str, Callable[[], onnx.ModelProto]] = {
        "float16": lambda: formats.half(proto, keep_io_types=False),
        "int8 QDQ": lambda: formats.quantized(proto, "qdq"),
        "int8 QOperator": lambda: formats.quantized(proto, "qoperator"),
        "int8 dynamic": lambda: formats.quantized(proto, "dynamic"),
        "ORT BASIC": lambda: formats.saved_by_onnxruntime(proto, "BASIC"),
        "ORT EXTENDED": lambda: formats.saved_by_onnxruntime(proto, "EXTENDED"),
        "ORT ALL": lambda: formats.saved_by_onnxruntime(proto, "ALL"),
    }
    return [examine(name, form, make(), reference, size) for form, make in makers.items()]


def third_party(quick: bool) -> Iterator[Callable[[], list[Row]]]:
    """Files of other exporters: Caffe2 (random weights), CNTK, PaddlePaddle, and the trained demo network."""
    names = ("squeezenet",) if quick else (
        "bvlc_alexnet", "zfnet512", "vgg19", "inception_v1", "inception_v2", "resnet50", "densenet121",
        "shufflenet", "squeezenet",
    )  # fmt: skip
    for name in names:
        yield lambda name=name: [examine(f"light {name}", "Caffe2", formats.light(f"light_{name}"), None, 224)]
    yield trained
    yield other_exporters


def trained() -> list[Row]:
    from onnxvis.demo import EXPORTERS, lite0, lite0_module

    reference = torch_gradient(lite0_module(), zoo.image(224))
    return [examine("EfficientNet-Lite0 (trained)", f"{e} trained", lite0(e), reference, 224) for e in EXPORTERS]


def other_exporters() -> list[Row]:
    from support.fetch import packaged_file

    cntk = packaged_file("qonnx", "1.0.0", "qonnx/data/onnx/mnist-conv/model.onnx")
    folder = "rapidocr_onnxruntime/models/"
    paddle = packaged_file("rapidocr-onnxruntime", "1.4.4", f"{folder}ch_ppocr_mobile_v2.0_cls_infer.onnx")
    ocr = packaged_file("rapidocr-onnxruntime", "1.4.4", f"{folder}ch_PP-OCRv4_rec_infer.onnx")
    return [
        examine("MNIST (CNTK, trained)", "CNTK", cntk, None, 28, channels=1),
        examine("text direction (Paddle, trained)", "PaddlePaddle", paddle, None, 48),
        examine("text recognition (Paddle, trained)", "PaddlePaddle", ocr, None, 48),
    ]


def table(rows: list[Row]) -> str:
    lines = ["| network | written by | converts | outputs | gradient | batch | head |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        exact = r.form.startswith(("legacy", "dynamo", "ORT"))
        output = "" if r.output is None else f"{r.output:.0e}"
        gradient = "" if r.gradient is None else (f"{r.gradient:.0e}" if exact else f"cosine {r.gradient:.4f}")
        text = r.converted.replace("|", "/")
        lines.append(f"| {r.name} | {r.form} | {text} | {output} | {gradient} | {r.batch} | {r.head} |")
    return "\n".join(lines)


def summary(rows: list[Row]) -> str:
    cnn = [r for r in rows if r.form.startswith(("legacy", "dynamo")) and r.name not in TRANSFORMERS]
    tried = [r for r in cnn if not r.converted.startswith("the exporter")]
    good = [r for r in tried if r.converted == "yes"]
    outputs = max((r.output for r in good if r.output is not None), default=0.0)
    gradients = max((r.gradient for r in good if r.gradient is not None), default=0.0)
    return (
        f"{len(rows)} files. Of the {len(tried)} exports of convolutional networks by PyTorch's two exporters, "
        f"{len(good)} convert; the largest output error is {outputs:.0e} of the largest logit, the largest gradient "
        f"error {gradients:.0e} of the largest derivative (float64, against the original module)."
    )


def conformance() -> str:
    """The ONNX standard's own node cases through the converters, counted; those that do not pass, by name."""
    location = ROOT / "tests" / "converters" / "test_conformance.py"
    spec = importlib.util.spec_from_file_location("conformance_cases", location)
    assert spec is not None
    assert spec.loader is not None
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    from onnx.backend.test.case.node import collect_testcases

    owner: dict[str, str] = {}
    total, left = 0, {**dict.fromkeys(tests.REFUSED, 0), **dict.fromkeys(tests.DIFFERENT, 0)}
    for case in collect_testcases(None):
        base = case.name.split("_expanded")[0]
        if base == case.name:
            owner[base] = case.model.graph.node[-1].op_type
        if owner.get(base) not in tests.OPERATORS:
            continue
        total += 1
        for pattern in left:
            if fnmatch.fnmatchcase(case.name, pattern):
                left[pattern] += 1
                break
    reasons = tests.REFUSED | tests.DIFFERENT
    lines = [
        f"Of the standard's {total:,} cases for the {len(tests.OPERATORS)} operators that a convolutional network may "
        f"have, {total - sum(left.values()):,} pass within the case's own tolerance (float16 and bfloat16 cases within "
        "that type's rounding, because everything is computed in float32). The others, by name; a test holds this list "
        "to the truth:",
        "",
        "| cases | how many | what happens | reason |",
        "|---|---|---|---|",
    ]
    for pattern, count in left.items():
        what = "refused" if pattern in tests.REFUSED else "differs"
        lines.append(f"| `{pattern}` | {count} | {what} | {reasons[pattern]} |")
    return "\n".join(lines)


def write(rows: list[Row], path: Path) -> None:
    text = f"""# Coverage

Which files work, measured by `python benchmarks/coverage_matrix.py`. {summary(rows)}

- *outputs*: the converted model in float32 against onnxruntime on the same file, largest difference over the
  largest logit. int8 files round: onnxruntime's own optimized and unoptimized runs differ by about 1e-2.
- *gradient*: of the sum of all logits with respect to the picture, in float64, against the original PyTorch
  module (largest difference over the largest derivative). For float16 and int8 files it is the cosine with the
  float32 network's gradient; int8 gradients are those of straight-through rounding.
- *batch*: "free" in the file, "freed" by editing the input, "repaired" constants, or "looped" one by one;
  every batch is verified against single pictures.
- Weights are random (He) unless the name says trained; sizes are small, so that all of it runs on a laptop.

{table(rows)}

## The operators of the standard

{conformance()}
"""
    path.write_text(text, encoding="utf-8")


def jobs(only: list[str] | None, quick: bool) -> Iterator[Callable[[], list[Row]]]:
    """Everything, or the networks and groups that were asked for."""
    if not only:
        for group in (exported, number_formats, third_party):
            yield from group(quick)
        return
    groups = {"formats": number_formats, "others": third_party}
    for name in only:
        if name in groups:
            yield from groups[name](quick)
        else:
            yield lambda name=name: exports_of(name, quick)


def merged(path: Path, fresh: list[Row]) -> list[Row]:
    """The saved rows with some of them replaced, and those that are new behind them."""
    new = {(row.name, row.form): row for row in fresh}
    old = [Row(**item) for item in json.loads(path.read_text(encoding="utf-8"))]
    return [new.pop((row.name, row.form), row) for row in old] + list(new.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few files only; nothing is written to docs/")
    parser.add_argument("--json", type=Path, help="also write the rows as JSON")
    parser.add_argument("--only", nargs="+", help="these networks, 'formats' or 'others'; the other rows are --json's")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "coverage.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows: list[Row] = []
    for job in jobs(arguments.only, arguments.quick):
        for row in job():
            rows.append(row)
            print(f"{row.seconds:6.1f} s  {row.name:28} {row.form:16} {row.converted[:60]:60} "
                  f"{row.output} {row.gradient} {row.batch} {row.head}", flush=True)  # fmt: skip
    if arguments.only:
        rows = merged(arguments.json, rows)
    print(summary(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(r) for r in rows], indent=1))
    if not arguments.quick:
        write(rows, arguments.out)


if __name__ == "__main__":
    main()
