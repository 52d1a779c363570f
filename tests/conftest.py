"""What all tests share: tests marked `gpu` are skipped without a CUDA device, and every skip is counted by reason."""

from collections import Counter
from collections.abc import Iterator

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
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
