"""Reading an ONNX file safely: what it is, what it needs beside it, and its fingerprint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, numpy_helper

from onnxvis.errors import ModelError

__all__ = ["ModelFile", "read_model", "with_weights"]

_CHUNK = 1 << 22
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A model as it was found.

    Attributes:
        proto: the graph; tensors with external data still point to their files.
        path: where it was read from, if from a file.
        data_folder: folder of the external data, if the graph has any.
        sha256: fingerprint of the bytes of the .onnx file.
        external: fingerprint of each external data file, by its name relative to the folder.
    """

    proto: onnx.ModelProto
    path: Path | None
    data_folder: Path | None
    sha256: str
    external: Mapping[str, str] = field(default_factory=dict)


def read_model(source: str | os.PathLike[str] | bytes | onnx.ModelProto) -> ModelFile:
    """Read a model from a path, from bytes, or take a ``ModelProto``.

    External data must lie in the folder of the file or below it; a path that leaves the folder, also
    through a symbolic link, is refused. Where the file itself is a link, as in the cache of Hugging Face, its data
    may lie with what it points to.

    Raises:
        ModelError: missing, unreadable, truncated, not an ONNX model, weights missing or not numbers.
    """
    path: Path | None = None
    if isinstance(source, onnx.ModelProto):
        proto, data = source, source.SerializeToString(deterministic=True)
    elif isinstance(source, bytes):
        proto, data = _parse(source, "the bytes given"), source
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        data = _read(path)
        proto = _parse(data, str(path))
    else:
        raise ModelError(f"a {type(source).__name__} is not a model: give a path, bytes or an onnx.ModelProto.")
    where = str(path) if path else "the model"
    _check_graph(proto, where)
    external = _external_files(proto, path, where)
    folder = path.parent if path and external else None
    if folder is not None and not all(_inside(file, folder) for file in external.values()):
        proto, folder = _with_linked(proto, external), None  # onnxruntime follows no link out of the folder
    _check_weights(proto, folder, where)
    digests = {name: _digest(file) for name, file in external.items()}
    return ModelFile(proto, path, folder, hashlib.sha256(data).hexdigest(), digests)


def with_weights(file: ModelFile) -> onnx.ModelProto:
    """The graph with every weight in memory."""
    if file.data_folder is None:
        return file.proto
    proto = onnx.ModelProto()
    proto.CopyFrom(file.proto)
    external_data_helper.load_external_data_for_model(proto, str(file.data_folder))
    return proto


def _read(path: Path) -> bytes:
    if path.is_dir():
        found = sorted(p.name for p in path.glob("*.onnx"))
        hint = f" It contains: {', '.join(found[:5])}." if found else ""
        raise ModelError(f"{path} is a folder, not an ONNX file.{hint}")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"there is no file {path}. Check the path.") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}.") from error


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    kinds = {
        b"PK\x03\x04": "a zip archive (perhaps a PyTorch checkpoint: export it with torch.onnx.export)",
        b"\x89HDF": "an HDF5 file (perhaps Keras: export it with model.export(format='onnx'))",
        b"\x80\x02": "a Python pickle",
        b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull`",
    }
    for magic, what in kinds.items():
        if data.startswith(magic):
            raise ModelError(f"{where} is not an ONNX model: it is {what}.")
    if data[4:8] == b"ORTM":
        raise ModelError(f"{where} is in onnxruntime's own .ort format; onnxvis needs the .onnx file it was made from.")
    if not data:
        raise ModelError(f"{where} is empty.")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError has moved between its versions
        raise ModelError(
            f"{where} is not an ONNX model, or it is truncated ({len(data):,} bytes read): {error}. "
            "Copy or export the file again."
        ) from error
    return proto


def _check_graph(proto: onnx.ModelProto, where: str) -> None:
    if not proto.graph.node or not proto.graph.output:
        raise ModelError(
            f"{where} holds no graph with nodes and outputs, so it is not an ONNX model, or it is truncated. "
            "Copy or export the file again."
        )
    _check_text(proto, where)
    if not proto.opset_import:
        raise ModelError(f"{where} imports no operator set; the file is damaged. Export it again.")


def _check_text(proto: onnx.ModelProto, where: str) -> None:
    """Refuse names that are not text: protobuf hands out bytes where a string field is not UTF-8."""
    words: list[object] = [proto.producer_name, proto.producer_version, proto.graph.name]
    words += [word for entry in proto.metadata_props for word in (entry.key, entry.value)]
    words += [entry.domain for entry in proto.opset_import]
    for graph in _graphs(proto.graph):
        words += [value.name for value in (*graph.input, *graph.output, *graph.value_info)]
        words += [tensor.name for tensor in graph.initializer]
        for node in graph.node:
            words += [node.name, node.op_type, node.domain, *node.input, *node.output]
            words += [attribute.name for attribute in node.attribute]
        for value in (*graph.input, *graph.output):
            words += [dim.dim_param for dim in value.type.tensor_type.shape.dim]
    broken = next((word for word in words if not isinstance(word, str)), None)
    if broken is not None:
        raise ModelError(f"{where} is damaged: the name {broken!r} is not text (UTF-8). Copy or export the file again.")


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those of its control flow."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                if body.node:
                    yield from _graphs(body)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for body in (attribute.g, *attribute.graphs):
                yield from _tensors(body)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.HasField("data_location") and tensor.data_location == TensorProto.EXTERNAL)


def _external_files(proto: onnx.ModelProto, path: Path | None, where: str) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for tensor in _tensors(proto.graph):
        if not _is_external(tensor):
            continue
        info = {entry.key: entry.value for entry in tensor.external_data}
        name = info.get("location", "")
        if path is None:
            raise ModelError(
                f"weight {tensor.name!r} is stored in an external file ({name!r}), but the model was given without "
                "a path. Open the .onnx file by its path, or load the weights into it first."
            )
        if name not in files:
            files[name] = _safe_path(path, name, tensor.name, where)
        end = int(info.get("offset", 0) or 0) + int(info.get("length", 0) or 0)
        size = files[name].stat().st_size
        if end > size:
            raise ModelError(
                f"external data file {files[name]} is too short: weight {tensor.name!r} ends at byte {end:,}, the "
                f"file has {size:,}. Copy it again."
            )
    return files


def _safe_path(path: Path, name: str, tensor: str, where: str) -> Path:
    homes = [path.parent, *([path.resolve().parent] if path.is_symlink() else [])]
    relative = bool(name) and "\x00" not in name and not Path(name).is_absolute() and ".." not in Path(name).parts
    found = next((home / name for home in homes if relative and (home / name).is_file()), path.parent / name)
    if not relative or not any(_inside(found, home) for home in homes):
        raise ModelError(
            f"{where}: weight {tensor!r} points to external data outside the model's folder ({name!r}); that is "
            "refused for safety. Put the data file beside the .onnx file and save the model with a relative name."
        )
    if not found.is_file():
        raise ModelError(
            f"{where}: external data file {name!r} is missing from {path.parent} (weight {tensor!r} is stored in it). "
            "Copy it beside the .onnx file."
        )
    return found


def _inside(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())


def _with_linked(proto: onnx.ModelProto, files: Mapping[str, Path]) -> onnx.ModelProto:
    """The graph with the weights of its external files in memory."""
    loaded = onnx.ModelProto()
    loaded.CopyFrom(proto)
    for tensor in _tensors(loaded.graph):
        if _is_external(tensor):
            info = {entry.key: entry.value for entry in tensor.external_data}
            with files[info["location"]].open("rb") as stream:
                stream.seek(int(info.get("offset", 0) or 0))
                tensor.raw_data = stream.read(int(info["length"]) if info.get("length") else -1)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    return loaded


def _check_weights(proto: onnx.ModelProto, folder: Path | None, where: str) -> None:
    """Refuse weights that are damaged or not numbers: every map made with them would be empty or wrong."""
    for tensor in proto.graph.initializer:
        if tensor.data_type not in _FLOATS:
            continue
        try:
            values = numpy_helper.to_array(tensor, str(folder or ""))
        except Exception as error:  # numpy_helper raises what numpy raises
            raise ModelError(f"{where}: weight {tensor.name!r} is damaged: {error}. Export the file again.") from error
        if values.size and np.isnan(np.min(values.astype(np.float32, copy=False))):
            count = int(np.isnan(values.astype(np.float32, copy=False)).sum())
            raise ModelError(
                f"{where}: weight {tensor.name!r} holds {count:,} NaN of {values.size:,} values, so the model's "
                "answers mean nothing. The training diverged or the export broke: export it again."
            )


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
