"""Sends one save: registers its layout where this session does not know it yet, then calls Save."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import UnknownLayout
from .layout import Content
from .link import Link
from .saves import Save
from .session import Session
from .wire import CHECKPOINT


def send(
    link: Link, session: Session, content: Content, save: Save, attempt_try: int, metadata: Mapping[str, str] | None
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

    def attempt() -> dict[str, Any]:
        if layout.registered is None or layout.registered[0] != session.id:
            layout.registered = (session.id, str(call("Register", {"shards": layout.shards()})["layout"]))
        parameters = {
            "step": save.step,
            "try": attempt_try,
            "layout": layout.registered[1],
            "objects": content.objects,
            "upto": save.upto,
            "metadata": dict(metadata) if metadata else None,
        }
        return call("Save", parameters)

    try:
        return attempt()
    except UnknownLayout:
        layout.registered = None
        return attempt()
