"""No text that a model can write hangs a grader, crashes it, fills memory, or is evaluated."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chord.config.study import Grading
from chord.errors import UserError
from chord.grading import math_checker, math_worker
from chord.grading.graders import MAX_TEXT_CHARACTERS, Grader
from chord.grading.math_checker import MathChecker
from chord.records import Outcome
from tests.faults.test_server import gone

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
FULL = MAX_TEXT_CHARACTERS - 100  # texts just below the bound, so that all of it is read
LIMIT_SECONDS = 2.0  # for one answer
CLOCK_SLACK = 0.2  # the system counts processor time in ticks, and what ends a process costs some
CALLS = '[{"name": "a", "arguments": {}}]'
MATH = Grading(grader="math", reward="paper-math")
MARKED = Grading(grader="marked-text", mark="=", reward="paper-math")
GRADINGS = {
    "marked-text": (MARKED, "624"),
    "marked-word": (MARKED, "noen"),
    "last-number": (Grading(grader="last-number", reward="last-number-format"), "624"),
    "tool-call": (Grading(grader="tool-call", reward="binary"), CALLS),
}
BOXES = {
    "tower of powers": "9^{9^{9^{9^{9}}}}",
    "tower of twos": "2^{2^{2^{2^{2^{2}}}}}",
    "tower without braces": "9**9**9**9",
    "a power of ten to a power of ten": "10^{10^{10}}",
    "factorials of factorials": "((((((10!)!)!)!)!)!)",
    "large factorial": "100000000!",
    "long product": "\\prod_{i=1}^{100000000} i",
    "long sum": "\\sum_{n=1}^{10000000} n!",
    "integral without an end": "\\int_0^1 e^{x^2}\\sin(x^x) dx",
    "nested braces": "{" * 30 + "623" + "}" * 30,
    "open brackets": "(" * 400,
    "nested roots": "\\sqrt{" * 130 + "2" + "}" * 130,
    "nested fractions": "\\frac{1}{" * 90 + "2" + "}" * 90,
    "many digits": "1" * 990,
    "import": "__import__('os').system('touch owned')",
    "import as text": "\\text{__import__('os').system('touch owned')}",
    "Python": "[x for x in ().__class__.__base__.__subclasses__()]",
    "write18": "\\immediate\\write18{touch owned}",
    "input": "\\input{/etc/passwd}",
    "command without an end": "\\",
    "exponent": "1e999999999",
    "matrix": "\\begin{pmatrix}" + "1&2\\\\" * 150 + "\\end{pmatrix}",
}
TEXTS = {
    "nothing": "",
    "null bytes": "=\x00623\x00 \\boxed{\x00623}",
    "only null bytes": "\x00" * FULL,
    "bidi marks": "=\u202e326 \\boxed{\u202e326\u202c} \u2066",
    "half a surrogate": "=\ud800 \\boxed{\ud800} 62\udfff",
    "a million digits": "=" + "7" * FULL,
    "a million digits in a box": "\\boxed{" + "7" * FULL + "}",
    "ten million characters": "x" * 10_000_000,
    "marks": "=" * FULL,
    "numbers": "1 " * (FULL // 2),
    "thousands": "1" + ",111" * (FULL // 4) + "1",
    "signs": "-" * FULL,
    "open boxes": "\\boxed{" * (FULL // 7),
    "two boxes, one open": "\\boxed{623} \\boxed{",
    "backslashes": "\\boxed{" + "\\" * FULL,
    "open braces": "\\boxed{" + "{" * FULL,
    "closed braces": "}" * FULL,
    "open thoughts": "<think>" * (FULL // 7),
    "open calls": "<think></think>" + "<tool_call>" * (FULL // 12),
    "deep list": "<think></think><tool_call>" + "[" * 99_000 + "]" * 900 + "</tool_call>",
    "deep object": "<think></think><tool_call>" + '[{"a":' * 16_000 + "</tool_call>",
    "long number": "<think></think><tool_call>" + "1" * 99_000 + "</tool_call>",
    "infinite number": '<think></think><tool_call>[{"name": "a", "arguments": {"x": 1e999}}]</tool_call>',
    "many calls": "<think></think><tool_call>[" + CALLS[1:-1] + ("," + CALLS[1:-1]) * 3000 + "]</tool_call>",
    "import": "=__import__('os').system('touch owned')",
    "import in a call": "<think></think><tool_call>__import__('os').system('touch owned')</tool_call>",
    **{f"box: {name}": f"<think>a</think> = \\boxed{{{box}}}" for name, box in BOXES.items()},
}


def checker_of(grader: Grader) -> MathChecker:
    return grader._reading.close.__self__


def worker_of(checker: MathChecker) -> subprocess.Popen:
    """The child of the checker, which forks a copy of itself for each answer."""
    assert checker._worker
    return checker._worker


def ran(program: str, folder: Path | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a program of its own."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def math() -> Iterator[Grader]:
    """The grader that all tests share: its child takes seconds to load."""
    with Grader(MATH) as grader:
        yield grader


@pytest.fixture
def checker(math: Grader) -> MathChecker:
    """The checker of the shared grader. It is ready, with a new child if need be."""
    assert checker_of(math).equal("1", "\\frac{2}{2}") is True
    return checker_of(math)


@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize("name", GRADINGS)
def test_no_hostile_text_is_right_or_takes_long(name: str, finish: str) -> None:
    grading, answer = GRADINGS[name]
    with Grader(grading) as grader:
        for title, text in TEXTS.items():
            began = time.process_time()  # nothing is waited for here
            outcome = grader.grade(text, finish, answer)
            assert time.process_time() - began < LIMIT_SECONDS, title
            assert outcome in (Outcome.WRONG, Outcome.UNPARSABLE, Outcome.TOO_LONG), (title, outcome)


@pytest.mark.parametrize("answer", ["7", "\\sqrt{7}"])
@pytest.mark.parametrize("title", TEXTS)
def test_no_hostile_text_holds_the_math_grader_for_long_or_is_right(
    math: Grader, checker: MathChecker, title: str, answer: str
) -> None:
    began, busy = time.process_time(), copies_seconds(checker)
    outcome = math.grade(TEXTS[title], "stop", answer)
    assert time.process_time() - began < LIMIT_SECONDS  # what reads the text
    assert copies_seconds(checker) - busy < math_worker.PROCESSOR_SECONDS + CLOCK_SLACK  # what compares it
    assert outcome in (Outcome.WRONG, Outcome.UNEVALUATED, Outcome.UNPARSABLE, Outcome.KILLED)
    assert not Path("owned").exists()


def copies_seconds(checker: MathChecker) -> float:
    """Seconds of processor time of all copies of the child that ended."""
    fields = Path(f"/proc/{worker_of(checker).pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")  # cutime, cstime


def test_a_tower_of_powers_is_killed_and_counted_and_the_next_answer_is_graded(math: Grader) -> None:
    assert math.grade(f"\\boxed{{{BOXES['tower of powers']}}}", "stop", "\\sqrt{7}") is Outcome.KILLED
    assert math.grade("\\boxed{7^{1/2}}", "stop", "\\sqrt{7}") is Outcome.RIGHT
    assert math.grade("\\boxed{6^{1/2}}", "stop", "\\sqrt{7}") is Outcome.WRONG


# --- a child that stands still, says nothing, or dies ------------------------------------------


def test_a_machine_that_stands_still_for_a_while_changes_no_grade(checker: MathChecker) -> None:
    process = worker_of(checker).pid
    os.kill(process, signal.SIGSTOP)
    goes_on = threading.Timer(14 * math_worker.PROCESSOR_SECONDS, os.kill, (process, signal.SIGCONT))
    goes_on.start()
    assert checker.equal("x+x", "2x") is True
    goes_on.join()


def test_a_silent_child_is_no_verdict_but_an_error(checker: MathChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    os.kill(worker_of(checker).pid, signal.SIGSTOP)
    monkeypatch.setattr(math_checker, "SILENT_SECONDS", 0.5)
    with pytest.raises(UserError, match=r"found nothing said for 0\.5 s"):
        checker.equal("x+x", "2x")
    monkeypatch.undo()
    assert checker.equal("x+x", "2x") is True  # of another child


def test_a_child_that_died_costs_no_answer_that_it_did_not_get(checker: MathChecker) -> None:
    worker_of(checker).kill()
    worker_of(checker).wait()
    assert checker.equal("1", "\\frac{2}{2}") is True


def test_a_child_that_is_ended_amid_its_answers_is_followed_by_one_that_gives_the_rest(checker: MathChecker) -> None:
    ends = threading.Timer(1.0, os.kill, (worker_of(checker).pid, signal.SIGKILL))
    ends.start()
    pairs = [("x", f"{number}x-{number - 1}x") for number in range(2, 202)]
    assert checker.equal_all(pairs) == [True] * 200
    ends.join()


# --- memory ------------------------------------------------------------------------------------


def test_an_answer_that_took_much_memory_has_no_verdict_whatever_came_of_it(tmp_path: Path) -> None:
    (tmp_path / "asked").write_text('[1, 1, [[0, "7", "\\\\frac{14}{2}"]]]\n')
    program = (
        "import os, sys; from chord.grading import math_worker as w; w.load(); w.load = lambda: None\n"
        "for peak in (2**30, 1000):\n"
        "    if not os.fork():\n"
        "        w.MEASURED_PEAK_KIB, sys.stdin = peak, open('asked'); w.main(); os._exit(0)\n"
        "    assert os.wait()[1] == 0"
    )
    code, out, err = ran(program, tmp_path)
    assert (code, out) == (0, "ready\n0 equal\nready\n0 killed\n"), err


def test_a_grader_in_a_large_process_works_as_in_a_small_one() -> None:
    # Linux counts a parent's memory as its child's peak (getrusage); a training process has gigabytes
    checker = "from chord.grading.math_checker import MathChecker; held = bytearray(b'1') * (700 << 20);"
    code, out, err = ran(f"{checker} print(MathChecker().equal('7', '\\\\frac{{14}}{{2}}'))")
    assert (code, out) == (0, "True\n"), err


# --- what a child may do, and when it ends -----------------------------------------------------


def test_the_child_has_limits_knows_no_secrets_and_ends_with_its_grader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_TOKEN", "hunter2")
    with Grader(MATH) as grader:
        assert grader.grade("\\boxed{7^{1/2}}", "stop", "\\sqrt{7}") is Outcome.RIGHT
        folder = Path(f"/proc/{worker_of(checker_of(grader)).pid}")
        assert b"hunter2" not in (folder / "environ").read_bytes()
        limits = {line[:26].strip(): line[26:].split()[0] for line in (folder / "limits").read_text().splitlines()}
        assert limits["Max address space"] == str(math_worker.MEMORY_BYTES)
        assert limits["Max file size"] == limits["Max core file size"] == "0"
    assert not folder.exists()


@pytest.mark.parametrize(
    "act",
    [
        "open('owned', 'w')",
        "open('owned', 'ab')",
        "os.open('owned', os.O_CREAT)",
        "os.system('touch owned')",
        "os.mkdir('owned')",
        "os.posix_spawn('/usr/bin/touch', ['touch', 'owned'], {})",
        "subprocess.run(['touch', 'owned'])",
        "socket.socket().connect(('127.0.0.1', 9))",
        "os.rename('kept', 'owned')",
        "os.remove('kept')",
        "os.kill(os.getppid(), 0)",
    ],
)
def test_the_guard_ends_the_child_at_the_first_act_on_the_world(tmp_path: Path, act: str) -> None:
    (tmp_path / "kept").write_text("kept")
    program = (
        "import os, socket, subprocess, sys; from chord.grading import math_worker;"
        f"sys.addaudithook(math_worker._guard); open('kept').read(); print('reads', flush=True); {act}; print('acted')"
    )
    assert ran(program, tmp_path)[:2] == (3, "reads\n")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("does", "seconds"),
    [
        ("time.sleep(600)", 20),
        (f"c.equal_all([('1', '{BOXES['nested braces'].replace('623', '1')}')] * 10_000)", 60),  # more than an hour
    ],
    ids=["idle", "busy"],
)
def test_the_child_ends_when_its_parent_is_killed_or_after_the_answers_that_it_is_at(does: str, seconds: float) -> None:
    program = (
        "import time; from chord.grading.math_checker import MathChecker; c = MathChecker();"
        f"c.equal('1', '\\\\frac{{2}}{{2}}'); print(c._worker.pid, flush=True); {does}"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = Path("/proc") / parent.stdout.readline().strip()
        while "equal_all" in does and not (child / "task" / child.name / "children").read_text():
            time.sleep(0.01)  # until it is at the first answers
        assert child.exists()
        parent.kill()
        parent.wait()
    try:
        assert gone([int(child.name)], seconds)
    finally:
        if child.exists():
            os.kill(int(child.name), signal.SIGKILL)


def test_a_child_that_cannot_start_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chord.grading.math_checker.sys.executable", "/bin/echo")
    with pytest.raises(UserError, match="expected it ready; install math-verify"):
        MathChecker().equal("1", "2")
