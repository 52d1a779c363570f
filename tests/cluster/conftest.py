"""One Slurm for all tests of a process here: each of them leaves it as it was, with no job in the queue."""

import os
from collections.abc import Iterator

import pytest

from tests.cluster.needs import why_not
from tests.cluster.slurm import Cluster


@pytest.fixture(scope="session")
def session_cluster() -> Iterator[Cluster]:
    """A started cluster, for as long as the tests run."""
    if reason := why_not():
        pytest.skip(reason)
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(session_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster; what a test leaves in the queue is cancelled."""
    yield session_cluster
    session_cluster.scancel(f"--user={os.getuid()}")
    unfinished = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")
    session_cluster.wait_for(lambda: not set(session_cluster.states().values()) & set(unfinished), "no job is left")
