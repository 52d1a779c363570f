"""What a job of a local Snakemake costs before and after its own work: started alone, and forked.

    python -m benchmarks.start_up             # 5 rounds; prints a table
    python -m benchmarks.start_up 20

Processor seconds, user and system, of the job and of what the server spends on it; the two ways take turns. `--help`
loads what the verb's module loads; `prepare` also reads config/, records the job and draws 128 problems. What the
server spends once, to load packages, is told beside it.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chord.cluster.warm import FORKED_BY, ONE_THREAD, start

TICKS = os.sysconf("SC_CLK_TCK")
PREPARE = ("prepare", "--study", "demo", "--set", "validation")
JOBS = [("train", "--help"), ("generate", "--help"), ("score", "--help"), ("tabulate", "--help"), PREPARE]


def main() -> None:
    """Measure each job and print a line for it."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    environment = os.environ | ONE_THREAD | {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    name = start()
    assert name, "this machine forks no jobs"
    server = int(Path(f"/proc/self/task/{os.getpid()}/children").read_text())
    print("| job | started alone, CPU s | forked, CPU s | ratio | once for all, CPU s |")
    print("|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="chord-start-") as folder:
        for verb, *words in JOBS:
            if verb == "prepare":
                flags = {"problems": "p.jsonl", "counts": "p.json", "manifest": "p.manifest.json"}
                words += [word for flag, file in flags.items() for word in (f"--{flag}", f"{folder}/{file}")]
            command = ["bash", "-c", f"python -m chord {verb} {' '.join(words)} > {folder}/log 2>&1"]
            once = spent(command, environment | {FORKED_BY: name}, server)
            alone = forked = 0.0
            for _ in range(rounds):
                alone += spent(command, environment, server) / rounds
                forked += spent(command, environment | {FORKED_BY: name}, server) / rounds
            shown = " ".join((verb, *words)).partition(" --problems")[0]
            row = f"{alone:.2f} | {forked:.2f} | {forked / alone:.2f} | {once - forked:.2f}"
            print(f"| `{shown}` | {row} |", flush=True)


def spent(command: list[str], environment: dict[str, str], server: int) -> float:
    """Processor seconds of a job, with those of the server and of the forks that it has waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN), _of(server)
    subprocess.run(command, env=environment, check=True)
    time.sleep(0.1)  # until the server has waited for the fork
    after = resource.getrusage(resource.RUSAGE_CHILDREN), _of(server)
    own = (after[0].ru_utime + after[0].ru_stime) - (before[0].ru_utime + before[0].ru_stime)
    return own + after[1] - before[1]


def _of(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


if __name__ == "__main__":
    main()
