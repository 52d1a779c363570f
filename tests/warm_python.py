"""In the place of `python` for the jobs of a forked Snakemake: the servers of tests/warm.py fork `-m MODULE` for them.

Everything else, and what sets a variable that packages read when they are loaded, is started by the real Python. This
file is started for each job, so it loads little.
"""

import json
import os
import signal
import socket
import sys

JOBS = "CHORD_TEST_JOBS"  # in the environment of a command whose jobs are forked: the folder of the servers
NUMBER = 20  # bytes of a process number or an exit code on its way

# Packages read these when they are loaded. A command that sets one otherwise than the servers is started anew.
READ_ON_LOADING = ("ATEN_", "CUDA_", "DNNL_", "HF_", "HOME", "KMP_", "LANG", "LC_", "MKL_", "MPL", "OMP_", "PYTHON")
READ_ON_LOADING += ("TORCH", "VLLM_", "XDG_")
SEEN_LATER = ("CUDA_VISIBLE_DEVICES", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
SEEN_LATER += ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR")  # set by torch itself
LOADS_ITSELF = ("snakemake", "fetch")  # whatever reads a variable but those of Python itself
COMPUTE = ("train", "generate", "score", "validate", "prepare", "demonstrate", "ask-expert", "unpack", "adopt")


def server_for(words: list[str], environment: dict[str, str], folder: str) -> str | None:
    """The server that forks `python WORDS`: `computing` has loaded torch, `planning` Snakemake, which forks faster.

    None where packages that are loaded already have read another environment than this.
    """
    with open(os.path.join(folder, "environment.json"), encoding="utf-8") as file:
        own = json.load(file)
    program = words[2] if words[1:2] == ["chord"] and len(words) > 2 else words[1]
    prefixes = ("PYTHON",) if program in LOADS_ITSELF else READ_ON_LOADING
    for name in {name for name in {*environment, *own} if name.startswith(prefixes)} - {*SEEN_LATER}:
        is_one_thread = name.endswith("_NUM_THREADS") and environment.get(name) == "1"
        if environment.get(name) != own.get(name) and not is_one_thread:
            return None
    is_stub = environment.get("PYTHONPATH", "").endswith("/stub")
    computes = words[0] == "-c" or program in COMPUTE or program.startswith("tests.")
    return "computing" if computes and not is_stub else "planning"


def ask(server: str, words: list[str], folder: str, environment: dict[str, str], files: list[int]) -> socket.socket:
    """The line on which the server tells the number of the command's process, and later its exit code."""
    request = json.dumps({"words": words, "folder": folder, "environment": environment}).encode()
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.connect(server)
    socket.send_fds(line, [len(request).to_bytes(8, "big")], files)
    line.sendall(request)
    return line


def main() -> None:
    """Ends as the command ended: with its exit code, or by its signal."""
    folder, words, environment = os.environ[JOBS], sys.argv[1:], dict(os.environ)
    if words[:2] != ["-m", "snakemake"]:
        del environment[JOBS]
    server = server_for(words, environment, folder) if words[:1] == ["-m"] else None
    if server is None:
        os.execve(sys.executable, [sys.executable, *words], environment)
    with ask(os.path.join(folder, server), words, os.getcwd(), environment, [0, 1, 2]) as line:
        line.recv(NUMBER, socket.MSG_WAITALL)
        code = int(line.recv(NUMBER, socket.MSG_WAITALL) or 1)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
