"""The demo with one seed, built once by stubs for all tests here, and copies of it to edit."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import made_once
from tests.workflow.tree import copied, replace, snakemake


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole demo with one seed."""

    def build(folder: Path) -> None:
        tree = copied(folder)
        replace(tree / "config" / "config.yaml", "study: demo", "study: demo\nseeds: [1]")
        done = snakemake(tree, "--cores", "2", "--quiet", "all")
        assert done.returncode == 0, done.stdout

    return made_once(tmp_path_factory, "a folder, with spaces", build)


@pytest.fixture
def tree(built: Path, tmp_path: Path) -> Path:
    """The built demo, moved: a copy with all times, for one test to edit."""
    return shutil.copytree(built, tmp_path / "moved to")
