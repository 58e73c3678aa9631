"""What every process of the benchmark sets up before it measures anything."""

from __future__ import annotations

import logging
import os
import resource
import socket
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def prepare() -> None:
    """Descriptors as many as may be, and shared memory by name, as some peers else need one a tensor; the client's own sources; a
    process group of one rank (DCP's process mode needs one, over TCP); and no warnings of the peers in between."""
    if str(ROOT / "Python") not in sys.path:
        sys.path.insert(0, str(ROOT / "Python"))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    warnings.filterwarnings("ignore", category=UserWarning)
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import torch.distributed as dist
    import torch.multiprocessing

    torch.multiprocessing.set_sharing_strategy("file_system")
    if not dist.is_initialized():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
