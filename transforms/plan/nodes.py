"""The nodes of a TensorFlow function, flattened: calls of other functions are put in place of the call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Node", "Ref", "UnsupportedError", "flattened"]

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


class UnsupportedError(Exception):
    """A plan cannot be made of this function; the message says why. It never reaches a user: TensorFlow is called instead."""


Ref = tuple[int, int]
"""(number of a node, which of its outputs)."""


@dataclass(frozen=True)
class Node:
    """One operation. ``attr`` maps names to AttrValue messages; ``inputs`` say where its arguments come from."""

    number: int
    op: str
    name: str
    attr: Mapping[str, Any]
    inputs: tuple[Ref, ...]


def flattened(graph: Any, outputs: Sequence[str]) -> tuple[list[Node], list[Ref], dict[str, int]]:
    """(nodes in an order in which they can run, where the ``outputs`` come from, number of each placeholder by its name).

    ``graph`` is a GraphDef with its library; an output is called ``node:0``. Only what the outputs need is there,
    with what has to run before. Raises UnsupportedError.
    """
    flat = _Flat({f.signature.name: f for f in graph.library.function})
    scope = _Scope({n.name: n for n in graph.node}, {}, by_name=False)
    refs = [flat.ref(scope, name) for name in outputs]
    return flat.nodes, refs, flat.placeholders


class _Scope:
    """The nodes of one function's body and the arguments it is called with."""

    def __init__(self, nodes: dict[str, Any], arguments: dict[str, Ref], by_name: bool) -> None:
        self.nodes = nodes
        self.arguments = arguments
        self.by_name = by_name
        """Whether an input is called ``node:output:index`` (in a function) or ``node:index`` (in a graph)."""
        self.done: dict[str, Node | list[Ref]] = {}
        """The outputs of a call, or a node, by the name of the node."""


class _Flat:
    def __init__(self, library: dict[str, Any]) -> None:
        self.library = library
        self.nodes: list[Node] = []
        self.placeholders: dict[str, int] = {}

    def ref(self, scope: _Scope, text: str) -> Ref:
        """Where the value called ``text`` comes from, with all that it needs flattened before it."""
        name, _, rest = text.partition(":")
        if name in scope.arguments:
            return scope.arguments[name]
        if name not in scope.done:
            self._visit(scope, name)
        found = scope.done[name]
        if isinstance(found, list):
            return found[self._index(scope, rest)]
        return found.number, self._index(scope, rest)

    @staticmethod
    def _index(scope: _Scope, rest: str) -> int:
        # In a function an output has a name; of what plans know, each operation has one output, or one list of them.
        return int((rest.partition(":")[2] if scope.by_name else rest) or 0)

    def _visit(self, scope: _Scope, start: str) -> None:
        stack = [start]  # without recursion: graphs are deeper than Python's stack; calls nest only a few deep
        while stack:
            name = stack[-1]
            if name in scope.done:
                stack.pop()
                continue
            node = scope.nodes.get(name)
            if node is None:
                raise UnsupportedError(f"there is no node {name!r}")
            # What only has to run before it counts as well: a plan of a function with an effect is refused over that node.
            sources = [text.lstrip("^").partition(":")[0] for text in node.input]
            sources = [s for s in sources if s not in scope.done and s not in scope.arguments]
            if sources:
                if len(stack) > 100_000:
                    raise UnsupportedError("the graph has a loop")
                stack += sources
                continue
            scope.done[name] = self._call(scope, node) if node.op in _CALLS else self._plain(scope, node)
            stack.pop()

    def _plain(self, scope: _Scope, node: Any) -> Node:
        inputs = tuple(self.ref(scope, text) for text in node.input if text[0] != "^")
        made = Node(len(self.nodes), node.op, node.name, node.attr, inputs)
        self.nodes.append(made)
        if node.op == "Placeholder":
            self.placeholders[node.name] = made.number
        return made

    def _call(self, scope: _Scope, node: Any) -> list[Ref]:
        function = self.library.get(node.attr["f"].func.name)
        if function is None:
            raise UnsupportedError(f"the function {node.attr['f'].func.name!r} is not there")
        given = [self.ref(scope, text) for text in node.input if text[0] != "^"]
        names = [a.name for a in function.signature.input_arg]
        inner = _Scope({n.name: n for n in function.node_def}, dict(zip(names, given, strict=True)), by_name=True)
        for control in function.control_ret.values():
            self._visit(inner, control)
        return [self.ref(inner, function.ret[a.name]) for a in function.signature.output_arg]
