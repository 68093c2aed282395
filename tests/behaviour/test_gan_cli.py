"""`onnxvis gan` from file to page."""

import base64
import hashlib
import json
import re

import numpy as np
import onnx
import pytest
from PIL import Image
from support.gan import SIDE, squares_model

from onnxvis.behaviour.gan.drawing import before_after, difference_of, outlined, picture_grid
from onnxvis.behaviour.gan.pages import Figure, Section, Table, build_gallery
from onnxvis.cli.console import run
from onnxvis.errors import UsageError


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gan") / "squares.onnx"
    onnx.save(squares_model(), path)
    return path


@pytest.fixture(scope="module")
def dissected(file):
    folder = file.parent / "dissected"
    arguments = ["gan", "dissect", str(file), "--samples", "120", "--concepts", "red,green,blue"]
    assert run([*arguments, "-o", str(folder), "-q"]) == 0
    return folder


def policy_holds(page):
    """No script, no address, and the one style is the one that the policy names."""
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    named = re.search(r"style-src 'sha256-([^']+)'", page)[1]
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    return base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() == named


def test_dissect_writes_a_page_and_every_number(dissected):
    manifest = json.loads((dissected / "manifest.json").read_text())
    assert [manifest["concepts"][c]["ranked"][0]["unit"] for c in ("red", "green", "blue")] == [0, 1, 2]
    assert {"red.png", "green.png", "blue.png", "index.html"} <= set(manifest["files"])
    page = (dissected / "index.html").read_text()
    assert policy_holds(page)
    assert "G above R and above B by more than 12" in page
    assert (dissected / "dissection.npz").exists()


def test_layers_are_listed(file, capsys):
    assert run(["gan", "dissect", str(file), "--layers"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"\*\s+features\s+6\s+16 x 16\s+Relu", said)


def test_ablate_takes_away_and_insert_adds(file, dissected, tmp_path, capsys):
    common = ["--concept", "green", "--top", "1", "--samples", "40", "-q", "--concepts", "red,green,blue"]
    common += ["--dissection", str(dissected)]
    assert run(["gan", "ablate", str(file), *common, "-o", str(tmp_path / "off")]) == 0
    off = json.loads((tmp_path / "off" / "manifest.json").read_text())
    chosen, others = (off[who]["concepts"]["green"] for who in ("chosen", "random"))
    assert off["chosen"]["units"] == [1]
    assert off["samples"] == [120, 160]
    assert chosen["drop"][0] == pytest.approx(chosen["presence"])
    assert chosen["drop"][0] > 10 * abs(others["drop"][0])
    place = ["--by", "effect", "--region", "0,0,0.5,1"]
    assert run(["gan", "insert", str(file), *common, *place, "-o", str(tmp_path / "on")]) == 0
    on = json.loads((tmp_path / "on" / "manifest.json").read_text())
    assert on["chosen"]["region"] == "0,0,0.5,1"
    assert on["chosen"]["concepts"]["green"]["gain"][0] > 0.3
    assert len(on["values"]) == 6
    assert policy_holds((tmp_path / "on" / "index.html").read_text())
    assert "the file's own bits" in capsys.readouterr().err


def test_units_by_number_need_no_dissection(file, tmp_path):
    out = str(tmp_path / "on")
    arguments = ["gan", "insert", str(file), "--units", "0", "--value", "1.5", "--samples", "8", "-q", "-o", out]
    assert run(arguments) == 0
    manifest = json.loads((tmp_path / "on" / "manifest.json").read_text())
    assert manifest["chosen"]["concepts"]["red"]["gain"][0] > 0.5


def test_repair_shows_samples_and_then_writes_the_file(file, tmp_path, capsys):
    target = tmp_path / "fixed.onnx"
    assert run(["gan", "repair", str(file), "-o", str(target)]) == 0
    assert "--bad NUMBERS" in capsys.readouterr().out
    assert not target.exists()
    assert Image.open(tmp_path / "fixed-pictures" / "Samples.png").size[0] > 1000
    assert run(["gan", "repair", str(file), "--units", "0", "-o", str(target), "-q"]) == 0
    assert "the same bits as the intervention" in capsys.readouterr().out
    assert len(onnx.load(target).graph.node) == len(squares_model().graph.node) + 1
    assert run(["gan", "repair", str(file), "--units", "0", "-o", str(file)]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ablate", "--units", "1", "--concept", "red"], "either --units NUMBERS or --concept"),
        (["ablate"], "either --units NUMBERS or --concept"),
        (["insert", "--units", "1"], "insertion needs a value"),
        (["ablate", "--units", "9"], "units 0 to 5, not 9"),
        (["ablate", "--units", "1", "--region", "1,1,0,0"], "TOP,LEFT,BOTTOM,RIGHT"),
        (["dissect", "--concepts", "rde"], "no built-in concept 'rde'"),
        (["dissect", "--input", "class=3"], "no input 'class'"),
        (["dissect", "--range", "1,0"], "rises from black to bright"),
        (["repair", "--bad", "3"], "at least two samples"),
        (["ablate", "--concept", "red", "--dissection", "nowhere"], "is no dissection"),
    ],
)
def test_wrong_wishes_are_named(file, tmp_path, capsys, arguments, words):
    command, *rest = arguments
    out = tmp_path / ("x.onnx" if command == "repair" else "x")
    assert run(["gan", command, str(file), *rest, "-o", str(out)]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_dissection_of_another_file_is_refused(dissected, tmp_path, capsys):
    other = tmp_path / "other.onnx"
    onnx.save(squares_model(latent="map"), other)
    arguments = ["gan", "ablate", str(other), "--concept", "red", "--dissection", str(dissected)]
    assert run([*arguments, "-o", str(tmp_path / "x")]) == 2
    assert "dissection of another file" in capsys.readouterr().err


def test_the_page_shows_hostile_strings_as_text():
    bad = "<script>x</script>\"'{{ 7 * 7 }}"
    image = Image.new("RGB", (4, 4))
    page = build_gallery(
        bad, {bad: bad}, [Section(bad, [bad], [Table([bad], [[bad]], bad)], [Figure(image, bad)])], [bad]
    )
    assert policy_holds(page)
    assert "{{ 7 * 7 }}" in page


def test_outlines_run_along_the_threshold():
    picture = np.full((8, 8, 3), 200, np.uint8)
    activation = np.zeros((8, 8), np.float32)
    activation[2:6, 2:6] = 1
    drawn = outlined(picture, activation, 0.5, cell=8)
    inside = np.zeros((8, 8), bool)
    inside[2:6, 2:6] = True
    core = np.zeros((8, 8), bool)
    core[3:5, 3:5] = True
    assert (drawn[core] == 200).all()
    assert (drawn[inside & ~core] == (255, 214, 10)).all()
    assert (drawn[0, 0] == 84).all()


def test_differences_are_mean_absolute_changes():
    before = np.zeros((2, 4, 4, 3), np.uint8)
    after = before.copy()
    after[0, 1, 1] = (30, 60, 0)
    moved = difference_of(before, after)
    assert moved[0, 1, 1] == 30
    assert moved.sum() == 30
    assert before_after(before, after, [4, 9], "t").size[1] > 3 * 128
    with pytest.raises(UsageError, match="no pictures"):
        picture_grid([])


def test_a_class_and_a_side_are_said_on_the_command_line(tmp_path):
    path = tmp_path / "conditional.onnx"
    onnx.save(squares_model(conditional=True), path)
    folder = tmp_path / "out"
    arguments = ["gan", "dissect", str(path), "--samples", "40", "--input", "class=1"]
    arguments += ["--concepts", "green", "--clusters", "2"]
    assert run([*arguments, "--truncation", "1.5", "-o", str(folder), "-q"]) == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert "class 1, as given" in manifest["generator"]["inputs"][1]
    assert sum(name.startswith("color-#") for name in manifest["concepts"]) == 2
    assert manifest["generator"]["picture"]["height"] == SIDE
