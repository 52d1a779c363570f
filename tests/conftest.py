"""What all tests share: tests marked `gpu` are skipped without a CUDA device, and every skip is counted by reason."""

import fcntl
import gc
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from chord.cluster import snakemake
from chord.cluster.warm import SWITCH
from tests import warm
from tests.draws import SHIFT

# Examples are the same in each run; with CHORD_TEST_SEED they are drawn anew. A slow machine fails no example.
hypothesis.settings.register_profile("fixed", derandomize=SHIFT == 0, deadline=None)
hypothesis.settings.load_profile("fixed")

SLOWEST = 10  # files that the summary names
SLOW = ("cluster", "faults", "workflow")  # folders whose files start first, with those that have slow tests
# The longest files are divided among processes into so many parts; what their tests share is in files. Every other file
# is one part, for one process.
PARTS = {"test_edits.py": 4, "test_tamper.py": 3, "test_faults.py": 2}


class InParts(LoadScopeScheduling):
    """pytest-xdist's schedule by scope, where a scope is a file or a part of one."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        super().__init__(config, log)
        self.parts: dict[str, str] = {}
        self.seen: Counter[str] = Counter()

    def _split_scope(self, nodeid: str) -> str:
        if nodeid not in self.parts:
            file = nodeid.partition("::")[0]
            self.parts[nodeid] = f"{file} {self.seen[file] % PARTS.get(Path(file).name, 1)}"
            self.seen[file] += 1
        return self.parts[nodeid]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> InParts:
    return InParts(config, log)


def pytest_configure() -> None:
    os.environ[SWITCH] = "no"  # jobs are forked by tests.warm; tests of the project's own forks turn them on
    gc.set_threshold(*warm.SELDOM)
    warm.begin()


def pytest_collection_finish() -> None:
    gc.freeze()  # what is loaded by now is no garbage


def in_order(items: list[pytest.Item]) -> list[Path]:
    """The files of the tests, what takes longest first, so that the processes end at about the same time.

    Three files that compute follow each that mostly waits for Slurm, so that no core is idle.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.path.parent.name in SLOW}
    files = sorted(
        dict.fromkeys(item.path for item in items), key=lambda file: (file not in slow, file.name not in PARTS)
    )
    waiting = [file for file in files if file.parent.name == "cluster"]
    computing = iter(file for file in files if file.parent.name != "cluster")
    return [*chain.from_iterable((file, *islice(computing, 3)) for file in waiting), *computing]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = in_order(items)
    items.sort(key=lambda item: order.index(item.path))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """After all else but pytest's last line: the slowest files, the counts, zeros too, and why tests were skipped."""
    yield
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    terminalreporter.section("slowest files")
    for file, total in seconds.most_common(SLOWEST):
        terminalreporter.write_line(f"{total:6.0f} s {file}")
    count = {name: len(reports) for name, reports in terminalreporter.stats.items()}
    failed = count.get("failed", 0) + count.get("error", 0)
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.section(f"{count.get('passed', 0)} passed, {failed} failed, {len(skipped)} skipped")
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for reason, times in reasons.most_common():
        terminalreporter.write_line(f"{times} skipped: {reason}")


def made_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """The folder `name` that `build` filled, whichever of the processes that share the tests came first."""
    shared = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder, ready = shared / name, shared / f"{name}.ready"
    with (shared / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not ready.exists():
            shutil.rmtree(folder, ignore_errors=True)
            build(folder)
            ready.touch()
    return folder


@pytest.fixture(scope="session", autouse=True)
def plans_are_forked() -> None:
    """What this process asks a Snakemake is answered by one that is forked where its packages are loaded already."""

    def run(command: list[str], capture_output: bool, text: bool, check: bool, **more: Any) -> object:
        return warm.run(command, **more)

    snakemake.subprocess = SimpleNamespace(run=run)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(scope="session")
def mini_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a whole small study in results/demo, built once; not to be changed: see `mini_copy`."""
    from tests.mini_study import build

    return made_once(tmp_path_factory, "small study", build)


@pytest.fixture
def mini_copy(mini_study: Path, tmp_path: Path) -> Path:
    """A copy of the project of `mini_study`, for one test to change."""
    return shutil.copytree(mini_study, tmp_path / "project", symlinks=True)


@pytest.fixture(scope="session")
def vllm_sampler(tmp_path_factory: pytest.TempPathFactory):
    """The one vLLM engine of a test session, in this process; each test hands it the weights that it wants."""
    pytest.importorskip("vllm", reason="no vLLM is installed")
    from tests.sampled_policy import start

    return start(tmp_path_factory.mktemp("vllm"))


@pytest.fixture
def rules_read_once(monkeypatch: pytest.MonkeyPatch) -> dict[object, object]:
    """For tests that audit one study again and again: the same rules and the same config/ are put to Snakemake once.

    Gives what is kept, to be cleared by a test that changes anything else that the rules depend on.
    """
    ask = snakemake.asked

    def asked(root: Path, config: list[str]) -> object:
        files = [root / "Snakefile", *sorted((root / "workflow").rglob("*.*")), *sorted((root / "config").rglob("*.*"))]
        key = (str(config), *(path.read_bytes() for path in files if path.is_file()))
        if key not in READ:
            READ[key] = ask(root, config)
        return READ[key]

    monkeypatch.setattr(snakemake, "asked", asked)
    return READ


READ: dict[object, object] = {}  # what the rules told, by config/ and workflow/
