"""What becomes of trouble: by default a warning and a count, an exception only where the caller asked for one."""

from __future__ import annotations

import logging
import time

from . import errors, options
from .link import Link
from .saves import Failures, Save

log = logging.getLogger("cairn")


class Reactions:
    """The caller's choice, and the failures of one Checkpointer so far."""

    def __init__(self, on_unavailable: str, on_failure: str, max_without_commit: float | None) -> None:
        self._raise_unavailable = options.wants_raise("on_unavailable", on_unavailable)
        self._raise_failure = options.wants_raise("on_failure", on_failure)
        self._max_without_commit = max_without_commit
        self._absent_warned = False
        self.failures = Failures()

    def failed(self, save: Save) -> None:
        """A save has failed; called from any thread."""
        self.failures.note(save)
        log.warning("cairn: %s failed: %s", errors.checkpoint_of(save.step), save.reason)

    def unavailable(self, save: Save, reason: str, cause: errors.CairnError | None) -> Save:
        """A save that cannot begin: there is no daemon."""
        if self._raise_unavailable:
            raise errors.Unavailable(f"step {save.step} cannot be saved: {reason}") from cause
        save._fail(reason)
        self.failures.note(save)
        if not self._absent_warned:  # once until the daemon is back: a step can take milliseconds
            self._absent_warned = True
            log.warning("cairn: step %d is not saved, nor those that follow: %s", save.step, reason)
        return save

    def available(self) -> None:
        self._absent_warned = False

    def raise_due(self, link: Link) -> None:
        """What is to be raised at the next save()."""
        if self._raise_failure:
            self.failures.check()
        bound = self._max_without_commit
        if bound is not None and time.monotonic() - link.last_commit > bound:
            why = link.down if link.session is None else "see check_for_errors()"
            raise errors.NoCommit(f"nothing was committed for {bound:g} s: {why}")
