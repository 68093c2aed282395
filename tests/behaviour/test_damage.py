"""Files that were cut short, deleted, or written out of order."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.formats import convnet, quantized
from support.scouter import classifier, digits, opened

import onnxvis
from onnxvis.behaviour.scouter import TrainingSettings, fit
from onnxvis.behaviour.scouter.joining import trunk_of
from onnxvis.cli.console import run
from onnxvis.errors import OnnxvisError, UsageError


@pytest.mark.parametrize("part", ["data/*.lance", "_versions/*.manifest"])
@pytest.mark.parametrize("how", ["cut", "empty", "gone"])
def test_a_damaged_table_is_said_in_words(
    room: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str, how: str
) -> None:
    from onnxvis.behaviour.index import Store

    folder = tmp_path / "store"
    shutil.copytree(room.folder / "store", folder)
    for path in (folder / "pictures.lance").glob(part):
        data = path.read_bytes()
        path.unlink() if how == "gone" else path.write_bytes(data[: len(data) // 2] if how == "cut" else b"")
    if (part, how) == ("_versions/*.manifest", "gone"):
        assert Store.open(folder).pictures() == []
    else:
        with pytest.raises(OnnxvisError, match=r"cannot be read .*delete the store and index again"):
            Store.open(folder).embeddings()
    assert run(["project", str(folder), "-o", str(tmp_path / "out"), "-q"]) == 2
    assert "error:" in capsys.readouterr().err


def test_nodes_out_of_order_are_brought_into_one() -> None:
    proto = classifier()
    reversed_nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(reversed_nodes)
    model = opened(proto)
    layer = model.head.cam_layer or ""
    trunk = trunk_of(proto, model.image_input.name, layer)
    known = {model.image_input.name, *(t.name for t in trunk.graph.initializer), ""}
    for node in trunk.graph.node:
        assert set(node.input) <= known
        known |= set(node.output)
    x = np.random.default_rng(0).random(model.one_image_shape(), np.float32)
    inner = onnx.ModelProto()
    inner.CopyFrom(trunk)
    session = onnxvis.load(proto, provider="cpu").engine.forward(x, (layer,))[layer]
    import onnxruntime

    found = onnxruntime.InferenceSession(inner.SerializeToString()).run([layer], {model.image_input.name: x})[0]
    np.testing.assert_array_equal(found, session)


def test_the_backbone_of_an_8_bit_file_is_not_trained(tmp_path: Path) -> None:
    model = onnxvis.load(quantized(convnet(), "qdq"), preprocessing="unit", provider="cpu")
    with pytest.raises(UsageError, match="computes in 8 bits"):
        fit(model, digits(12), tmp_path, training=TrainingSettings(epochs=1), train_backbone=True)


def test_a_table_that_is_written_anew_is_read_from_its_next_version(room: Any, tmp_path: Path) -> None:
    import datetime

    import lance

    from onnxvis.behaviour.index import Store

    folder = tmp_path / "store"
    shutil.copytree(room.folder / "store", folder)
    store = Store.open(folder)
    assert store._table is not None  # opened at this version
    table = lance.dataset(str(folder / "pictures.lance"))
    rows = table.to_table()
    lance.write_dataset(rows, str(folder / "pictures.lance"), mode="overwrite")
    lance.dataset(str(folder / "pictures.lance")).cleanup_old_versions(
        older_than=datetime.timedelta(0), delete_unverified=True
    )
    ids, vectors = store.embeddings()
    expected = room.store.embeddings()
    np.testing.assert_array_equal(ids, expected[0])
    np.testing.assert_array_equal(vectors, expected[1])
