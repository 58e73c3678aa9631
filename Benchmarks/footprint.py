"""How much memory one subject takes while it saves, in a process of its own: `footprint.py SUBJECT BYTES FOLDER SOCKET`.

The last line of its output is JSON: `extra`, bytes of this process and its children at the peak of the second save beyond what they
took before the first (libraries and the state), shared memory by its share; `bytes` of the state. A daemon is not in it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from machine import Peak, family, memory
from process import prepare


def main() -> None:
    name, size, folder, socket = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    prepare()
    from subjects import Subject, peer
    from workload import training_state

    def taken() -> int:
        return memory(family(os.getpid()))

    state = training_state(size)
    state.sums()
    make: type[Subject] | None = peer(name) if name != "cairn" else None
    if make is None:
        from subjects.ours import Cairn
    before = taken()
    subject = make(state, folder) if make is not None else Cairn(state, folder, socket=socket)
    subject.save().finish()
    subject.tidy()
    with Peak(taken) as peak:
        pending = subject.save()
        pending.fence()
        pending.finish()
    subject.close()
    print(json.dumps({"extra": max(0, peak.most - before), "bytes": state.bytes}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
