"""In the place of `python` for what a command that `tests/warm.py` forked starts itself: forks `-m MODULE` as well.

Everything else, and what sets a variable that packages read when they are loaded, is started by the real Python.
"""

import json
import os
import signal
import socket
import sys

NUMBER = 20  # bytes of a process number or an exit code on its way
LINE = "CHORD_TEST_LINE"  # names the folder with this interpreter, its sockets and what they expect


def main() -> None:
    """Ends as the command ended: with its exit code, or by its signal."""
    with open(os.path.join(os.environ[LINE], "lines.json"), encoding="utf-8") as file:
        told = json.load(file)
    words = sys.argv[1:]
    is_verb = len(words) > 2 and words[1] == "chord"
    program = words[2] if is_verb else words[1].rpartition(".")[2] if len(words) > 1 else ""
    computes = program in told["compute"]
    place = told["computing" if computes else "planning"]
    environment = dict(os.environ)
    if words[:2] != ["-m", "snakemake"]:
        del environment[LINE]
    itself = words[:1] == ["-m"] and program in told["loads itself"]
    if words[:1] != ["-m"] or not place or not as_there(environment, told["read"], itself):
        os.execve(told["python"], [told["python"], *words], environment)
    request = json.dumps({"words": words, "folder": os.getcwd(), "environment": environment}).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.connect(place)
        socket.send_fds(line, [len(request).to_bytes(8, "big")], [0, 1, 2])
        line.sendall(request)
        line.recv(NUMBER, socket.MSG_WAITALL)
        code = int(line.recv(NUMBER, socket.MSG_WAITALL) or 1)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def as_there(environment: dict[str, str], read: dict[str, str], itself: bool) -> bool:
    """Whether variables that packages read have the values of `read`; one thread may be said in any library's words.

    For a command that loads `itself` whatever reads them, only those of Python count.
    """
    if itself:
        names = {name for name in {*environment, *read["values"]} if name.startswith("PYTHON")} - {*read["later"]}
        return all(environment.get(name) == read["values"].get(name) for name in names)
    one = {name for name, value in environment.items() if name.endswith("_NUM_THREADS") and value == "1"}
    names = {name for name in environment if name.startswith(tuple(read["prefixes"]))} - {*read["later"], *one}
    return all(environment[name] == read["values"].get(name) for name in names) and {*read["values"]} <= {*environment}


if __name__ == "__main__":
    main()
