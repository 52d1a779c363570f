"""What a private Slurm needs of this machine; Debian's packages are installed where root may."""

import fcntl
import os
import shutil
import subprocess
import sys

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "munged")
SBIN = "/usr/sbin:/sbin"
NEEDED = ("unshare", "nsenter", "mount", "mknod")


def why_not() -> str | None:
    """Why no cluster can be started here; None if one can. Installs Debian's packages where root may."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a private Slurm needs root on Linux"
    if missing := [name for name in NEEDED if not _which(name)]:
        return f"a private Slurm needs {', '.join(missing)}"
    tried = subprocess.run([*unshare(), "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"a private Slurm needs namespaces: {tried.stderr.strip()}"
    return _install()


def unshare() -> tuple[str, ...]:
    """Begins a command that runs in a machine of its own, all but its network, and ends with all that it started."""
    return ("unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc")


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")


def _install() -> str | None:
    """Debian's packages, if they are missing. Returns why they still are."""
    if all(map(_which, PROGRAMS)):
        return None
    if not _which("apt-get"):
        return f"a private Slurm needs {', '.join(PROGRAMS)}, and this machine has no apt-get to install them"
    with open("/tmp/chord-tests-install-slurm.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
            if all(map(_which, PROGRAMS)):
                break
            # RUNLEVEL=1: no service is started by its installation.
            quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
            done = subprocess.run(["apt-get", *arguments], env=quiet, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return f"Slurm could not be installed: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}"
    missing = [name for name in PROGRAMS if not _which(name)]
    return f"a private Slurm needs {', '.join(missing)}" if missing else None
