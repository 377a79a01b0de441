"""A streamed GraphML parser that follows nothing outside the file."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from typing import Any, NoReturn
from xml.parsers import expat

import numpy as np

from graphnn.errors import FormatError
from graphnn.io.graphml_lines import END, EdgeLines, Key, Number
from graphnn.labelled import Labelled

# expat writes a name in a namespace as the namespace, this character and the name.
_SPACE = " "
_NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
_DATA = frozenset({"data", f"{_NAMESPACE}{_SPACE}data"})
# What Python's expat decodes without asking a codec, whose failures would name no place.
_ENCODINGS = ("utf-8", "utf-16", "iso-8859-1", "us-ascii")
_INTEGERS = ("int", "integer", "long", "short", "byte")
_REALS = ("float", "double")
_LARGEST_INDEX = 2**62
_BLOCK = 1 << 16

Attributes = dict[str, str]
_Start = Callable[[str, Attributes], None]
_End = Callable[[str], None]


# The attributes that make a network, in each scope, and their types whatever the file declares.
_WANTED: dict[str, dict[str, Number | None]] = {
    "graph": {"graphnn": None},
    "node": {"index": int, "activation": None, "bias": float, "role": None, "label": None},
    "edge": {"index": int, "weight": float},
}


def parse(path: str | os.PathLike[str]) -> Labelled:
    """Reads a GraphML file.

    Args:
        path: The file.

    Returns:
        Its one directed graph, by node ids.

    Raises:
        FormatError: The file is not well-formed XML, declares a document type, or is not GraphML
            of one directed graph without hyperedges, ports and nested graphs; the message names
            the file, line and column.
        OSError: The file cannot be read.
    """
    return _Parser(path).run()


class _Parser:
    """The state between expat's calls."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.expat = expat.ParserCreate(namespace_separator=_SPACE)
        self.expat.buffer_text = True
        self.listen(self.start, self.end)
        self.expat.XmlDeclHandler = self.declaration
        self.expat.StartDoctypeDeclHandler = self.doctype
        # Text gathers here, and is dropped where a value begins.
        self.text: list[str] = []
        self.expat.CharacterDataHandler = self.text.append

        self.stack: list[str] = []
        # Depth within an element that is of no concern.
        self.ignored = 0
        self.keys: dict[str, dict[str, Key]] = {scope: {} for scope in _WANTED}
        self.defaults: dict[str, dict[str, Any]] = {scope: {} for scope in _WANTED}
        self.declared: tuple[list[str], str] = ([], "")
        self.key: Key | None = None
        self.values: dict[str, Any] = {}
        self.graph_values: dict[str, Any] = {}
        self.graphs = 0

        self.place: dict[str, int] = {}
        self.nodes: dict[str, list[Any]] = {name: [] for name in _WANTED["node"]}
        self.ends: tuple[str, str] = ("", "")
        self.edge_ids: set[str] = set()
        self.source, self.target = array("q"), array("q")
        self.weight, self.weighted, self.index = array("d"), array("b"), array("q")
        # Edges that stand before their nodes: (edge, source, target, line, column).
        self.early: list[tuple[int, str, str, int, int]] = []
        # What reads runs of edges, in which the parser's share is the bytes up to `fed`.
        self.fed, self.edge_end, self.after_edge = 0, -1, False
        self.lines: EdgeLines | None = None
        self.place_of: dict[bytes, int] = {}
        self.in_node, self.in_edge = self.item_handlers("node"), self.item_handlers("edge")

    def run(self) -> Labelled:
        try:
            with open(self.path, "rb") as file:
                # Blocks that end with a line, where lines are of a usual length.
                while block := file.read(_BLOCK) + file.readline(_BLOCK):
                    self.feed(self.take_lines(block))
                self.expat.Parse(b"", True)
        except expat.ExpatError as error:
            reason = expat.errors.messages[error.code]
            self.refuse(f"the file must be well-formed XML ({reason}).", error.lineno, error.offset)
        if not self.graphs:
            self.refuse("the file must hold a graph element.")
        for edge, source, target, line, column in self.early:
            for label in (source, target):
                if label not in self.place:
                    self.refuse(
                        f"an edge must join nodes, but there is no node {label!r}.", line, column
                    )
            self.source[edge], self.target[edge] = self.place[source], self.place[target]
        if not self.place:
            self.refuse("the graph must have at least one node.")
        # The arrays are the parser's own: no copy.
        return Labelled(
            labels=list(self.place),
            source=np.frombuffer(self.source, np.int64),
            target=np.frombuffer(self.target, np.int64),
            weight=np.frombuffer(self.weight, np.float64),
            weighted=np.frombuffer(self.weighted, np.bool_),
            edge_index=np.frombuffer(self.index, np.int64),
            nodes=self.nodes,
            header=self.graph_values.get("graphnn"),
        )

    def feed(self, block: bytes) -> None:
        """Gives bytes to the parser, and sees whether they end with a plain edge."""
        if not block:
            return
        self.expat.Parse(block, False)
        self.fed += len(block)
        # Only where the tag is not inside a comment or the like was `end_edge` called for it.
        self.after_edge = block.endswith(END) and self.edge_end == self.fed - len(END)
        if self.after_edge:
            template = block[block.rfind(b"\n", 0, -1) + 1 :]
            self.lines = EdgeLines.like(template, self.keys["edge"])

    def take_lines(self, block: bytes) -> bytes:
        """Reads edges from the start of a block without the parser; returns what is left of it."""
        if not self.after_edge or self.lines is None:
            return block
        if len(self.place_of) < len(self.place):
            self.place_of = {label.encode(): place for label, place in self.place.items()}
        run = self.lines.read(block, self.place_of)
        if run is None:
            return block
        self.source.extend(run.source)
        self.target.extend(run.target)
        self.index.extend(run.index)
        self.weight.extend(run.weight)
        self.weighted.extend([True] * len(run.weight))
        # The parser counts lines. Between elements they are all that these were to it.
        passed = b"\n" * len(run.weight)
        self.expat.Parse(passed, False)
        self.fed += len(passed)
        return block[run.length :]

    def refuse(self, message: str, line: int | None = None, column: int | None = None) -> NoReturn:
        line = self.expat.CurrentLineNumber if line is None else line
        column = self.expat.CurrentColumnNumber if column is None else column
        raise FormatError(f"{self.path}, line {line}, column {column + 1}: {message}")

    def listen(self, start: _Start, end: _End) -> None:
        self.expat.StartElementHandler = start
        self.expat.EndElementHandler = end

    def item_handlers(self, scope: str) -> tuple[_Start, _End]:
        """Handlers for the inside of a node or edge, of which there may be millions.

        They know plain values only, and leave all else, and all refusals, to `start` and `end`.
        """
        keys, text = self.keys[scope], self.text
        key: Key | None = None

        def start(name: str, attributes: Attributes) -> None:
            nonlocal key
            if key is None and name in _DATA:
                key = keys.get(attributes.get("key", ""))
                if key is not None:
                    text.clear()
                    return
            self.listen(self.start, self.end)
            if key is not None:
                self.stack.append("data")
                self.key, key = key, None
            self.start(name, attributes)

        def end(name: str) -> None:
            nonlocal key
            if key is None:
                self.listen(self.start, self.end)
                self.end(name)
            elif key.wanted:
                self.values[key.name] = self.value(key)
            elif key.convert is not None:
                # `value` without the call: five of an edge's seven values only have to be numbers.
                try:
                    key.convert("".join(text))
                except ValueError:
                    self.value(key)
            key = None

        return start, end

    def declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            self.refuse(f"the file must be encoded in UTF-8 (got {encoding!r}).")

    def doctype(self, name: str, *_: Any) -> None:
        self.refuse(
            "a GraphML file must not declare a document type or entities (got "
            f"<!DOCTYPE {name} ...>). Remove the declaration."
        )

    def start(self, name: str, attributes: Attributes) -> None:
        if self.ignored:
            self.ignored += 1
            return
        space, _, local = name.rpartition(_SPACE)
        parent = self.stack[-1] if self.stack else ""
        if parent == "data" or (parent and space not in ("", _NAMESPACE)):
            # A program's own drawing; what a value is does not depend on it.
            self.ignored = 1
            return
        handler = _START.get((parent, local)) if space in ("", _NAMESPACE) else None
        if handler is None:
            self.refuse(
                _REFUSED.get(local, f"{_where(parent)} must not hold the element {local!r}.")
            )
        self.stack.append(local)
        handler(self, attributes)

    def end(self, name: str) -> None:
        if self.ignored:
            self.ignored -= 1
            return
        local = self.stack.pop()
        handler = _END.get(local)
        if handler is not None:
            handler(self)

    def take(self, attributes: Attributes, name: str, element: str) -> str:
        value = attributes.get(name)
        if value is None:
            self.refuse(f"a {element} element must have the attribute {name!r}.")
        return value

    def start_nothing(self, attributes: Attributes) -> None:
        pass

    def start_ignored(self, attributes: Attributes) -> None:
        self.stack.pop()
        self.ignored = 1

    def start_key(self, attributes: Attributes) -> None:
        identity = self.take(attributes, "id", "key")
        scope = attributes.get("for", "all")
        name = attributes.get("attr.name", identity)
        kind = attributes.get("attr.type", "string").lower()
        convert = int if kind in _INTEGERS else float if kind in _REALS else None
        scopes = list(_WANTED) if scope == "all" else [scope]
        for own in scopes:
            keys = self.keys.setdefault(own, {})
            if identity in keys:
                self.refuse(f"the id of a key must be its own, but {identity!r} occurs twice.")
            wanted = _WANTED.get(own, {})
            # A yEd drawing may be called anything.
            if name in wanted and "yfiles.type" not in attributes:
                keys[identity] = Key(name, True, wanted[name])
            else:
                keys[identity] = Key(name, False, convert)
        self.declared = (scopes, identity)

    def start_default(self, attributes: Attributes) -> None:
        self.text.clear()

    def end_default(self) -> None:
        scopes, identity = self.declared
        for scope in scopes:
            key = self.keys[scope][identity]
            value = self.value(key)
            if key.wanted:
                self.defaults.setdefault(scope, {})[key.name] = value

    def start_graph(self, attributes: Attributes) -> None:
        self.graphs += 1
        if self.graphs > 1:
            self.refuse("a file must hold one graph, and this is its second.")
        kind = self.take(attributes, "edgedefault", "graph")
        if kind != "directed":
            self.refuse(f"a graph must be directed (got edgedefault={kind!r}).")

    def start_node(self, attributes: Attributes) -> None:
        identity = self.take(attributes, "id", "node")
        if identity in self.place:
            self.refuse(f"the id of a node must be its own, but {identity!r} occurs twice.")
        self.place[identity] = len(self.place)
        self.values = self.defaults["node"].copy()
        self.listen(*self.in_node)

    def end_node(self) -> None:
        for name, column in self.nodes.items():
            column.append(self.values.get(name))

    def start_edge(self, attributes: Attributes) -> None:
        source = self.take(attributes, "source", "edge")
        target = self.take(attributes, "target", "edge")
        if attributes.get("directed", "true") != "true":
            self.refuse(f"the edge {source!r} -> {target!r} must be directed.")
        if "sourceport" in attributes or "targetport" in attributes:
            self.refuse(f"the edge {source!r} -> {target!r} must join nodes, not ports.")
        if "id" in attributes:
            identity = attributes["id"]
            if identity in self.edge_ids:
                self.refuse(f"the id of an edge must be its own, but {identity!r} occurs twice.")
            self.edge_ids.add(identity)
        self.ends = (source, target)
        self.values = self.defaults["edge"].copy()
        self.listen(*self.in_edge)

    def end_edge(self) -> None:
        source, target = self.ends
        self.edge_end = self.expat.CurrentByteIndex
        ends = self.place.get(source, -1), self.place.get(target, -1)
        if -1 in ends:
            line, column = self.expat.CurrentLineNumber, self.expat.CurrentColumnNumber
            self.early.append((len(self.source), source, target, line, column))
        self.source.append(ends[0])
        self.target.append(ends[1])
        weight = self.values.get("weight")
        self.weight.append(0.0 if weight is None else weight)
        self.weighted.append(weight is not None)
        self.index.append(self.values.get("index", -1))

    def start_data(self, attributes: Attributes) -> None:
        scope = self.stack[-2]
        identity = self.take(attributes, "key", "data")
        self.key = self.keys.get(scope, {}).get(identity)
        # What a program keeps of the whole document, such as yEd's pictures, declares itself as
        # it likes.
        if self.key is None and scope != "graphml":
            self.refuse(
                f"data must be of a declared key, but no {scope} key is called {identity!r}."
            )
        self.text.clear()

    def end_data(self) -> None:
        key = self.key
        if key is None:
            return
        if key.wanted:
            values = self.graph_values if self.stack[-1] == "graph" else self.values
            values[key.name] = self.value(key)
        elif key.convert is not None:
            self.value(key)

    def value(self, key: Key) -> Any:
        text = "".join(self.text)
        if key.convert is None:
            return text
        try:
            value = key.convert(text)
            # Python reads 1_000 as a number, other programs do not.
            if "_" in text:
                raise ValueError
        except ValueError:
            kind = "an integer" if key.convert is int else "a number"
            self.refuse(f"the attribute {key.name!r} must be {kind} (got {text[:100]!r}).")
        if key.wanted and key.convert is int and not 0 <= value < _LARGEST_INDEX:
            self.refuse(
                f"the attribute {key.name!r} must be an integer of at least 0 (got {value})."
            )
        return value


def _where(parent: str) -> str:
    return f"a {parent} element" if parent else "a GraphML file"


_REFUSED = {
    "hyperedge": "a graph must not have hyperedges, whose ends are more than two.",
    "port": "a node must not have ports.",
    "locator": "a graph must be in the file itself, not be located elsewhere.",
}
_START: dict[tuple[str, str], Callable[[_Parser, Attributes], None]] = {
    ("", "graphml"): _Parser.start_nothing,
    ("graphml", "key"): _Parser.start_key,
    ("graphml", "graph"): _Parser.start_graph,
    ("key", "default"): _Parser.start_default,
    ("graph", "node"): _Parser.start_node,
    ("graph", "edge"): _Parser.start_edge,
    **{(parent, "data"): _Parser.start_data for parent in ("graphml", "graph", "node", "edge")},
    **{(p, "desc"): _Parser.start_ignored for p in ("graphml", "key", "graph", "node", "edge")},
}
_END: dict[str, Callable[[_Parser], None]] = {
    "default": _Parser.end_default,
    "node": _Parser.end_node,
    "edge": _Parser.end_edge,
    "data": _Parser.end_data,
}
