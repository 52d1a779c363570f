"""The child process of the math grader: compares pairs of answers, wanted and given, by computer algebra (math-verify).

It reads a list of pairs a line and says of each, in any order, "place equal", "place different" or "place killed". It
reads no answer itself: it loads all that computer algebra may need, and then compares each pair in a fresh copy of
itself (a fork). So no verdict depends on what was compared before, nor on whether the bytecode of a library is stored.
Each copy limits itself: memory, time on the processor, no file may be written, no program started, no connection
opened. All end when their parent does. Needs Linux. Loads no computer algebra when it is imported.
"""

import gc
import importlib  # not followed: it loads sympy, which pins decide
import json
import os
import pkgutil  # not followed: it loads sympy, which pins decide
import resource
import signal
import sys
import warnings
from collections import Counter
from functools import cache
from typing import Any, NoReturn

MEMORY_BYTES = 2**30
PROCESSOR_SECONDS = 0.5  # for one pair; time on the processor, so that a busy machine changes no outcome
MEASURED_PEAK_KIB = 2**19  # a pair that needed half the memory was a trap, whatever came of it
EQUAL, DIFFERENT = 40, 41  # exit codes of a copy; with any other it was ended
FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.remove", "os.rename", "os.rmdir", "os.mkdir",
    "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.kill", "subprocess.Popen", "shutil.", "socket.",
    "ctypes.", "pty.", "urllib.", "webbrowser.",
)  # fmt: skip
# The rooms of sympy that comparing may enter; it imports some of their modules only when they are needed.
ROOMS = ("assumptions", "calculus", "concrete", "core", "functions", "integrals", "logic", "matrices", "ntheory",
         "polys", "series", "sets", "simplify", "solvers")  # fmt: skip
# Compared in advance, so that the copies find the parser of LaTeX quick.
WARM_UP = [
    (r"\frac{84}{2}", r"x+\frac{1}{2}"), (r"(1,\frac{9}{2})", r"(\frac{2}{3},-1)"),
    (r"\{1,\frac{1}{2},-3\}", r"\{2,\sqrt{2}\}"), (r"x^{2}+1", r"x=1"), (r"x^2-\frac{x}{3}", r"3x^{3}-2x^2y+y^{4}-5"),
    (r"\sqrt{2}", r"\pi"), (r"0<x<1", r"(0,1)"), (r"x\leq-\frac{1}{2}", r"(-\infty,\frac{1}{2}]"),
    (r"m\geq\sqrt{2}", r"[\sqrt{2},+\infty)"), (r"2x+4y-3=0", r"y=-\frac{1}{2}x+\frac{3}{4}"),
    (r"x=1,y=2", r"x^2+y^2=4"), (r"a=1\text{or}a=-2", r"1\text{and}2"),
    (r"(2,12)\cup(12,102)", r"(2,102)\setminus\{12\}"),
    (r"\begin{pmatrix}1&-2\\3&\frac{1}{4}\end{pmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}"),
    (r"\frac{1}{\sqrt{n}}", r"\sqrt{\frac{1}{n}}"), (r"5!", r"\binom{6}{2}"), (r"\sin^2(x)", r"1-\cos^2(x)"),
    (r"\tan^2(y)+1", r"\sec^2(y)"), (r"\frac{\sqrt{3}}{2}-\frac{\pi}{6}", r"-\frac{2\sqrt{5}+1}{3}"),
    (r"e^{-2x}+e^{2}", r"\log_2(x)"), (r"\ln(2)", r"\log_{3}{x}"), (r"3+4i", r"\frac{1-i}{2}"),
    (r"f(x)=x^2", r"2^{n+1}-2^{-n}"), (r"\sum_{k=1}^{n}k", r"\frac{n(n+1)}{2}"),
    (r"\int_{0}^{1}x^2dx", r"\lim_{x\to0}x"), (r"|x-1|", r"\lfloor x\rfloor"),
    (r"\arctan(\frac{1}{2})", r"\cos60^\circ"), (r"k\pi", r"(a+b)(a-b)"),
]  # fmt: skip


def main() -> None:
    """Answers until the questions end."""
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        load()
    except ImportError as error:
        os.write(answers, f"{error}\n".encode())
        return
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    gc.collect()
    gc.freeze()  # so that a copy's collector does not touch, and so copy, all that was loaded
    parent = os.getppid()
    os.write(answers, b"ready\n")
    for line in sys.stdin:
        workers, most, groups = json.loads(line)
        _compare_all(workers, most, groups, answers, parent)


def load() -> None:
    """Imports all that comparing may import, and compares a few pairs."""
    import sympy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for room in ROOMS:
            _import_all(importlib.import_module(f"{sympy.__name__}.{room}"))
        for wanted, given in WARM_UP:
            equal(wanted, given)


def equal(wanted: str, given: str) -> bool:
    """Whether math-verify finds two answers in LaTeX equal, their values compared exactly."""
    from math_verify import verify
    from math_verify.grader import should_treat_as_complex

    is_complex = should_treat_as_complex(wanted) or should_treat_as_complex(given)
    try:
        parsed = [_parsed(text, not is_complex) for text in (wanted, given)]
    except Exception:  # noqa: BLE001 # the parser raises what it likes; what it cannot read is equal to nothing
        return False
    # Its own time limit is switched off (None): it is a signal, which computer algebra in C does not see.
    return _exact() and verify(parsed[0], parsed[1], allow_set_relation_comp=True, timeout_seconds=None)


def _import_all(room: Any) -> None:
    for module in pkgutil.iter_modules(room.__path__, room.__name__ + "."):
        if module.name.rpartition(".")[2] in ("tests", "benchmarks"):
            continue
        try:
            found = importlib.import_module(module.name)
        except ImportError:  # what sympy can do with a library that is not installed
            continue
        if module.ispkg:
            _import_all(found)


@cache
def _exact() -> bool:
    """Has math-verify, which compares numbers after rounding, compare values exactly."""
    import logging

    from math_verify import grader

    from chord.grading.math_values import same_value

    logging.disable(logging.CRITICAL)
    by_name = grader.sympy_compare_symbols
    grader.sympy_numeric_eq = lambda one, other, _rounding, _precision: same_value(one, other)
    grader.sympy_symbolic_eq = lambda one, other: False
    grader.sympy_compare_symbols = lambda one, other: by_name(one, other) or same_value(one, other)
    return True


def _parsed(text: str, is_real: bool) -> Any:
    from latex2sympy2_extended import latex2sympy2

    reader: Any = latex2sympy2
    rules = reader.NormalizationConfig(units=False, malformed_operators=True, nits=False, boxed="none")
    text = reader.normalize_latex(text, rules)
    return reader.latex2sympy(text, is_real=is_real, convert_degrees=False, normalization_config=None)


def _compare_all(workers: int, most: int, groups: list[list[Any]], answers: int, parent: int) -> None:
    """Compares the pairs of each [group, wanted, given], `workers` at a time, and says what came of each.

    A pair is not compared once `most` pairs before it in its group were ended over their limits.
    """
    running: dict[int, int] = {}
    ended: Counter[Any] = Counter()

    def reap() -> None:
        copy, status = os.wait()
        place = running.pop(copy)
        said = {EQUAL: "equal", DIFFERENT: "different"}.get(os.waitstatus_to_exitcode(status), "killed")
        ended[groups[place][0]] += said == "killed"
        os.write(answers, f"{place} {said}\n".encode())

    for place, (group, wanted, given) in enumerate(groups):
        if len(running) == workers:
            reap()
        if os.getppid() != parent:
            os._exit(1)
        if ended[group] >= most:
            os.write(answers, f"{place} killed\n".encode())
            continue
        copy = os.fork()
        if not copy:
            os.close(answers)
            _compare(wanted, given)
        running[copy] = place
    while running:
        reap()


def _compare(wanted: str, given: str) -> NoReturn:
    """In the copy: ends it with what it found."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.dont_write_bytecode = True  # a module that was not loaded before is no act on the world
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the system ends the process, which may be deep in C, at its limit
    sys.addaudithook(_guard)
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
    try:
        code = EQUAL if equal(wanted, given) else DIFFERENT
        os._exit(code if _peak_kib() <= MEASURED_PEAK_KIB else 1)
    finally:
        os._exit(1)


def _peak_kib() -> int:
    """The most memory that this program ever held. (getrusage counts that of the parent that started it, too.)"""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    """Ends the process at the first attempt to act on anything outside of it."""
    if event.startswith(FORBIDDEN) or (event == "open" and _writes(arguments)):
        os._exit(3)


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    by_flags = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    return bool(by_flags) or (isinstance(mode, str) and any(letter in mode for letter in "wax+"))


if __name__ == "__main__":
    main()
