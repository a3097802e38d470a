"""What a TF-Transform SavedModel computes, as a hash that does not depend on who built it, when, or in what order.

TensorFlow is imported inside functions.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from transforms.errors import GraphError
from transforms.plain_paths import plain_path
from transforms.tensorflow_reach import stays_below

__all__ = ["model_hashes", "read_proto", "sha"]


def sha(*parts: bytes) -> bytes:
    """SHA-256 over the parts and their lengths."""
    h = hashlib.sha256()
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.digest()


class _Canonical:
    """Hashes what a SavedModel computes: each node by its operation, attributes and inputs, never by its name or place.

    Names, counters in function names, node order and debug information differ from build to build and are left out.
    """

    _IGNORED = frozenset({"_output_shapes", "_class", "shared_name", "container", "config_proto", "config", "executor_type"})

    def __init__(self, model: Path, proto: Any) -> None:
        graph = proto.meta_graphs[0]
        self.model = model
        self.objects = graph.object_graph_def
        self.assets = graph.asset_file_def
        self.functions = {f.signature.name: f for f in graph.graph_def.library.function}
        self.constants = {n.name: n for n in graph.graph_def.node}
        self._hashes: dict[str, bytes] = {}
        self._open: list[int] = []

    def digest(self) -> bytes:
        """The hash of ``transform_fn`` with everything that it captures."""
        for child in self.objects.nodes[0].children:
            if child.local_name == "transform_fn":
                return self._callable(child.node_id)
        raise GraphError(f"{self.model} is no TF-Transform graph: it has no transform_fn; write it with force_tf_compat_v1=False")

    def _callable(self, node_id: int) -> bytes:
        node = self.objects.nodes[node_id]
        names = (
            [node.bare_concrete_function.concrete_function_name]
            if node.HasField("bare_concrete_function")
            else sorted(node.function.concrete_functions)
        )
        parts = []
        for name in names:
            captured = self.objects.concrete_functions[name].bound_inputs
            parts += [self._function(name), *(self._captured(i) for i in captured)]
        return sha(b"callable", *parts)

    def _captured(self, node_id: int) -> bytes:
        node = self.objects.nodes[node_id]
        kind = node.WhichOneof("kind")
        if kind == "constant":
            return sha(b"constant", *self._attributes(self.constants[node.constant.operation]))
        if kind == "asset":
            name = self.assets[node.asset.asset_file_def_index].filename
            if not stays_below(name):
                raise ValueError(f"its asset {name!r} is not one of its own files")
            return sha(b"asset", (self.model / "assets" / name).read_bytes())
        if node_id in self._open:  # a table's initializer captures the table
            return sha(b"itself", str(self._open.index(node_id)).encode())
        self._open.append(node_id)
        parts = [b"object", str(kind).encode()]
        for child in sorted(node.children, key=lambda c: str(c.local_name)):
            if self.objects.nodes[child.node_id].WhichOneof("kind") in ("function", "bare_concrete_function"):
                parts += [child.local_name.encode(), self._callable(child.node_id)]
        self._open.pop()
        return sha(*parts)

    def _attributes(self, node: Any) -> list[bytes]:
        parts = [node.op.encode()]
        for key in sorted(node.attr):
            if key in self._IGNORED or key.startswith("_"):
                continue
            value = node.attr[key]
            if value.HasField("func"):
                text = self._function(value.func.name)
            elif value.list.func:
                text = sha(*(self._function(f.name) for f in value.list.func))
            else:
                text = value.SerializeToString(deterministic=True)
            parts += [key.encode(), text]
        return parts

    def _function(self, name: str) -> bytes:
        if name not in self._hashes:
            self._hashes[name] = self._hash_function(self.functions[name])
        return self._hashes[name]

    def _hash_function(self, function: Any) -> bytes:
        nodes = {n.name: n for n in function.node_def}
        done = {a.name: sha(b"argument", str(i).encode(), str(a.type).encode()) for i, a in enumerate(function.signature.input_arg)}

        def visit(start: str) -> None:  # depth first without recursion: graphs are deeper than Python's stack
            stack, looked = [start], set()
            while stack:
                name = stack[-1]
                if name in done:
                    stack.pop()
                    continue
                node = nodes[name]
                sources = [i.lstrip("^").split(":", 1)[0] for i in node.input]
                todo = [s for s in sources if s not in done]
                if todo:
                    if name in looked:
                        raise ValueError(f"{name} needs what needs it")
                    looked.add(name)
                    stack += todo
                    continue
                data = [sha(done[s], i.partition(":")[2].encode()) for s, i in zip(sources, node.input, strict=True) if i[0] != "^"]
                control = sorted(done[s] for s, i in zip(sources, node.input, strict=True) if i[0] == "^")
                done[name] = sha(*self._attributes(node), b"data", *data, b"control", *control)
                stack.pop()

        parts = []
        for arg in function.signature.output_arg:
            source, _, port = function.ret[arg.name].partition(":")
            visit(source)
            parts.append(sha(done[source], port.encode(), str(arg.type).encode()))
        for source in function.control_ret.values():
            visit(source)
        parts += sorted(done[s] for s in function.control_ret.values())
        return sha(b"function", *parts)


def read_proto(model: Path) -> Any:
    """The SavedModel's protocol buffer, which has a graph. Raises GraphError."""
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString((model / "saved_model.pb").read_bytes())
        if not proto.meta_graphs:
            raise ValueError("no graph is in it")
        return proto
    except Exception as error:  # google.protobuf raises DecodeError; a missing file is an OSError
        raise GraphError(f"transform graph {model}: saved_model.pb is missing or damaged ({error}); build it again") from None


def _variables(model: Path) -> bytes:
    prefix = model / "variables" / "variables"
    if not prefix.with_suffix(".index").exists():
        return b""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(plain_path(prefix)))
    parts = []
    for key in sorted(reader.get_variable_to_shape_map()):
        if key not in ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter/.ATTRIBUTES/VARIABLE_VALUE"):
            value = np.asarray(reader.get_tensor(key))
            parts += [key.encode(), str(value.dtype).encode(), repr(value.tolist()).encode() if value.dtype == object else value.tobytes()]
    return sha(*parts)


def model_hashes(model: Path) -> tuple[bytes, bytes]:
    """What the SavedModel in the folder ``model`` computes, and the values of its variables, as SHA-256. Raises GraphError."""
    proto = read_proto(model)
    try:
        return _Canonical(model, proto).digest(), _variables(model)
    except GraphError:
        raise
    except Exception as error:  # names that nothing has, files that are not there, functions that call themselves
        why = (str(error).splitlines() or [""])[0][:200]
        raise GraphError(f"transform graph {model}: it cannot be read ({type(error).__name__}: {why}); build it again") from None
