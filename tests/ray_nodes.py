"""Ray nodes of the tests' own, on loopback addresses."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest

SOURCES = Path(__file__).parent.parent
# Workers of Ray have the least priority unless it is told otherwise, and where a machine has enough to do they never come to an end.
VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "PYTHONPATH": os.pathsep.join(str(SOURCES / name) for name in ("scripts", "plpython")),
}
SIZE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@contextmanager
def new_nodes() -> Iterator[Any]:
    """A cluster of two nodes, with room for one worker each; all their processes end with it.

    127.0.0.1 would mean this machine's address in its network.
    """
    from ray.cluster_utils import Cluster

    with (
        TemporaryDirectory(prefix="ray.", ignore_cleanup_errors=True) as folder,
        patch.dict(os.environ, VARIABLES | {"RAY_TMPDIR": folder}),
    ):
        (Path(folder) / "ray").mkdir()  # where Ray leaves the cluster's address, but does not make the folder
        head = {**SIZE, "include_dashboard": False, "node_ip_address": "127.0.0.2", "temp_dir": folder}
        cluster = Cluster(initialize_head=True, shutdown_at_exit=True, head_node_args=head)
        try:
            add_node(cluster)
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Such a cluster for the tests of a file."""
    with new_nodes() as cluster:
        yield cluster


def add_node(cluster: Any) -> Any:
    with patch.dict(os.environ, VARIABLES):
        return cluster.add_node(**SIZE, node_ip_address="127.0.0.3")


def actors_of(node: Any) -> list[int]:
    """The workers that live on a node: children of its raylet."""
    [raylet] = [each.process.pid for each in node.all_processes["raylet"]]
    listed = subprocess.run(["ps", "-ww", "-o", "pid=,args=", "--ppid", str(raylet)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "ray::Actor" in line]


def raylet_of(node: Any) -> int:
    [raylet] = [each.process.pid for each in node.all_processes["raylet"]]
    return int(raylet)
