"""A real Slurm with several nodes on this machine, private and thrown away: no accounting, no systemd, no cgroups.

The cluster is a machine of its own made of Linux namespaces: own host names, network, processes and /etc/slurm (the
plugin's inner srun finds no other: it drops SLURM_CONF). So several clusters run side by side, the machine's own
settings are not touched, and all that ever ran in a cluster ends with it, also when the tests are killed. Each node is
a namespace within that: it has its own name and processes, and dies as a whole, as a machine does. The file system is
that of the machine: what a job writes is seen by all, as on a shared disk.

GPUs are counted, handed out and told to jobs by CUDA_VISIBLE_DEVICES, but there is nothing behind them; CPUs and memory
are counted when jobs are scheduled, not enforced. Facts tried with Debian's Slurm 22.05.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.cluster.needs import SBIN, unshare

MARK = "CHORD_TEST_CLUSTER"  # in the environment of every process of a cluster: where its files are
GPUS = 2  # of each node
CONF = """\
ClusterName=chordtest
SlurmctldHost=login
SlurmctldPort=17000
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.sock,cred_expire=10
CredType=cred/munge
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,batch_sched_delay=0,bf_interval=2
ReturnToService=2
SlurmdTimeout=10
KillWait=2
MinJobAge={min_job_age}
RebootProgram=/bin/true
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=cpu Nodes=ALL Default=YES MaxTime=7-0 State=UP
PartitionName=gpu Nodes=ALL MaxTime=1-0 State=UP
"""


class Cluster:
    """Nodes n1, n2, ... with some GPUs each, in partitions `cpu` and `gpu`. A context: it runs within `with`."""

    def __init__(self, nodes: int = 4, min_job_age: int = 300) -> None:
        self.nodes = tuple(f"n{number}" for number in range(1, nodes + 1))
        self.root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: sockets have at most 107 characters
        self._min_job_age = min_job_age
        self.daemons: dict[str, subprocess.Popen[str]] = {}
        self._machine: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Cluster":
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process of the cluster, and remove its files."""
        if self._machine:
            assert self._machine.stdin
            self._machine.stdin.close()
            try:
                self._machine.wait(30)
            except subprocess.TimeoutExpired:
                self._machine.kill()
        for daemon in self.daemons.values():
            daemon.wait(30)
        shutil.rmtree(self.root, ignore_errors=True)

    # --- commands ------------------------------------------------------------------------------

    def popen(self, *command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, **more: Any):
        """A command on the cluster's login machine. Signals are for `signal_inside`: this process only waits for it."""
        place = ("sh", "-c", 'cd "$0" && exec "$@"', str(cwd or Path.cwd()))
        return subprocess.Popen((*self._within(), *place, *command), env=self._environment(env), text=True, **more)

    def run(self, *command: str, timeout: float = 300, check: bool = True, **more: Any) -> str:
        """What a command says on the login machine, errors in with the rest; it is killed after `timeout` seconds."""
        with self.popen(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more) as process:
            try:
                told, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                signal_inside(process, signal.SIGKILL)
                raise AssertionError(f"{command} did not end in {timeout} s:\n{process.communicate()[0]}") from None
        assert not check or process.returncode == 0, f"{command} ended with {process.returncode}:\n{told}"
        return told

    def squeue(self, form: str = "%i %T", *options: str) -> list[str]:
        """A line for each job that Slurm still knows, ended ones too (for `min_job_age` seconds); see `man squeue`."""
        return self.run("squeue", "--noheader", "--states=all", f"--format={form}", *options).splitlines()

    def states(self) -> dict[str, str]:
        """The state of each job by its id, an array's tasks as `ID_TASK`: PENDING, RUNNING, COMPLETED, FAILED, ..."""
        return dict(line.split() for line in self.squeue("%i %T", "--array"))

    def scancel(self, *options: str) -> None:
        """Cancel jobs."""
        self.run("scancel", *options)

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says: JobState, BatchHost, TresPerNode, Restarts, ..."""
        words = self.run("scontrol", "--details", "show", "job", number).split()
        return dict(word.partition("=")[::2] for word in words if "=" in word)

    # --- faults --------------------------------------------------------------------------------

    def node_kill(self, node: str) -> None:
        """The node's sudden death: slurmd and all that runs there, at once. Slurm notices after SlurmdTimeout, 10 s."""
        os.kill(process_one(self, node), signal.SIGKILL)
        daemon = self.daemons.pop(node)
        daemon.wait(30)  # unshare waits for process 1, which the kernel lets go after all others

    def node_start(self, node: str) -> None:
        """The node boots, and is back when this returns."""
        own = (*unshare(), "sh", "-c", f"hostname {node}; slurmd -D -N {node}; exit")
        self.daemons[node] = self._daemon(*own)
        self.wait_for(lambda: node in self._answering(), f"{node} is up")

    def controller_stop(self) -> None:
        """The central daemon saves what it knows, and ends; jobs run on."""
        daemon = self.daemons.pop("slurmctld")
        signal_inside(daemon, signal.SIGTERM)
        daemon.wait(30)

    def controller_start(self) -> None:
        """The central daemon starts, with the jobs that it knew."""
        self.daemons["slurmctld"] = self._daemon("slurmctld", "-D")
        self.wait_for(lambda: "UP" in self.run("scontrol", "ping", check=False), "slurmctld answers")

    def wait_for(self, holds: Callable[[], Any], what: str, timeout: float = 60) -> None:
        """Until `holds` does. Raises AssertionError with `what` and the end of Slurm's log."""
        end, log = time.monotonic() + timeout, self.root / "log/slurmctld.log"
        while not holds():
            if time.monotonic() > end:
                raise AssertionError(f"waited {timeout} s in vain: {what}\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)

    # --- start ---------------------------------------------------------------------------------

    def _start(self) -> None:
        self._write_files()
        inside = (sys.executable, str(Path(__file__).with_name("inside.py")), str(self.root))
        own = (*unshare(), *inside)
        self._machine = subprocess.Popen(
            [*own[:1], "--net", *own[1:]],
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._machine.stdout
        assert self._machine.stdout.readline() == "ready\n", "the cluster's machine did not start"
        self._machine.stdout.close()
        self._start_munge()
        self.controller_start()
        for node in self.nodes:
            self.node_start(node)

    def _write_files(self) -> None:
        for name in ("etc", "run", "log", "state", "spool", "dev", "munge"):
            (self.root / name).mkdir(mode=0o755)
        self.root.chmod(0o755)
        # Slurm finds no address at all on a machine that has none but 127.0.0.1.
        hosts = [f"10.0.0.{number} {name}\n" for number, name in enumerate(("login", *self.nodes), start=1)]
        (self.root / "hosts").write_text("".join(["127.0.0.1 localhost\n", *hosts]))
        nodes = "\n".join(
            f"NodeName={node} Port={17100 + number} CPUs=16 RealMemory=256000 Gres=gpu:fake:{GPUS} State=UNKNOWN"
            for number, node in enumerate(self.nodes, start=1)
        )
        settings = CONF.format(root=self.root, nodes=nodes, min_job_age=self._min_job_age)
        (self.root / "etc/slurm.conf").write_text(settings)
        # Slurm sets CUDA_VISIBLE_DEVICES for character devices alone; these have a number that no driver has.
        for number in range(GPUS):
            subprocess.run(["mknod", self.root / f"dev/gpu{number}", "c", "240", str(number)], check=True)
        devices = f"NodeName=n[1-{len(self.nodes)}] Name=gpu Type=fake File={self.root}/dev/gpu[0-{GPUS - 1}]\n"
        (self.root / "etc/gres.conf").write_text(devices)
        (self.root / "etc/cgroup.conf").write_text("CgroupAutomount=no\n")

    def _start_munge(self) -> None:
        key = self.root / "munge/key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        socket = self.root / "run/munge.sock"
        files = {"key-file": key, "socket": socket, "pid-file": self.root / "run/munged.pid"}
        files |= {"log-file": self.root / "log/munged.log", "seed-file": self.root / "munge/seed"}
        options = [f"--{name}={path}" for name, path in files.items()]
        self.daemons["munged"] = self._daemon("munged", "--foreground", "--force", "--num-threads=4", *options)
        self.wait_for(lambda: "Success" in self._munge(socket), "munged answers")

    def _munge(self, socket: Path) -> str:
        return self.run("sh", "-c", f"munge --socket={socket} --no-input | unmunge --socket={socket}", check=False)

    def _within(self) -> tuple[str, ...]:
        assert self._machine, "the cluster is not started"
        return ("nsenter", f"--target={_child(self._machine.pid)}", "--mount", "--pid", "--net", "--uts", "--ipc", "--")

    def _daemon(self, *command: str) -> subprocess.Popen[str]:
        with (self.root / "log/daemons.log").open("a") as log:
            return subprocess.Popen(
                (*self._within(), *command), env=self._environment(), text=True, stdout=log, stderr=log
            )

    def _answering(self) -> list[str]:
        states = "--states=idle,mixed,allocated"
        return self.run("sinfo", "--noheader", "--Node", "--format=%N", "--responding", states).split()

    def _environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """That of this process without what would lead to another Slurm."""
        another = ("SLURM_", "SBATCH_", "SNAKEMAKE_")
        own = {name: value for name, value in os.environ.items() if not name.startswith(another)}
        path = f"{own.get('PATH', os.defpath)}:{SBIN}"
        return own | {"PATH": path, MARK: str(self.root)} | dict(more or {})


def signal_inside(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Signal the command that `Cluster.popen` started; nothing happens if it has ended."""
    with suppress(OSError, ValueError):
        os.kill(_child(process.pid), number)


def process_one(cluster: Cluster, node: str) -> int:
    """The first process of a node, whose namespaces are those of all that runs there."""
    return _child(_child(cluster.daemons[node].pid))


def processes_of(root: Path) -> list[int]:
    """All living processes, daemons and jobs, of the cluster that has its files there."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"{MARK}={root}".encode() in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return found


def _child(process: int) -> int:
    """The process that unshare or nsenter started and waits for. Raises ValueError if there is none."""
    return int(Path(f"/proc/{process}/task/{process}/children").read_text())
