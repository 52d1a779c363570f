"""The demo with one seed, built once by stubs for all tests here, and copies of it to edit."""

import shutil
from pathlib import Path

import pytest

from tests.workflow.tree import copied, replace, snakemake


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole demo with one seed."""
    tree = copied(tmp_path_factory.mktemp("dag") / "a folder, with spaces")
    replace(tree / "config" / "config.yaml", "study: demo", "study: demo\nseeds: [1]")
    done = snakemake(tree, "--cores", "2", "--quiet", "all")
    assert done.returncode == 0, done.stdout
    return tree


@pytest.fixture
def tree(built: Path, tmp_path: Path) -> Path:
    """The built demo, moved: a copy with all times, for one test to edit."""
    return shutil.copytree(built, tmp_path / "moved to")
