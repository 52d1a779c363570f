"""What all tests share: tests marked `gpu` are skipped without a CUDA device, and every skip is counted by reason."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

# What takes long to build is built in one process, whichever file asks for it.
SHARED = {"mini_study": "the small study", "built": "the graph"}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        groups = [group for fixture, group in SHARED.items() if fixture in getattr(item, "fixturenames", ())]
        item.add_marker(pytest.mark.xdist_group(groups[0] if groups else item.path.name))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """After all else but pytest's last line: the counts, zeros too, and why tests were skipped."""
    yield
    count = {name: len(reports) for name, reports in terminalreporter.stats.items()}
    failed = count.get("failed", 0) + count.get("error", 0)
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.section(f"{count.get('passed', 0)} passed, {failed} failed, {len(skipped)} skipped")
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for reason, times in reasons.most_common():
        terminalreporter.write_line(f"{times} skipped: {reason}")


@pytest.fixture(scope="session")
def mini_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a whole small study in results/demo, built once; not to be changed: see `mini_copy`."""
    from tests.mini_study import build

    return build(tmp_path_factory.mktemp("mini") / "project")


@pytest.fixture
def mini_copy(mini_study: Path, tmp_path: Path) -> Path:
    """A copy of the project of `mini_study`, for one test to change."""
    return shutil.copytree(mini_study, tmp_path / "project", symlinks=True)
