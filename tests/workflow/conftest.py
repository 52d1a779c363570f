"""The demo with one seed, built once by stubs for all tests here, and copies of it to edit."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import made_once
from tests.projects import copied, replace
from tests.workflow.tree import build


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which nothing is built: for plans and for whatever is refused; not to be changed."""
    return copied(tmp_path_factory.mktemp("not built") / "project")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole demo with one seed; not to be changed."""

    def whole(folder: Path) -> None:
        replace(copied(folder) / "config/config.yaml", "study: demo", "study: demo\nseeds: [1]")
        build(folder)

    return made_once(tmp_path_factory, "a folder, with spaces", whole)


@pytest.fixture
def tree(built: Path, tmp_path: Path) -> Path:
    """The built demo, moved: a copy with all times, for one test to edit."""
    return shutil.copytree(built, tmp_path / "moved to")
