"""SCOUTER on Fashion-MNIST and on drawn vessels: accuracy, area, insertion and deletion; tables and pictures.

Run ``python benchmarks/scouter.py [--write] [--pictures] [--work FOLDER]``. ``--write`` puts the tables into
docs/behaviour/scouter.md, ``--pictures`` draws its pictures (of the drawn vessels, whose parts are known).

*Fashion-MNIST* (70,000 photos of clothes in 10 classes, 28 x 28) comes with ``apt-get download dataset-fashion-mnist``.
A small convolutional network is trained on 20,000 of them and exported; it is the deployed classifier, with maps of
14 x 14 places. Heads are fitted on 6,000 pictures and measured on the first 2,000 of the test set. The comparison is a
linear layer on the mean of the same frozen features, trained on the same pictures.

*Vessels* are drawn: a body, with or without a handle on the right and a spout on the left: four classes that differ in
one part or two. So it is known what distinguishes them.

One thread on one core by default (``--threads``), because training and sessions would otherwise share cores unevenly.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

import onnxvis
from onnxvis.behaviour.scouter import HeadSettings, Samples, TrainingSettings, evaluate, fit, samples_of
from onnxvis.behaviour.scouter.features import backbone_features
from onnxvis.demo import cache_folder
from onnxvis.kernels.upsample import upsample_bilinear
from onnxvis.methods.scouter import class_maps, find_slot_attention
from onnxvis.model import Model
from onnxvis.preprocessing import Preprocessing
from onnxvis.render import Scale, SheetCell, SheetColumn, SheetRow, contact_sheet

PAGE = Path(__file__).resolve().parent.parent / "docs" / "behaviour" / "scouter.md"
LAMBDAS = (0.0, 0.1, 1.0, 3.0, 10.0)
CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
VESSELS = ("glass", "mug", "jug", "kettle")
GRAY = Preprocessing(scale=1 / 255, channel_order="gray", source="benchmarks/scouter.py")
FITTED, TESTED, MASKED, STEPS = 6000, 2000, 200, 16


def say(text: str) -> None:
    print(f"[{time.perf_counter() - START:6.0f} s] {text}", flush=True)


# --- data ----------------------------------------------------------------------------------------


def fashion_mnist() -> dict[str, np.ndarray]:
    """Pictures and labels, from the Debian package, downloaded once into the cache."""
    folder = cache_folder() / "fashion-mnist"
    if not list(folder.rglob("train-images*")):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "dataset-fashion-mnist"], cwd=folder, check=True, capture_output=True)
        subprocess.run(["dpkg", "-x", str(next(folder.glob("*.deb"))), str(folder)], check=True)
    found = {}
    for key, pattern in {
        "x": "train-images*",
        "y": "train-labels*",
        "xt": "t10k-images*",
        "yt": "t10k-labels*",
    }.items():
        data = gzip.decompress(next(folder.rglob(pattern)).read_bytes())
        dims = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
        found[key] = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(dims)
    return found


@dataclass(frozen=True)
class Vessels:
    """Drawn vessels ``(N, 48, 48) uint8``, their classes, and masks of handle and spout (empty where there is none)."""

    x: np.ndarray
    y: np.ndarray
    handles: np.ndarray
    spouts: np.ndarray


def vessels(count: int, seed: int) -> Vessels:
    """Class 0 has neither part, 1 a handle, 2 a spout, 3 both; size, place, shape and gray vary, noise is added."""
    chance = np.random.default_rng(seed)
    rows, cols = np.mgrid[:48, :48].astype(float)
    x, handles, spouts = (np.zeros((count, 48, 48), kind) for kind in (np.uint8, bool, bool))
    y = chance.integers(0, 4, count)
    for i in range(count):
        cy, cx = chance.uniform(20, 28, 2)
        high, wide, taper = chance.uniform(8, 12), chance.uniform(6, 9), chance.uniform(-0.2, 0.2)
        inside = (np.abs(rows - cy) < high) & (np.abs(cols - cx) < wide + taper * (rows - cy))
        ring = np.hypot((rows - cy) / (high * 0.6), (cols - cx - wide) / 6.5)
        slope = (cx - wide - cols) * 1.1 + (rows - cy - high * 0.3)
        handle = (ring > 0.65) & (ring < 1.05) & (cols > cx + wide) & ~inside
        spout = (np.abs(slope) < 3) & (cols < cx - wide + 1) & (cols > cx - wide - 7.5) & ~inside
        handles[i], spouts[i] = handle & bool(y[i] & 1), spout & bool(y[i] & 2)
        gray = chance.uniform(90, 150) + chance.normal(0, 14, (48, 48))
        drawn = inside | handles[i] | spouts[i]
        gray[drawn] += chance.uniform(50, 90)
        x[i] = np.clip(gray, 0, 255)
    return Vessels(x, y, handles, spouts)


# --- the deployed classifiers ----------------------------------------------------------------------


def block(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def train_linear(parameters: list[nn.Parameter], logits: Callable[[np.ndarray], torch.Tensor], y: np.ndarray,
                 epochs: int, rate: float) -> None:  # fmt: skip
    labels, steps = torch.from_numpy(y.astype(np.int64)), len(y) // 64
    optimizer = torch.optim.AdamW(parameters)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(y))[: steps * 64].view(steps, 64):
            loss = functional.cross_entropy(logits(rows.numpy()), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def deployed(name: str, blocks: Sequence[nn.Sequential], x: np.ndarray, y: np.ndarray, epochs: int, work: Path) -> Path:
    """Train a network with a global average pool and a linear head, and export it."""
    path = work / f"{name}.onnx"
    if path.exists():
        return path
    classes = int(y.max()) + 1
    channels = blocks[-1][0].out_channels
    net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    inputs = torch.from_numpy(x.astype(np.float32)[:, None] / 255)
    train_linear(list(net.parameters()), lambda rows: net(inputs[rows]), y, epochs, 4e-3)
    net.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (inputs[:2],), str(path), input_names=["image"], output_names=["scores"], dynamo=False,
            opset_version=17, dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
        )  # fmt: skip
    say(f"trained and exported {path.name}")
    return path


def linear_accuracy(model: Model, fitted: Samples, tested: Samples, work: Path) -> float:
    """A linear layer on the mean of the same frozen features, trained on the same pictures."""
    means = []
    for samples in (fitted, tested):
        values = backbone_features(model, samples, str(model.head.cam_layer), work, 64).values
        means.append(torch.from_numpy(np.concatenate([v.mean((2, 3)) for v in np.array_split(values, 16)])))
    layer = nn.Linear(means[0].shape[1], len(fitted.classes))
    train_linear(list(layer.parameters()), lambda rows: layer(means[0][rows]), fitted.labels, 40, 2e-2)
    with torch.no_grad():
        return float((layer(means[1]).argmax(1).numpy() == tested.labels).mean())


# --- measuring ---------------------------------------------------------------------------------------


def maps_of(model: Model, samples: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Prepared pictures, logits ``(N, K)``, attention and contributions ``(N, K, h, w)``, without their sign."""
    found = find_slot_attention(model)
    x = np.concatenate([model.prepare(picture).tensor for picture in samples.pictures])
    values = str(found.values)
    tensors = model.engine.forward(x, (model.logits.tensor, found.attention, values), 64)
    maps = class_maps(found, tensors[found.attention])
    features = tensors[values].mean(axis=1).reshape(len(x), 1, found.rows, found.columns)
    return x, tensors[model.logits.tensor], maps, maps * features


def share(maps: np.ndarray, masks: np.ndarray) -> float:
    """Mean part of the maps ``(N, h, w)`` inside masks ``(N, H, W)``."""
    large = np.stack([upsample_bilinear(m.astype(np.float32), masks.shape[1:]) for m in maps])
    return float(((large * masks).sum((1, 2)) / large.sum((1, 2))).mean())


def curve_areas(judge: Model, x: np.ndarray, heat: np.ndarray) -> tuple[float, float]:
    """Mean areas under the deletion and the insertion curve: the probability of the judge's own first answer.

    Pixels go to 0 (the background of these pictures), or come from it, the largest of the map first, in 16 steps.
    """
    name, sums = judge.logits.tensor, np.zeros(2)
    pixels = heat[0].size
    counts = np.linspace(0, pixels, STEPS + 1).round().astype(int)
    for one, values in zip(x, heat, strict=True):
        rank = np.empty(pixels, int)
        rank[np.argsort(-values.reshape(-1), kind="stable")] = np.arange(pixels)
        gone = rank.reshape(values.shape)[None] < counts[:, None, None]
        steps = np.concatenate([one * ~gone[:, None], one * gone[:, None]]).astype(np.float32)
        logits = judge.engine.forward(steps, (name,), 64)[name].astype(np.float64)
        odds = np.exp(logits - logits.max(1, keepdims=True))
        curve = (odds / odds.sum(1, keepdims=True))[:, int(logits[0].argmax())]
        sums += [np.trapezoid(part, dx=1 / STEPS) for part in (curve[: STEPS + 1], curve[STEPS + 1 :])]
    return float(sums[0] / len(x)), float(sums[1] / len(x))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- Fashion-MNIST -----------------------------------------------------------------------------------


def fashion(work: Path, epochs: int) -> dict[str, str]:
    data = fashion_mnist()
    blocks = (block(1, 16), block(16, 32, 2), block(32, 48), block(48, 48, 1, 2))
    path = deployed("fashion", blocks, data["x"][:20000], data["y"][:20000], 5, work)
    model = onnxvis.load(path, preprocessing=GRAY, labels=CLOTHES, provider="cpu")
    fitted = samples_of(list(data["x"][:FITTED]), data["y"][:FITTED].astype(np.int64), CLOTHES, "training pictures")
    tested = samples_of(list(data["xt"][:TESTED]), data["yt"][:TESTED].astype(np.int64), CLOTHES, "test pictures")
    linear = linear_accuracy(model, fitted, tested, work)
    say(f"linear head on the same features: {linear:.4f}")
    masks = data["xt"][:TESTED] > 25
    rows: list[list[str]] = []
    models: dict[tuple[str, float], Model] = {}
    for explanation, weight, normalize in [
        *((e, w, False) for e in ("positive", "negative") for w in LAMBDAS),
        *((e, 1.0, True) for e in ("positive", "negative")),
    ]:
        training = TrainingSettings(area_weight=weight, epochs=epochs, patience=epochs, device="cpu")
        head = HeadSettings(explanation, dim=32, normalize=normalize)
        done = fit(model, fitted, work, head=head, training=training, batch_size=64)
        scouter = onnxvis.load(done.proto, provider="cpu")
        models.setdefault((explanation, weight), scouter)
        found = evaluate(scouter, tested, batch_size=64)
        _, logits, maps, contributions = maps_of(scouter, tested)
        shown = tested.labels if explanation == "positive" else logits.argmin(1)
        on_object = (share(each[np.arange(TESTED), shown], masks) for each in (maps, contributions))
        figures = (found.area_all, found.area_label, found.area_least, *on_object)
        name = f"{explanation}, {weight:g}{', normalized' if normalize else ''}"
        rows.append([name, f"{found.accuracy:.3f}", *(f"{v:.3f}" for v in figures)])
        say(" ".join(rows[-1]))
    heads = (
        "explanation, lambda",
        "accuracy",
        "area, all classes",
        "area, label",
        "area, lowest logit",
        "attention on the object",
        "contribution on the object",
    )
    base = f"Linear head on the same features: accuracy {linear:.3f}. Part of the picture that is object: "
    base += f"{masks.mean():.3f}."
    draw_fashion(models, tested, work)
    return {"lambda": f"{table(heads, rows)}\n\n{base}", "curves": curves(model, models["positive", 1.0], tested)}


def curves(model: Model, scouter: Model, tested: Samples) -> str:
    """Deletion and insertion of four maps, judged by both classifiers."""
    some = samples_of(tested.pictures[:MASKED], tested.labels[:MASKED], tested.classes, "some test pictures")
    x = maps_of(scouter, some)[0]
    heats = {}
    for name, method, judge in (
        ("SCOUTER attention", "scouter", scouter),
        ("SCOUTER contribution", "scouter", scouter),
        ("Grad-CAM of the SCOUTER file", "grad-cam", scouter),
        ("Grad-CAM of the classifier", "grad-cam", model),
    ):
        layer = None if method == "scouter" or judge is model else str(model.head.cam_layer)
        options = {"map": "contribution"} if name == "SCOUTER contribution" else {}
        found = onnxvis.explain(judge, list(some.pictures), method, "top1", layer=layer, batch_size=64, **options)
        heats[name] = np.stack([one.attribution for one in found])
    heats["chance"] = np.random.default_rng(0).random(heats["SCOUTER attention"].shape)
    rows = []
    for name, heat in heats.items():
        areas = [*curve_areas(scouter, x, heat), *curve_areas(model, x, heat)]
        rows.append([name, *(f"{area:.3f}" for area in areas)])
        say(" ".join(rows[-1]))
    heads = ("map", "SCOUTER: deletion", "insertion", "classifier: deletion", "insertion")
    return table(heads, rows)


def draw_fashion(models: dict[tuple[str, float], Model], tested: Samples, work: Path) -> None:
    """Sheets for looking at, kept in the work folder."""
    chosen = [int(np.flatnonzero(tested.labels == k)[0]) for k in range(10)]
    columns = [(m, t) for m in (("positive", 0.0), ("positive", 1.0), ("positive", 10.0)) for t in ("top1",)]
    columns += [(("negative", 1.0), t) for t in ("top1", "least")]
    sheet(models, [tested.pictures[i] for i in chosen], columns).save(work / "fashion.png")


def sheet(
    models: dict[tuple[str, float], Model],
    pictures: Sequence[object],
    columns: Sequence[tuple[tuple[str, float], str]],
) -> Image.Image:
    """Maps of several files and targets beside each picture."""
    drawn = [[onnxvis.explain(models[m], picture, "scouter", t) for m, t in columns] for picture in pictures]
    scales = {
        sign: Scale.for_maps([e.attribution for row in drawn for e, (m, _) in zip(row, columns, strict=True)
                              if m[0] == sign], signed=sign == "negative", units="contribution to the logit")
        for sign in {m[0] for m, _ in columns}
    }  # fmt: skip
    heads = [SheetColumn(f"{m[0]}, lambda {m[1]:g}: {t}", scales[m[0]]) for m, t in columns]
    rows = []
    for row in drawn:
        picture = row[0].drawable()[0]
        cells = [SheetCell(e.drawable()[1], f"{e.target} {e.score:+.2f}") for e in row]
        rows.append(SheetRow(row[0].target, picture, cells))
    return contact_sheet(rows, heads, cell=150)


# --- vessels -----------------------------------------------------------------------------------------


def drawn_vessels(work: Path, epochs: int, pictures: bool) -> dict[str, str]:
    train, test = vessels(3000, 0), vessels(1000, 1)
    blocks = (block(1, 12), block(12, 24, 2), block(24, 32), block(32, 32, 2))
    path = deployed("vessels", blocks, train.x, train.y, 8, work)
    model = onnxvis.load(path, preprocessing=GRAY, labels=VESSELS, provider="cpu")
    fitted = samples_of(list(train.x), train.y, VESSELS, "training pictures")
    tested = samples_of(list(test.x), test.y, VESSELS, "test pictures")
    linear, models, rows = linear_accuracy(model, fitted, tested, work), {}, []
    for explanation in ("positive", "negative"):
        training = TrainingSettings(epochs=epochs, patience=epochs, device="cpu")
        done = fit(model, fitted, work, head=HeadSettings(explanation, dim=32), training=training, batch_size=64)
        models[explanation, 1.0] = onnxvis.load(done.proto, provider="cpu")
        _, logits, maps, contributions = maps_of(models[explanation, 1.0], tested)
        say(f"vessels, {explanation}: accuracy {(logits.argmax(1) == tested.labels).mean():.3f}, linear {linear:.3f}")
        accuracy = float((logits.argmax(1) == tested.labels).mean())
        rows += part_rows(explanation, test, maps, contributions, accuracy)
    if pictures:
        chosen = [test.x[np.flatnonzero(test.y == k)[1]] for k in range(4)]
        columns = [(("positive", 1.0), "top1"), *((("negative", 1.0), name) for name in VESSELS)]
        image = sheet(models, chosen, columns)
        target = PAGE.parent.parent / "images" / "scouter.png"
        image.save(target, optimize=True)
        say(f"drew {target}")
    heads = (
        "explanation",
        "accuracy",
        "of which class, on which pictures",
        "map on",
        "part of the attention",
        "of the contribution",
        "of the picture",
    )
    return {"vessels": f"{table(heads, rows)}\n\nLinear head on the same features: accuracy {linear:.3f}."}


def part_rows(
    explanation: str, test: Vessels, maps: np.ndarray, contributions: np.ndarray, accuracy: float
) -> list[list[str]]:
    """How much of the maps lies on the part in which two classes differ."""
    rows = []
    questions = (
        [("mug", "mug", test.handles), ("jug", "jug", test.spouts)]
        if explanation == "positive"
        else [("glass", "mug", test.handles), ("glass", "jug", test.spouts), ("jug", "kettle", test.handles),
              ("mug", "kettle", test.spouts)]
    )  # fmt: skip
    for asked, shown, parts in questions:
        chosen = test.y == VESSELS.index(shown)
        wide = np.stack([_grown(part) for part in parts[chosen]])
        on_part, weighed = (share(m[chosen, VESSELS.index(asked)], wide) for m in (maps, contributions))
        what = "handle" if parts is test.handles else "spout"
        rows.append([explanation, f"{accuracy:.3f}", f"{asked}, on every {shown}", what, f"{on_part:.2f}",
                     f"{weighed:.2f}", f"{wide.mean():.2f}"])  # fmt: skip
        say(" ".join(rows[-1]))
    return rows


def _grown(mask: np.ndarray, by: int = 2) -> np.ndarray:
    """A mask with a rim of half a place of the feature map."""
    padded = np.pad(mask, by)
    size = 2 * by + 1
    return np.lib.stride_tricks.sliding_window_view(padded, (size, size)).any((2, 3))


# --- all of it ---------------------------------------------------------------------------------------


def write(tables: dict[str, str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, body in tables.items():
        pattern = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda match, body=body: f"{match[1]}{body}\n{match[2]}", text)  # type: ignore[misc]
    PAGE.write_text(text, encoding="utf-8")
    say(f"wrote {PAGE.name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=cache_folder() / "benchmark-scouter")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["fashion", "vessels"])
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    parser.add_argument("--pictures", action="store_true", help="draw the page's pictures")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[-given.threads :]))
    given.work.mkdir(parents=True, exist_ok=True)
    tables: dict[str, str] = {}
    if given.only != "fashion":
        tables |= drawn_vessels(given.work, given.epochs * 3, given.pictures)
    if given.only != "vessels":
        tables |= fashion(given.work, given.epochs)
    for name, body in tables.items():
        print(f"\n{name}\n{body}")
    if given.write:
        write(tables)
    say("done")
    return 0


START = time.perf_counter()
if __name__ == "__main__":
    sys.exit(main())
