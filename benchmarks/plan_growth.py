"""How long a plan takes, against the number of jobs: nothing made, all made, and all made with one function edited.

    python benchmarks/plan_growth.py            # 1, 12 and 51 seeds of study demo; prints a table
    python benchmarks/plan_growth.py 2 8

Copies the project to a temporary folder, makes every job's files and a true manifest for each without running a verb,
and times `snakemake --dry-run`. Seconds are wall clock; the last column is the ratio to the smallest grid, per job.
Where results/demo is built, it then times `chord audit` of it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "workflow", "profiles", "config", "envs", "chord")
EDITED = ("chord/objective.py", "return p * (1 - p)", "return p * (1 - p) * 1.0")
BUILT = Path("results", "demo")


def main() -> None:
    """Measure each grid and print a line for it."""
    seeds = [int(word) for word in sys.argv[1:]] or [1, 12, 51]
    first: float | None = None
    print("| jobs | nothing made, s | all made, s | phi edited, s | jobs then planned | s per 1,000 made jobs, ratio |")
    print("|---:|---:|---:|---:|---:|---:|")
    for count in seeds:
        with tempfile.TemporaryDirectory(prefix="chord-plan-") as folder:
            tree = copied(Path(folder, "tree"), count)
            none, jobs = timed_plan(tree)
            forge(tree)
            timed_plan(tree)  # after it, hashes of what was read are kept
            every, left = timed_plan(tree)
            assert left == 0, f"found {left} jobs to do where all is made"
            file, old, new = EDITED
            text = (tree / file).read_text()
            assert old in text, f"{file} no longer says {old}"
            (tree / file).write_text(text.replace(old, new))
            edited, again = timed_plan(tree)
            rate = 1000 * every / jobs
            first = first or rate
            print(
                f"| {jobs:,} | {none:.1f} | {every:.1f} | {edited:.1f} | {again:,} | {rate:.2f}, {rate / first:.2f} |",
                flush=True,
            )
    if (ROOT / BUILT / "report.html").is_file():
        print(audited())


def copied(tree: Path, seeds: int) -> Path:
    """The project in a folder of its own, its demo with so many seeds."""
    tree.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / part, tree / part)
    config = tree / "config" / "config.yaml"
    config.write_text(config.read_text() + f"\nseeds: {list(range(1, seeds + 1))}\n")
    return tree


def timed_plan(tree: Path) -> tuple[float, int]:
    """Seconds of a dry run, and how many jobs it plans."""
    began = time.perf_counter()
    done = subprocess.run(
        [str(Path(sys.executable).with_name("snakemake")), "--dry-run", "--quiet", "rules"],
        cwd=tree, capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    total = re.findall(r"^total\s+(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE)
    return seconds, int(total[-1]) if total else 0


def audited() -> str:
    """What an audit of the built study takes, in this project."""
    done = subprocess.run(
        [sys.executable, "-m", "chord", "audit", "--json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout)
    size, seconds = found["bytes_hashed"] / 1e6, found["seconds"]
    return f"chord audit: {len(found['links'])} links, {size:.0f} MB in {seconds:.1f} s, {size / seconds:.0f} MB/s"


def forge(tree: Path) -> None:
    """Every file of every job of the plan, with the manifest that its verb would leave; verbs are not run."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    subprocess.run([sys.executable, __file__, "--forge"], cwd=tree, env=environment, check=True)


def stand_in_for_all() -> None:
    """In a copy: writes what each verb would write; what is the same of all manifests is found once."""
    from chord.cluster.snakemake import asked
    from chord.config.project import load
    from chord.provenance import environment
    from chord.provenance.changes import verb_of
    from chord.provenance.digest import job_code
    from chord.provenance.files import content_hash, size_bytes
    from chord.provenance.manifest import FORMAT, Attempt, Code, Content, Git, Installed, Manifest, as_plain
    from chord.steps import FOLDERS, Dag

    dag, told, here = Dag(load(Path("."))), asked(Path("."), []), Path.cwd()
    now, pins = "2026-01-01T00:00:00.000+00:00", environment.pins(here)
    attempt = Attempt(id="forged", ledger_line_sha256=None, host="forged", pid=1, job=None)
    git = Git(commit="forged", dirty=False, diff_sha256=None, untracked=0, why=None)
    known: dict[str, Content] = {}

    def make(path: str, text: str, is_folder: bool) -> None:
        """Writes the file, or a folder with one file in it."""
        whole = here / BUILT / path
        file = whole / "file" if is_folder else whole
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        size, digest = size_bytes(whole), content_hash(whole)
        kind = "folder" if is_folder else "file"
        known[path] = Content(path=path, root="study", kind=kind, bytes=size, sha256=digest)

    jobs = dag.planned
    for job in jobs.values():
        for name, path in job.outputs.items():
            if name != "manifest":
                text = f"{path}\n" if job.step.verb else dag.run_text(job.wildcards) + "\n"
                make(path, text, name in FOLDERS)
    for key, job in jobs.items():
        if not job.step.verb:
            continue
        spec = job.spec
        code = job_code(spec.verb, spec.uses)
        read = [path.removeprefix(f"{BUILT}/") for path in told[key].reads]
        manifest = Manifest(
            format=FORMAT,
            verb=spec.verb,
            step=spec.step,
            decided_by=as_plain(spec.decided_by),
            command=("python", "-m", *spec.verb.split(), *verb_of(told[key].shell)[1]),
            folder=".",
            started=now,
            ended=now,
            seconds=0.0,
            attempt=attempt,
            code=Code(digest=code.digest, uses={**spec.uses}, definitions=code.definitions),
            git=git,
            installed=Installed(
                python="3.11",
                packages={},
                all_sha256="",
                pinned=environment.pinned(here, spec.step),
                pins=pins,
            ),
            machine={},
            environment={},
            seeds={},
            inputs={path: known[path] for path in read if path in known},
            outputs={name: known[path] for name, path in job.outputs.items() if name != "manifest"},
            extra={},
        )
        (here / BUILT / key).write_text(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")


if __name__ == "__main__":
    stand_in_for_all() if sys.argv[1:] == ["--forge"] else main()
