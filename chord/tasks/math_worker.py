"""The child process of the math grader: reads [wanted, given] a line, says "equal" or "different" (math-verify).

It limits itself before it reads any answer: memory, time on the processor, no file may be written, no program started,
no connection opened. It ends when its parent does. Needs Linux. Loads no computer algebra when
it is imported.
"""

import json
import os
import resource
import signal
import sys
from typing import Any

MEMORY_BYTES = 2**30
PROCESSOR_SECONDS = 2.0  # for one answer; time on the processor, so that a busy machine changes no outcome
MEASURED_PEAK_KIB = 2**19  # an answer that needed half the memory was a trap, whatever came of it
FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.remove", "os.rename", "os.rmdir", "os.mkdir",
    "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.kill", "subprocess.Popen", "shutil.", "socket.",
    "ctypes.", "pty.", "urllib.", "webbrowser.",
)  # fmt: skip
WARM_UP = [
    ("42", "\\frac{84}{2}"),
    ("(1,2)", "(2, 1)"),
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("x^2+1", "x=1"),
    ("\\sqrt{2}", "\\pi"),
]


def main() -> None:
    """Answers until the questions end."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        for wanted, given in WARM_UP:
            equal(wanted, given)
    except ImportError as error:
        answers.write(f"{error}\n")
        return
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the system ends the process, which may be deep in C, at its limit
    sys.addaudithook(_guard)
    answers.write("ready\n")
    for line in sys.stdin:
        wanted, given = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
        verdict = "equal" if equal(wanted, given) else "different"
        signal.setitimer(signal.ITIMER_PROF, 0)
        if _peak_kib() > MEASURED_PEAK_KIB:
            return
        answers.write(f"{verdict}\n")


def equal(wanted: str, given: str) -> bool:
    """Whether math-verify finds the content of a box equal to the wanted answer."""
    import logging

    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    reading: Any = [LatexExtractionConfig(boxed_match_priority=0)]
    # Its own time limits are switched off (None): they are signals, which computer algebra in C does not see.
    parsed = [
        parse(f"\\boxed{{{text}}}", reading, fallback_mode="no_fallback", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        for text in (wanted, given)
    ]
    return verify(parsed[0], parsed[1], timeout_seconds=None)


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
