"""Starts a training as one process for each GPU of each node, and names the one that ends the others.

    chord launch --per-node 4 --logs FOLDER -- python -m chord train ...

On one node by itself. On several each node runs this command, as srun does; who is first, and how many there are, is
read from what Slurm tells inside srun. What each process says goes to this process's own output and to FOLDER. If one
of them fails, the others are ended within seconds; its rank, node, end and log are told, and kept in
FOLDER/failures.log, for Snakemake removes a job's log when it starts the job again. Exit codes: 0, 75 if the
training saved and is to be continued, else 1.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from chord.provenance.cli import Number

CONTINUE_ME = 75
JOIN_SECONDS = 300


class Place(NamedTuple):
    """This node among those of the job, and where all of them meet."""

    node: int
    nodes: int
    meeting: str  # host:port


def main() -> int:
    """Start the processes and wait for them; gives the exit code."""
    args = _arguments()
    place = place_in(os.environ)
    # Slurm sends SIGUSR1 to every process of a job; the ranks save and end by themselves.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    here = [f"--nnodes={place.nodes}", f"--node-rank={place.node}", "--rdzv-backend=static"]
    here += [f"--rdzv-endpoint={place.meeting}", f"--rdzv-conf=timeout={JOIN_SECONDS}"]
    here += [f"--rdzv-id={os.environ.get('SLURM_JOB_ID', 'alone')}", "--monitor-interval=1"]
    here += [f"--nproc-per-node={args.per_node - (args.beside if place.node == 0 else 0)}"]
    here += [f"--log-dir={args.logs}", "--redirects=3", "--tee=3", "--no-python", "--", *args.command]
    args.logs.mkdir(parents=True, exist_ok=True)
    # A thread for each rank writes here. Lines are passed on at once; before Python 3.12 a buffer that threads share
    # can lose one (cpython issue 97922).
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(line_buffering=True)
    try:
        torchrun.main(here)
    except ChildFailedError as error:
        for rank, failure in error.failures.items():
            line = told(rank, failure, args.logs)
            print(f"chord launch: {line}", file=sys.stderr, flush=True)
            with (args.logs / "failures.log").open("a") as kept:
                kept.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n")
        return CONTINUE_ME if {one.exitcode for one in error.failures.values()} == {CONTINUE_ME} else 1
    except SignalException:
        return 1
    return 0


def place_in(environment: Mapping[str, str]) -> Place:
    """Which node this is: alone without Slurm and where its step has one node; else all meet at the first named."""
    nodes = int(environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES") or 1)
    if nodes == 1 or "SLURM_NODEID" not in environment:
        return Place(0, 1, f"127.0.0.1:{_free_port()}")
    listed = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
    names = subprocess.run(["scontrol", "show", "hostnames", listed], capture_output=True, text=True, check=True)
    # The same on all nodes, and another one for each job: the range is below that of a system's own choices.
    port = 20_000 + int(environment["SLURM_JOB_ID"]) % 10_000
    return Place(int(environment["SLURM_NODEID"]), nodes, f"{names.stdout.split()[0]}:{port}")


def told(rank: int, failure: ProcessFailure, logs: Path) -> str:
    """Which process ended how, and where its words are."""
    end = f"ended with exit code {failure.exitcode}"
    if failure.exitcode < 0:
        end = f"was ended by {signal.Signals(-failure.exitcode).name}"
    found = sorted(logs.rglob(f"{failure.local_rank}/stderr.log"), key=lambda path: path.stat().st_mtime)
    where = f"local rank {failure.local_rank} on {socket.gethostname()}, process {failure.pid}"
    return f"rank {rank} ({where}) {end}; its log: {found[-1] if found else logs}"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chord launch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--per-node", action=Number, required=True, help="processes on each node: one for each GPU")
    parser.add_argument(
        "--beside", action=Number, least=0, default=0, help="fewer on the first node, whose last GPUs servers take"
    )
    parser.add_argument("--logs", type=Path, required=True, help="folder for what each process says")
    parser.add_argument("command", nargs="+", help="after --: what each process runs")
    args = parser.parse_args()
    if args.beside >= args.per_node:
        parser.error(
            f"found --beside {args.beside} of --per-node {args.per_node}, expected a process on the first node"
        )
    return args
