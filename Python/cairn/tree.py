"""A state as a flat thing and back: which tensors, which other leaves, and the shape of the containers around them.

``flatten`` walks the state once and gives three lists in walk order. ``tokens`` says all about the containers and the kinds of
leaves, so that two states with equal tokens differ only in their tensors' places and their values. What is stored:

    cairn.tree     {"format": 2, "root": NODE, "tensors": [...], "keys": [...]}   made anew only when tokens or tensors change
    cairn.values   [VALUE, ...]                                      the plain leaves, in walk order; written at each save
    cairn.pickle   the pickled leaves, one after the other           only where there are any

    NODE   "t" the next tensor, "v" the next value, "s" or ["k", number] the next value of another scope (see scopes.py),
           ["dict", [KEY, ...], [NODE, ...]], ["list", [NODE, ...]], ["tuple", [NODE, ...]],
           ["state", NODE] (an object that has state_dict() and load_state_dict())
    KEY    a string, number, bool or null; {"pickle": BASE64} for any other hashable
    VALUE  null, bool, number or string as it is; else {"float": "nan"}, {"bytes": BASE64}, {"complex": [re, im]},
           {"numpy": [DTYPE, BASE64]}, {"dtype": "float32"}, {"device": "cpu"}, {"size": [...]}, {"pickle": [begin, bytes, PATH]}
"""

from __future__ import annotations

import base64
import json
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from . import dtypes, jax_arrays, pickles
from .errors import CairnError
from .flat import FlatShard

TREE, VALUES, PICKLE = "cairn.tree", "cairn.values", "cairn.pickle"
FORMAT = 2
FORMATS = (1, FORMAT)
"""Those that this package reads: format 1 had no scopes."""
MAX_DEPTH = 200

_PLAIN = frozenset({type(None), bool, int, float, str})
_DICTS = frozenset({dict, OrderedDict})

Token = object


class Flat:
    """A state, flattened. ``odd``: a tensor is of a class other than torch.Tensor and Parameter; ``arrays``: some are numpy's or,
    as jax_arrays.View, jax's."""

    __slots__ = ("arrays", "odd", "tensors", "tokens", "values")

    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self.tensors: list[Any] = []
        self.values: list[Any] = []
        self.odd = False
        self.arrays = False


def is_stateful(node: object) -> bool:
    """Whether it saves and restores itself by state_dict() and load_state_dict(), as modules and optimizers do."""
    return callable(getattr(node, "state_dict", None)) and callable(getattr(node, "load_state_dict", None))


def tensor_classes() -> tuple[type | None, frozenset[type], type | None]:
    """torch.Tensor, the classes whose own memory is the tensor's, and numpy.ndarray; as far as they are imported."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    base: type | None = getattr(torch, "Tensor", None)
    known: frozenset[type] = frozenset()
    if torch is not None and base is not None:
        parameter = getattr(getattr(torch, "nn", None), "Parameter", None)
        known = frozenset({base, parameter} if isinstance(parameter, type) else {base})
    return base, known, getattr(numpy, "ndarray", None)


def leaf_classes() -> tuple[type, ...]:
    """The classes whose instances are saved as tensors, as far as their libraries are imported."""
    base, _, ndarray = tensor_classes()
    return tuple(kind for kind in (base, ndarray, jax_arrays.array_class(), FlatShard) if kind is not None)


def flatten(state: object) -> Flat:
    """Walk ``state`` and list its leaves.

    Raises:
        CairnError: containers nested more than MAX_DEPTH deep (as one that holds itself).
    """
    flat = Flat()
    tokens, tensors, values = flat.tokens, flat.tensors, flat.values
    base, known, ndarray = tensor_classes()
    jax_array = jax_arrays.array_class()
    plain, dicts = _PLAIN, _DICTS

    def walk(node: Any, depth: int) -> None:
        kind = type(node)
        if kind in known:
            tokens.append(kind)
            tensors.append(node)
        elif kind in plain:
            tokens.append("v")
            values.append(node)
        elif kind in dicts:
            if depth > MAX_DEPTH:
                raise CairnError(f"the state is nested more than {MAX_DEPTH} deep; does a container hold itself?")
            tokens.append("dict")
            tokens.append(tuple(node))
            kinds = list(map(type, node.values()))
            if known.issuperset(kinds):  # a state_dict's thousands of tensors at once
                tokens.extend(kinds)
                tensors.extend(node.values())
                return
            for child in node.values():
                walk(child, depth + 1)
        elif kind is list or kind is tuple:
            if depth > MAX_DEPTH:
                raise CairnError(f"the state is nested more than {MAX_DEPTH} deep; does a container hold itself?")
            tokens.append(kind)
            tokens.append(len(node))
            for child in node:
                walk(child, depth + 1)
        elif (base is not None and issubclass(kind, base)) or kind is FlatShard:
            flat.odd = True
            tokens.append(kind)
            tensors.append(node)
        elif ndarray is not None and issubclass(kind, ndarray) and dtypes.of_numpy(node.dtype) is not None:
            flat.arrays = True
            tokens.append(kind)
            tensors.append(node)
        elif jax_array is not None and isinstance(node, jax_array):  # tracers too, by its metaclass
            flat.arrays = True
            tokens.append(kind)
            tensors.append(jax_arrays.View(node))
        elif isinstance(node, Mapping) and not is_stateful(node):
            tokens.append("dict")
            tokens.append(tuple(node))
            for child in node.values():
                walk(child, depth + 1)
        elif isinstance(node, tuple) and hasattr(kind, "_fields"):  # a named tuple
            tokens.append(tuple)
            tokens.append(len(node))
            for child in node:
                walk(child, depth + 1)
        elif is_stateful(node):
            tokens.append("state")
            walk(node.state_dict(), depth + 1)
        else:
            tokens.append("v")
            values.append(node)

    walk(state, 0)
    return flat


class Outline:
    """What the tokens of a state mean: names of its tensors, paths and NODEs of its values, and the NODE of the whole.

    ``value_node`` gives a value's NODE for its path: its scope; by default, all are the rank's own."""

    def __init__(self, tokens: list[Token], value_node: Callable[[str], Any] = lambda path: "v") -> None:
        self.names: list[str] = []
        self.paths: list[str] = []
        self.nodes: list[Any] = []
        self._value_node = value_node
        self._taken: set[str] = set()
        self._tokens = iter(tokens)
        self.root: Any = self._node("")

    def _node(self, path: str) -> Any:
        token = next(self._tokens)
        if token == "v":
            self.paths.append(path or "value")
            self.nodes.append(self._value_node(self.paths[-1]))
            return self.nodes[-1]
        if token == "dict":
            keys: Any = next(self._tokens)
            nodes = [self._node(join(path, key)) for key in keys]
            return ["dict", [encode_key(key) for key in keys], nodes]
        if token is list or token is tuple:
            count: Any = next(self._tokens)
            nodes = [self._node(join(path, index)) for index in range(count)]
            return ["list" if token is list else "tuple", nodes]
        if token == "state":
            return ["state", self._node(path)]
        self.names.append(unique(path or "value", self._taken))
        return "t"


def stored_names(root: Any) -> list[str]:
    """The names that an Outline gave to the tensors of a stored NODE, in walk order."""
    taken: set[str] = set()
    return [unique(path, taken) for node, path in stored_paths(root) if node == "t"]


def stored_paths(root: Any) -> list[tuple[Any, str]]:
    """The leaf NODEs of a stored tree and their paths, in walk order."""
    found: list[tuple[Any, str]] = []

    def walk(node: Any, path: str) -> None:
        if node == "t" or is_value(node):
            found.append((node, path or "value"))
        elif node[0] == "dict":
            for key, child in zip(node[1], node[2], strict=True):
                walk(child, join(path, key if not isinstance(key, dict) else "?"))
        elif node[0] in ("list", "tuple"):
            for index, child in enumerate(node[1]):
                walk(child, join(path, index))
        elif node[0] == "state":
            walk(node[1], path)

    walk(root, "")
    return found


def is_value(node: Any) -> bool:
    """Whether a stored NODE is a plain value, of whatever scope."""
    return node in ("v", "s") or node[0] == "k"


def value_nodes(root: Any) -> Iterator[Any]:
    """The NODEs of a stored tree's plain values, in walk order."""
    if is_value(root):
        yield root
    elif root != "t":
        children = root[2] if root[0] == "dict" else [root[1]] if root[0] == "state" else root[1]
        for child in children:
            yield from value_nodes(child)


def unique(path: str, taken: set[str]) -> str:
    """Two paths can have one text ({"a.b": x, "a": {"b": y}}): the later ones, in walk order, get a number."""
    name, count = path, 1
    while name in taken:
        count += 1
        name = f"{path}~{count}"
    taken.add(name)
    return name


def join(path: str, key: object) -> str:
    """A path's text, with nothing in it that a name on disk may not have."""
    text = "".join(char if char.isprintable() else f"%{ord(char):02X}" for char in str(key)) or "%"
    return f"{path}.{text}" if path else text


def encode_key(key: object) -> Any:
    if type(key) in _PLAIN and not (isinstance(key, float) and not math.isfinite(key)):
        return key
    return {"pickle": base64.b64encode(pickles.dump(key, "a key")).decode()}


def decode_key(key: Any, allow: pickles.AllowPickle) -> Any:
    return pickles.load(base64.b64decode(key["pickle"]), "a key", allow) if isinstance(key, dict) else key


def encode_values(values: list[Any], paths: list[str]) -> tuple[bytes, bytes]:
    """The plain leaves as JSON, and the pickles that it points into. ``paths`` names them, for errors."""
    pickled = bytearray()
    index_of = {id(value): index for index, value in enumerate(values) if type(value) not in _PLAIN}

    def tagged(value: Any) -> Any:
        numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
        if type(value) in (bytes, bytearray):
            return {"bytes": base64.b64encode(value).decode()}
        if type(value) is complex:
            return {"complex": [value.real.hex(), value.imag.hex()]}
        if numpy is not None and isinstance(value, numpy.generic) and dtypes.of_numpy(value.dtype) is not None:
            return {"numpy": [dtypes.of_numpy(value.dtype), base64.b64encode(value.tobytes()).decode()]}
        if torch is not None and isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if torch is not None and isinstance(value, torch.device):
            return {"device": str(value)}
        if torch is not None and isinstance(value, torch.Size):
            return {"size": list(value)}
        where = paths[index_of.get(id(value), 0)]
        data = pickles.dump(value, where)
        pickled.extend(data)
        return {"pickle": [len(pickled) - len(data), len(data), where]}

    items = [
        value
        if type(value) in _PLAIN and (type(value) is not float or math.isfinite(value))
        else {"float": repr(value)}
        if type(value) is float
        else tagged(value)
        for value in values
    ]
    return json.dumps(items, separators=(",", ":"), ensure_ascii=True).encode("ascii"), bytes(pickled)


def decode_values(data: bytes, pickled: bytes, allow: pickles.AllowPickle) -> list[Any]:
    """The values of one save, in walk order."""

    def value(item: Any) -> Any:
        if not isinstance(item, dict):
            return item
        ((tag, content),) = item.items()
        if tag == "float":
            return float(content)
        if tag == "bytes":
            return base64.b64decode(content)
        if tag == "complex":
            return complex(float.fromhex(content[0]), float.fromhex(content[1]))
        if tag == "numpy":
            import numpy

            return numpy.frombuffer(base64.b64decode(content[1]), dtype=dtypes.to_numpy(content[0]))[0]
        if tag in ("dtype", "device", "size"):
            import torch

            if tag == "dtype":
                return getattr(torch, content)
            return torch.device(content) if tag == "device" else torch.Size(content)
        if tag == "pickle":
            begin, count, where = content
            return pickles.load(pickled[begin : begin + count], where, allow)
        raise CairnError(f"a stored value of unknown kind '{tag}': it was saved by a newer version of this package")

    return [value(item) for item in json.loads(data)]
