"""Where a program ran: git state, packages, pins, machine, allowed environment. Records nothing that may be a secret.

The environment is an allow-list. Every text that is written down goes through `scrubbed`, which takes out passwords
in addresses, values of options with telling names, well-known forms of tokens, and the value of every environment
variable whose name says that it is a secret, wherever that value stands.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

from chord.provenance.digest import PROJECT
from chord.provenance.files import file_sha256
from chord.reach import decides_nothing

REMOVED = "[removed]"
KEY_PACKAGES = """accelerate datasets deepspeed lm-eval math-verify matplotlib numpy pydantic pyyaml reasoning-gym
    safetensors snakemake sympy tensorboard tokenizers torch transformers triton vllm xgrammar flash-attn"""
ALLOWED_ENVIRONMENT = """OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS OMP_PROC_BIND CUDA_VISIBLE_DEVICES
    CUBLAS_WORKSPACE_CONFIG CUDA_LAUNCH_BLOCKING NVIDIA_TF32_OVERRIDE NCCL_ALGO NCCL_PROTO PYTHONHASHSEED
    PYTHONOPTIMIZE TOKENIZERS_PARALLELISM ATEN_CPU_CAPABILITY MKL_CBWR ONEDNN_MAX_CPU_ISA HF_HUB_OFFLINE
    TRANSFORMERS_OFFLINE HF_DATASETS_OFFLINE VLLM_BATCH_INVARIANT VLLM_ENABLE_V1_MULTIPROCESSING
    VLLM_ATTENTION_BACKEND VLLM_USE_FLASHINFER_SAMPLER RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE SLURM_JOB_ID
    SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID SLURM_JOB_NODELIST SLURM_JOB_NUM_NODES SLURM_JOB_PARTITION SLURM_NTASKS
    SLURM_CPUS_PER_TASK SLURM_GPUS SLURM_RESTART_COUNT"""
_SECRET_NAME = re.compile(
    r"TOKEN(?!S|I)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|(API|ACCESS|PRIVATE|SIGNING)[-_]?KEY|AUTH|COOKIE|[-_]KEY$|[-_]PAT$",
    re.IGNORECASE,
)
_OPTION = re.compile(r"(--?[A-Za-z][\w-]*|[A-Za-z_]\w*)=(.*)", re.DOTALL)
_SECRET_TEXT = [
    (re.compile(r"(?i)([a-z][a-z0-9+.-]*://)[^/@\s]+@"), rf"\1{REMOVED}@"),
    (re.compile(r"(?i)\b(bearer|basic) +[\w.~+/=-]{8,}"), rf"\1 {REMOVED}"),
    (re.compile(r"(?i)([?&;][\w-]*(?:token|secret|passw\w*|key|signature)=)[^&\s]+"), rf"\1{REMOVED}"),
    (
        re.compile(
            r"\b(hf_\w{10,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|sk-[\w-]{16,}|xox[abeprs]-[\w-]{10,}"
            r"|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|nvapi-[\w-]{16,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)"
        ),
        REMOVED,
    ),
]


# --- secrets -----------------------------------------------------------------------------------


def scrubbed(value: Any) -> Any:
    """`value` (text, or lists and mappings of it) without what looks like a secret, and without the project's place."""
    if isinstance(value, str):
        value = _without_place(value)
        for secret in _secret_values(tuple(os.environ.items())):
            value = value.replace(secret, REMOVED)
        for pattern, replacement in _SECRET_TEXT:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, Mapping):
        return {scrubbed(key): scrubbed(item) for key, item in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [scrubbed(item) for item in cast(Iterable[Any], value)]
    return value


def _without_place(text: str) -> str:
    """Paths below the project's folder as seen from it, so that a record holds wherever the project goes."""
    here = os.getcwd()
    folders = {folder for folder in (str(PROJECT), here) if folder in text}
    if here != str(PROJECT) and here in folders and not os.path.isdir(os.path.join(here, "config")):
        folders.remove(here)
    for folder in sorted(folders, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.-]){re.escape(folder)}(?:(/)|(?![\w.-]))", lambda found: "" if found[1] else ".", text)
    return text


def scrubbed_command(arguments: list[str]) -> list[str]:
    """A command line without the values of options whose names say that they are secret, otherwise `scrubbed`."""
    out: list[str] = []
    hide_next = False
    for argument in arguments:
        option = _OPTION.fullmatch(argument)
        is_secret = bool(_SECRET_NAME.search(option[1] if option else argument))
        if hide_next:
            out.append(REMOVED)
        else:
            out.append(f"{option[1]}={REMOVED}" if option and is_secret else scrubbed(argument))
        hide_next = not hide_next and not option and argument.startswith("-") and is_secret
    return out


@lru_cache(1)
def _secret_values(environment: tuple[tuple[str, str], ...]) -> list[str]:
    """Values of secret environment variables, longest first; a short one would also be found where it is not meant."""
    values = {value for name, value in environment if _SECRET_NAME.search(name) and len(value) >= 6}
    return sorted(values, key=len, reverse=True)


# --- what is recorded --------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """The allowed variables that are set."""
    return {name: scrubbed(os.environ[name])[:300] for name in ALLOWED_ENVIRONMENT.split() if name in os.environ}


def machine() -> dict[str, str | int]:
    """System, processor, number of cores, and what `accelerator` and `container` say; the verb adds the device."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "libc": " ".join(platform.libc_ver()),
        **accelerator(),
        **container(),
    }


def accelerator(root: Path = Path("/")) -> dict[str, str]:
    """Versions of the NVIDIA driver, of torch's CUDA and of NCCL; each is absent where there is none.

    The driver is asked of the kernel under `root`, else of nvidia-smi on the PATH. CUDA and NCCL are those that torch
    uses, where this process has loaded a CUDA build of it, else those that are installed as packages.
    """
    versions = {
        "nvidia_driver": _driver(root),
        "cuda": _package("nvidia-cuda-runtime"),
        "nccl": _package("nvidia-nccl"),
    }
    torch = sys.modules.get("torch")  # not followed: it is recorded
    if torch is not None and torch.version.cuda:
        versions |= {"cuda": torch.version.cuda, "nccl": ".".join(map(str, torch.cuda.nccl.version()))}
    return {name: version for name, version in versions.items() if version}


@cache
def container() -> dict[str, str]:
    """The image that this process runs in, by its digest; nothing outside of one, or where none can be told.

    Apptainer and Singularity name the image file, which is hashed where it can be read in the container. An OCI image
    does not know its own digest: whoever starts it says so in CHORD_IMAGE_DIGEST.
    """
    found = {}
    if file := os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER"):
        found["container"] = Path(file).name
        if Path(file).is_file():
            found["container_digest"] = f"sha256:{file_sha256(Path(file))}"
    if digest := os.environ.get("CHORD_IMAGE_DIGEST"):
        found["container_digest"] = digest
    return scrubbed(found)


def git_state(root: Path) -> dict[str, Any]:
    """Commit of the project in `root`, whether the tree differs from it, and the hash of the difference.

    The difference itself is not kept: it may hold a secret. Untracked files are counted; the code among them is in
    the code digest. `why` says why there is no commit: no git, not a checkout, not the project's own checkout.
    """
    try:
        _git(root, "ls-files", "--error-unmatch", "chord/__init__.py")
        commit = _git(root, "rev-parse", "HEAD").decode().strip()
        lines = [line for line in _git(root, "status", "--porcelain=v1", "-z", "--", ".").split(b"\0") if line]
        untracked = sum(line.startswith(b"?? ") for line in lines)
        dirty, difference = untracked < len(lines), None
        if dirty:
            words = ("diff", "HEAD", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--", ".")
            difference = hashlib.sha256(_git(root, *words)).hexdigest()
        return {"commit": commit, "dirty": dirty, "diff_sha256": difference, "untracked": untracked, "why": None}
    except FileNotFoundError:
        why = "git is not installed"
    except subprocess.TimeoutExpired:
        why = "git did not answer within 30 s"
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        why = scrubbed(said[0][:200]) if said else f"git ended with {error.returncode}"
    return {"commit": None, "dirty": None, "diff_sha256": None, "untracked": None, "why": why}


@cache
def installed() -> dict[str, str]:
    """Version of every distribution on the import path, read from the names of their dist-info folders."""
    found: dict[str, str] = {}
    for place in sys.path:
        for folder in sorted(Path(place).glob("*-*.dist-info")):
            distribution, version = folder.name.removesuffix(".dist-info").rsplit("-", 1)
            found.setdefault(re.sub(r"[-_.]+", "-", distribution).lower(), version)
    return dict(sorted(found.items()))


def installed_for() -> str:
    """What envs/install.py made this environment for, `cuda` or `cpu`; `` where another installer made it."""
    file = Path(sys.prefix) / "installed-for"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


@decides_nothing("pins are compared by themselves")
def key_packages() -> dict[str, str]:
    """Installed versions of the packages that decide results."""
    return {name: installed()[name] for name in KEY_PACKAGES.split() if name in installed()}


def packages_sha256() -> str:
    """One hash over everything installed, name and version, so that a difference outside `key_packages` shows too."""
    return hashlib.sha256("".join(f"{name}=={version}\n" for name, version in installed().items()).encode()).hexdigest()


def pinned(root: Path, step: str) -> dict[str, str]:
    """Version by package of what `envs/STEP.txt` pins, of all steps joined by `+`; a missing file pins none."""
    files = [root / "envs" / f"{part}.txt" for part in step.split("+")]
    text = "\n".join(file.read_text("utf-8") for file in files if file.is_file())
    lines = (line.partition("#")[0].strip().partition("==") for line in text.splitlines())
    return dict(sorted((name, version) for name, _, version in lines if version))


def pins(root: Path) -> dict[str, str]:
    """SHA-256 of each `envs/*.txt` of the project."""
    return {f"envs/{path.name}": file_sha256(path) for path in sorted(root.glob("envs/*.txt"))}


def _git(root: Path, *arguments: str) -> bytes:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    clean |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    command = ["git", "-C", str(root), "-c", "core.fsmonitor=false", *arguments]
    return subprocess.run(
        command, env=clean, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=30
    ).stdout


def _package(name: str) -> str:
    """Version of an installed package of this name; such names may end in the CUDA that they are for, as in -cu13."""
    return next((version for each, version in installed().items() if re.fullmatch(rf"{name}(-cu\d+)?", each)), "")


def _driver(root: Path) -> str:
    """Version of the NVIDIA driver, `` where there is none."""
    with suppress(OSError):  # no driver, or a container that does not show it
        text = (root / "proc/driver/nvidia/version").read_text()
        if loaded := re.search(r"NVRM version:.*?\s(\d+(\.\d+)+)\s", text):
            return loaded[1]
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    told = re.match(r"\d+(\.\d+)+$", done.stdout, re.MULTILINE)
    return told[0] if done.returncode == 0 and told else ""


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    text = file.read_text() if file.is_file() else ""
    match = re.search(r"model name\s*:\s*(.+)", text)
    return match[1].strip() if match else platform.processor()
