"""The daemon by the eyes of a Varlink client that knows nothing of Cairn."""

from __future__ import annotations

import re

import pytest
from jobs import state
from real_daemon import Cluster

varlink = pytest.importorskip("varlink", reason="the PyPI package varlink is not here")


def test_a_stock_client_finds_and_calls_the_interfaces(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    with daemon.open() as checkpointer:
        checkpointer.save(3, state(3, 2)).wait("committed", timeout=20)
    with varlink.Client(address=f"unix:{daemon.socket}") as client:
        info = client.get_interfaces()
        assert {"org.varlink.service", "dev.cairn.Checkpoint", "dev.cairn.Operations"} <= set(info)
        for name in ("dev.cairn.Checkpoint", "dev.cairn.Operations", "org.varlink.service"):
            interface = client.get_interface(name)
            assert interface.name == name
            assert re.search(r"^method ", interface.description, re.MULTILINE)
        with client.open("dev.cairn.Operations") as operations:
            found = operations.Status()
            assert found["daemon"]["socket"] == daemon.socket
            runs = operations.Runs()["runs"]
            assert [(run["run"], [step["step"] for step in run["steps"]]) for run in runs] == [("run", [3])]
            with pytest.raises(varlink.VarlinkError) as refused:
                operations.Describe(None, "run", 99)
            assert refused.value.error() == "dev.cairn.Checkpoint.NoSuchStep"
            replies = list(operations.Verify(None, "run", None, "global", _more=True))
            assert replies[-1]["finished"]
            assert not any(reply["bad"] for reply in replies)
        with client.open("org.varlink.service") as service, pytest.raises(varlink.VarlinkError) as unknown:
            service.GetInterfaceDescription("no.such.interface")
        assert unknown.value.error() == "org.varlink.service.InterfaceNotFound"


def test_what_is_not_served_is_said(cluster: Cluster) -> None:
    daemon = cluster.daemon()
    raw = daemon.raw()
    assert raw.call("org.varlink.service.GetInfo")["parameters"]["product"]
    assert raw.error("no.such.interface.Method") == "InterfaceNotFound"
    assert raw.error("dev.cairn.Operations.NoSuchMethod") == "MethodNotFound"
    assert raw.error("dev.cairn.Operations.Describe", run=5) == "InvalidParameter"
    assert raw.error("dev.cairn.Operations.Verify", run="run") == "ExpectedMore"
    raw.close()
