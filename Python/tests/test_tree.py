"""The state as a flat thing and back, and what a pickle may name."""

from __future__ import annotations

import json
import math
import os
import pickle
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch

import cairn
from cairn import pickles, scopes, tree
from cairn.plan import Planner, stored_of_record
from cairn.tensors import describe


def stored(state: Any) -> tuple[Any, list[dict[str, Any]], bytes, bytes]:
    flat = tree.flatten(state)
    outline = tree.Outline(flat.tokens)
    values, pickled = tree.encode_values(flat.values, outline.paths)
    records = [describe(name, tensor).record() for name, tensor in zip(outline.names, flat.tensors, strict=True)]
    return json.loads(json.dumps(outline.root)), json.loads(json.dumps(records)), values, pickled


def back(state: Any, into: Any, *, allow: pickles.AllowPickle = False, strict: bool = True) -> Any:
    """Save without bytes and set the values of ``into``; the tensors that were made are empty."""
    root, records, values, pickled = stored(state)
    planner = Planner()
    decoded = scopes.Values(root, {tree.VALUES: values, tree.PICKLE: pickled}.__getitem__, allow)
    holder = {"root": into}
    planner.merge(
        holder, ["dict", ["root"], [root]], iter(stored_of_record(r, 0) for r in records), decoded,
        lambda key: tree.decode_key(key, allow),
    )  # fmt: skip
    planner.plan.check(strict)
    planner.plan.apply()
    return holder["root"]


Point = namedtuple("Point", "x y")

PLAIN = {
    "none": None, "yes": True, "no": False, "zero": 0, "big": 1 << 100, "negative": -5, "pi": math.pi, "tiny": 5e-324, "text": "ä\0\n",
    "bytes": b"\0\xff", "complex": complex(-0.0, math.pi), "list": [1, [2, []], {}], "tuple": (1, ("a",)), "nested": {"a": {"b": 1}},
    3: "int key", None: "none key", 2.5: "float key", True: "bool", (1, 2): "tuple key", "numpy": np.float32(1.5), "int64": np.int64(-7),
    "ordered": OrderedDict(b=1, a=2), "size": torch.Size([2, 3]), "dtype": torch.bfloat16, "device": torch.device("cpu"),
    "set": {1, 2}, "infinite": math.inf, "-infinite": -math.inf,
}  # fmt: skip


def test_plain_values_come_back_equal() -> None:
    found = back(PLAIN, {})
    assert found == PLAIN
    for key in PLAIN:
        assert type(found[key]) in (type(PLAIN[key]), dict)
    assert math.copysign(1, found["complex"].real) == -1
    assert math.isnan(back([math.nan], [])[0])


def test_values_are_set_in_place() -> None:
    inner: dict[str, Any] = {"kept": 1}
    state: dict[str, Any] = {"inner": inner, "list": [9, 9, 9]}
    kept_list = state["list"]
    assert back({"inner": {"kept": 2, "new": 3}, "list": [1, 2]}, state) is state
    assert state["inner"] is inner
    assert inner == {"kept": 2, "new": 3}
    assert state["list"] is kept_list
    assert kept_list == [1, 2]


def test_named_tuples_keep_their_class() -> None:
    assert back({"p": Point(1, 2)}, {"p": Point(0, 0)}) == {"p": Point(1, 2)}


def test_names_are_dotted_paths_and_unique() -> None:
    t = torch.zeros(1)
    flat = tree.flatten({"a.b": t, "a": {"b": t}, 0: [t, {"x": t}], "": t, "line\nbreak": t})
    names = tree.Outline(flat.tokens).names
    assert names == ["a.b", "a.b~2", "0.0", "0.1.x", "%", "line%0Abreak"]
    assert tree.stored_names(json.loads(json.dumps(tree.Outline(flat.tokens).root))) == names
    assert tree.Outline(tree.flatten(t).tokens).names == ["value"]


def test_equal_tokens_mean_an_equal_tree() -> None:
    t = torch.zeros(1)
    assert tree.flatten({"a": t, "b": 1}).tokens == tree.flatten({"a": t, "b": "x"}).tokens
    assert tree.flatten({"a": t, "b": 1}).tokens != tree.flatten({"a": 1, "b": t}).tokens
    assert tree.flatten([t]).tokens != tree.flatten((t,)).tokens
    assert tree.flatten({"a": []}).tokens != tree.flatten({"a": {}}).tokens


def test_a_container_that_holds_itself_is_refused() -> None:
    state: dict[str, Any] = {}
    state["self"] = state
    with pytest.raises(cairn.CairnError, match="nested"):
        tree.flatten(state)


def test_an_unpicklable_leaf_names_its_path() -> None:
    with pytest.raises(cairn.CairnError, match=r"a\.0"):
        stored({"a": [lambda: 0]})


class Evil:
    def __reduce__(self) -> Any:
        return (os.system, ("true",))


def test_a_pickle_that_runs_code_is_refused() -> None:
    for allow in (False, lambda module, name: False):
        with pytest.raises(cairn.PickleRefused, match="system"):
            back({"x": Evil()}, {}, allow=allow)
    for name in ("eval", "exec", "getattr", "__import__", "open"):
        with pytest.raises(cairn.PickleRefused):
            pickles.load(b"cbuiltins\n" + name.encode() + b"\n.", "x", False)
    with pytest.raises(cairn.PickleRefused):
        pickles.load(pickle.dumps(Point(1, 2)), "x", False)
    with pytest.raises(cairn.CairnError, match="does not unpickle"):
        pickles.load(b"garbage", "x", False)


def test_what_the_caller_allows_is_unpickled() -> None:
    class_name = (Evil.__module__, "Point")
    assert pickles.load(pickle.dumps(Point(1, 2)), "x", lambda module, name: (module, name) == class_name) == Point(1, 2)
    assert pickles.load(pickle.dumps(Point(1, 2)), "x", True) == Point(1, 2)
    array = np.array(["a", None], dtype=object)
    assert (pickles.load(pickle.dumps(array, 4), "x", False) == array).all()


def test_missing_and_misshapen_tensors_are_told_all_at_once() -> None:
    saved = {"a": torch.zeros(2, 3), "b": torch.zeros(4), "c": 1}
    with pytest.raises(cairn.Mismatch) as caught:
        back(saved, {"a": torch.zeros(3, 2), "b": torch.zeros(4, dtype=torch.int32), "c": torch.zeros(1), "d": torch.zeros(1)})
    text = str(caught.value)
    for part in ("'root.a' is [3, 2]", "'root.b' is I32", "'root.c' is a tensor", "'root.d' was not saved"):
        assert part in text
    assert back(saved, {"a": torch.zeros(2, 3), "d": torch.zeros(1)}, strict=False)["c"] == 1


def test_new_tensors_are_made_and_tied_ones_stay_tied() -> None:
    t = torch.zeros(3)
    root, records, values, _ = stored({"a": t, "b": [t, torch.zeros(2, dtype=torch.bfloat16)]})
    records[1]["name"] = records[0]["name"]  # as the layout records an alias
    planner = Planner()
    state: dict[str, Any] = {}
    found = scopes.Values(root, {tree.VALUES: values, tree.PICKLE: b""}.__getitem__, False)
    planner.merge(state, root, iter(stored_of_record(r, 0) for r in records), found, lambda key: key)
    planner.plan.apply()
    assert state["a"] is state["b"][0]
    assert state["b"][1].dtype == torch.bfloat16
    assert [target.name for target in planner.plan.targets] == ["a", "b.1"]
