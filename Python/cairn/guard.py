"""Which tensors may be copied after save() has returned: what a guarded optimizer owns, or what the caller names.

A guarded optimizer's parameters and state change in its step and nowhere else, so the fence before the step is enough.
Ownership is compared by memory, not by object: a tensor is lazy when its bytes lie inside one that the optimizer owns.
"""

from __future__ import annotations

import contextlib
import fnmatch
import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from . import placement, tensors
from .tree import tensor_classes

Lazy = bool | Sequence[str] | None


INSIDE = ("optimizer", "optim", "base_optimizer", "_optimizer")
"""Where wrappers (accelerate's, ZeRO's, mixed precision's) keep the optimizer that holds the state and takes the step."""


class Guard:
    """The guarded optimizers of one Checkpointer, and the hooks that fence before they step."""

    def __init__(self, fence: Callable[[], None]) -> None:
        self._fence = fence
        self._optimizers: list[Any] = []
        self._handles: list[Any] = []
        self._takes_all = False
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, optimizer: Any) -> None:
        """Guard an optimizer: torch's, or any object with param_groups, state and step(); or several, in a list, tuple or dict.

        torch's global hook is used, which fires first and also for an optimizer inside a wrapper, or one that steps in
        backward. One whose class is not torch's, or whose step() torch has not put its hooks around, gets its step() wrapped.

        Raises:
            TypeError: it has no param_groups, or its step is one that nothing tells of.
        """
        if isinstance(optimizer, list | tuple | dict):
            for each in optimizer.values() if isinstance(optimizer, dict) else optimizer:
                self.add(each)
            return
        if not hasattr(optimizer, "param_groups"):
            raise TypeError(f"guard() takes an optimizer; a {type(optimizer).__name__} has no param_groups")
        if getattr(optimizer, "_overlap_with_ddp", False):
            raise TypeError(
                f"a {type(optimizer).__name__} with overlap_with_ddp=True steps inside DDP's communication hook, which calls no "
                "hook of an optimizer: use overlap_with_ddp=False, or do not guard it, and save() then copies before it returns"
            )
        if any(optimizer is other for other in self._optimizers):
            return
        self._optimizers.append(optimizer)
        wraps = False
        for name in INSIDE:
            inner = getattr(optimizer, name, None)
            if hasattr(inner, "param_groups") and inner is not optimizer:
                self.add(inner)
                wraps = True
        self._listen()
        if "torch" in sys.modules:
            from torch.optim.optimizer import Optimizer

            if isinstance(optimizer, Optimizer) and (wraps or getattr(type(optimizer).step, "hooked", False)):
                return
        self._wrap(optimizer)

    def add_all(self) -> None:
        """Guard each of torch's optimizers when it takes its next step."""
        self._takes_all = True
        self._listen()

    def _listen(self) -> None:
        """Register torch's global hook. A compiled step must not trace it: what it asks for is another at each step."""
        if self._handles or "torch" not in sys.modules:
            return
        import torch
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        def before_step(optimizer: Any, *_: Any) -> None:
            self._fence()
            if self._takes_all:
                self.add(optimizer)

        self._handles.append(register_optimizer_step_pre_hook(torch.compiler.disable(before_step, reason="Cairn's fence waits")))

    def _wrap(self, optimizer: Any) -> None:
        step, fence = optimizer.step, self._fence

        def fenced(*arguments: Any, **named: Any) -> Any:
            fence()
            return step(*arguments, **named)

        optimizer.step = fenced

    def remove(self) -> None:
        """Take the hook away; wrapped step() methods stay and fence nothing any more."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._optimizers.clear()
        self._takes_all = False

    def signature(self) -> tuple[object, ...]:
        """Changes when what the guarded optimizers own does: an optimizer is added, or a tensor of one comes, goes or moves.

        Objects alone would not do: after `parameter.data = other` an average of the weights may live where they were."""
        return tuple((id(optimizer), _places(optimizer)) for optimizer in self._optimizers)

    def refresh(self) -> None:
        """Find out anew which memory the optimizers own."""
        spans: list[tuple[int, int]] = []
        base, _, ndarray = tensor_classes()

        def owned(tensor: Any) -> None:
            if (base is not None and isinstance(tensor, base)) or (ndarray is not None and isinstance(tensor, ndarray)):
                local = placement.resolve(tensor)
                # Addresses of all devices of a process are one space.
                device = getattr(getattr(local, "device", None), "type", "cpu")
                if device not in tensors.DEVICES or not (
                    tensors.is_dense(local) or (base is not None and isinstance(local, base) and tensors.fills_run(local))
                ):
                    return
                address = tensors.address_of(tensor)
                if address:
                    spans.append((address, address + int(local.nbytes)))
            elif isinstance(tensor, dict):
                for item in tensor.values():
                    owned(item)
            elif isinstance(tensor, list | tuple):
                for item in tensor:
                    owned(item)

        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                owned(group["params"])
            owned(dict(_state(optimizer)))
        spans.sort()
        merged: list[list[int]] = []
        for start, end in spans:
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        self._starts = [start for start, _ in merged]
        self._ends = [end for _, end in merged]

    def owns(self, address: int, count: int) -> bool:
        """Whether all ``count`` bytes from ``address`` on belong to guarded optimizers, as of the last refresh."""
        index = bisect_right(self._starts, address) - 1
        return index >= 0 and count > 0 and address + count <= self._ends[index]


def named_lazy(name: str, lazy: Lazy) -> bool:
    """Whether the caller's own ``lazy`` (True, or patterns as fnmatch has them) names this tensor."""
    if lazy is None or isinstance(lazy, bool):
        return bool(lazy)
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in lazy)


def _places(optimizer: Any) -> list[int]:
    """The addresses of all tensors that an optimizer owns; of other values, and of what has none, their identity."""
    owned: list[Any] = []
    for group in optimizer.param_groups:
        owned += group["params"]
    for state in _state(optimizer).values():
        if type(state) is dict:
            owned += state.values()
        else:
            owned.append(state)
    torch: Any = sys.modules.get("torch")
    places: list[int] = []
    if torch is not None:
        kinds, pointer = (torch.Tensor, torch.nn.Parameter), torch.Tensor.data_ptr
        if all(type(tensor) in kinds for tensor in owned):
            with contextlib.suppress(RuntimeError):
                return list(map(pointer, owned))
    for tensor in owned:
        try:
            places.append(tensors.address_of(tensor))
        except (AttributeError, RuntimeError, NotImplementedError):
            places.append(id(tensor))
    return places


def _state(optimizer: Any) -> Any:
    return getattr(optimizer, "state", None) or {}
