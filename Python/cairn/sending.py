"""Sends one save: registers its layout where this session does not know it yet, then calls Save; copies for the node come first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from . import errors
from .layout import Content
from .link import Link
from .saves import Save
from .session import Session
from .wire import CHECKPOINT

log = logging.getLogger("cairn")


def send(
    link: Link,
    session: Session,
    content: Content,
    save: Save,
    attempt_try: int,
    metadata: Mapping[str, str] | None,
    participants: list[int] | None,
    verify: bool = False,
) -> dict[str, Any]:
    """Save's reply, which comes when all eager bytes are staged.

    Each event of this rank is a sign of life and grants another fence bound; without any, the call fails.

    Raises:
        WireError: the daemon refused. Unavailable: it is gone or stands still; the session socket is hung up then.
    """
    layout = content.layout

    def call(method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        with session.calls_lock:
            return session.calls.call(CHECKPOINT + method, parameters, timeout=session.fence_seconds, going=lambda: link.events)

    def register(shards: list[dict[str, Any]]) -> tuple[str, str]:
        return session.id, str(call("Register", {"shards": shards})["layout"])

    parameters = {
        "step": save.step,
        "try": attempt_try,
        "upto": save.upto,
        "participants": participants,
        "verify": verify or None,
    }

    def send_copies() -> None:
        if layout.registered_copies is None or layout.registered_copies[0] != session.id:
            layout.registered_copies = register(layout.copies())
        call("Save", parameters | {"layout": layout.registered_copies[1], "copies": True})

    def send_own() -> dict[str, Any]:
        if layout.registered is None or layout.registered[0] != session.id:
            layout.registered = register(layout.shards())
        own = {"layout": layout.registered[1], "objects": content.objects, "metadata": dict(metadata) if metadata else None}
        return call("Save", parameters | own)

    if layout.copied:
        try:
            try:
                send_copies()
            except errors.UnknownLayout:
                layout.registered_copies = None
                send_copies()
        except errors.WireError as refusal:  # the checkpoint is as whole without: the global tier has what they hold
            log.info("cairn: step %d has no copies of other nodes' replicas on this one: %s", save.step, refusal)
    try:
        return send_own()
    except errors.UnknownLayout:
        layout.registered = None
        return send_own()


def deliver(link: Link, session: Session, save: Save, call: Callable[[], dict[str, Any]]) -> None:
    """Make ``save`` what the daemon answers to ``call``: accepted, or failed.

    Raises:
        InvalidShard: the state cannot be saved, now or ever. What interrupted the call.
    """
    link.begin(save)
    try:
        reply = call()
        link.accept(save, str(reply["save"]), int(reply["bytes"]))
    except errors.InvalidShard as refusal:
        link.refuse(save, str(refusal))
        raise
    except errors.AttemptEnded as refusal:
        link.ended = refusal
        link.refuse(save, str(refusal))
    except errors.WireError as refusal:
        link.refuse(save, str(refusal))
    except (errors.CairnError, OSError, KeyError, TypeError, ValueError) as failure:
        link.lose(session, str(failure))
        link.refuse(save, str(failure))
    except BaseException as end:  # as ^C in mid-call: the reply that is still to come would be taken for the next call's
        reason = f"save() was interrupted by {type(end).__name__}"
        link.lose(session, reason)
        link.refuse(save, reason)
        raise
