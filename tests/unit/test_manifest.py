"""Property: a manifest says truly what a verb read and wrote; every attempt is in the ledger; no secret gets in."""

import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from chord.errors import UserError
from chord.provenance import environment, ledger
from chord.provenance.digest import code_digest, job_code
from chord.provenance.environment import scrubbed
from chord.provenance.files import tree_hash
from chord.provenance.manifest import JobSpec, Manifest, command_of, locate, read_manifest
from tests.projects import copied, git, started

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def study(tmp_path):
    """A results folder with one input file and one input folder."""
    folder = tmp_path / "results" / "demo"
    (folder / "data" / "parts").mkdir(parents=True)
    (folder / "data" / "train.jsonl").write_text("abc")
    (folder / "data" / "parts" / "one").write_text("1")
    return folder


def record(study: Path, work=lambda: None, **options) -> Path:
    """A verb that reads the study's data and writes runs/sft/model."""
    out = study / "runs" / "sft"
    inputs = {"train": study / "data" / "train.jsonl", "parts": study / "data" / "parts"}
    asked = {"job": JobSpec("chord.records"), "inputs": inputs, "outputs": {"model": out / "model"}, **options}
    with Manifest.recording(out / "train.manifest.json", **asked):
        (out / "model").mkdir(parents=True, exist_ok=True)
        (out / "model" / "weights").write_text("w" * 10)
        work()
    return out / "train.manifest.json"


def attempts(study: Path) -> list[dict]:
    return ledger.read(study / "provenance" / "ledger.jsonl")


# --- what it says ------------------------------------------------------------------------------


def test_a_manifest_holds_hash_and_size_of_all_that_was_read_and_written(study):
    manifest = read_manifest(record(study))
    # FIPS 180-2, appendix B.1: SHA-256 of "abc"
    train = manifest.inputs["train"]
    assert train.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (train.path, train.root, train.kind, train.bytes) == ("data/train.jsonl", "study", "file", 3)
    model = manifest.outputs["model"]
    assert (model.path, model.root, model.kind, model.bytes) == ("runs/sft/model", "study", "folder", 10)
    assert model.sha256 == tree_hash(study / "runs" / "sft" / "model")


def test_a_manifest_holds_code_seeds_machine_and_what_the_verb_adds_while_it_works(study, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("HOMEMADE_SETTING", "not on the list")
    uses, path = {"functions": ("chord.settings.derive",)}, study / "a.json"
    job = JobSpec("chord.records", uses=uses)
    added = {"seeds": {"run": 7}, "extra": {"device": {"name": "cpu"}}}
    with Manifest.recording(path, job, inputs={}, outputs={}, **added) as recording:
        recording.extra["resumed_from_step"] = 20
        recording.seeds["sampling"] = 3
    manifest = read_manifest(path)
    assert manifest.code.uses == uses
    assert manifest.code.definitions == job_code("chord.records", uses).definitions
    assert manifest.code.digest == code_digest("chord.records", uses) != code_digest("chord.records")
    assert manifest.seeds == {"run": 7, "sampling": 3}
    assert manifest.extra == {"device": {"name": "cpu"}, "resumed_from_step": 20}
    assert (manifest.environment["OMP_NUM_THREADS"], manifest.attempt.job) == ("3", "4711")
    assert manifest.command[:3] == ("python", "-m", "chord.records")
    assert (manifest.machine["cores"], manifest.attempt.pid) == (os.cpu_count(), os.getpid())
    assert manifest.started <= manifest.ended
    assert "not on the list" not in path.read_text()


def test_versions_are_those_that_python_finds():
    found = environment.key_packages()
    assert {"pydantic", "pyyaml"} <= found.keys()
    assert found == {name: importlib.metadata.version(name) for name in found}


def test_the_hash_over_all_packages_and_pins_shows_one_change(tmp_path, monkeypatch):
    before = environment.packages_sha256()
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "train.txt").write_bytes(b"abc")
    (tmp_path / "new_package-1.0.dist-info").mkdir()
    assert environment.pins(tmp_path)["envs/train.txt"].startswith("ba7816bf")
    monkeypatch.syspath_prepend(tmp_path)
    environment.installed.cache_clear()
    assert environment.installed()["new-package"] == "1.0"
    assert environment.packages_sha256() != before
    monkeypatch.undo()
    environment.installed.cache_clear()


def test_files_are_found_again_after_the_study_was_moved_or_renamed(study, tmp_path):
    record(study)
    moved = tmp_path / "else where" / "results" / "renamed"
    shutil.copytree(study, moved)
    shutil.rmtree(study)
    path = moved / "runs" / "sft" / "train.manifest.json"
    for content in (*read_manifest(path).inputs.values(), *read_manifest(path).outputs.values()):
        assert locate(content, path).exists()
        assert locate(content, path).is_relative_to(moved)


def test_files_outside_of_the_study_are_found_from_the_project_the_code_or_the_root(study, tmp_path):
    config, stray = tmp_path / "config" / "demo.yaml", tmp_path.parent / f"{tmp_path.name} stray"
    config.parent.mkdir()
    config.write_text("x")
    stray.write_text("x")
    inputs = {"config": config, "code": PROJECT / "chord" / "records.py", "stray": stray}
    path = record(study, inputs=inputs)
    found = read_manifest(path).inputs
    assert [found[name].root for name in inputs] == ["project", "code", "elsewhere"]
    assert found["config"].path == "config/demo.yaml"
    assert {name: locate(found[name], path) for name in inputs} == inputs


# --- how an attempt can end --------------------------------------------------------------------


def test_an_attempt_that_ends_well_is_two_lines_and_the_manifest_points_to_the_first(study):
    path = record(study)
    begin, end = attempts(study)
    told = [begin[key] for key in ("event", "verb", "manifest")]
    assert told == ["start", "chord.records", "runs/sft/train.manifest.json"]
    assert (end["event"], end["outcome"], end["attempt"]) == ("end", "ok", begin["attempt"])
    assert end["manifest_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    mine = read_manifest(path).attempt
    assert mine.id == begin["attempt"]
    assert mine.ledger_line_sha256 == ledger.entries(study / "provenance" / "ledger.jsonl")[0][0]


def fail(error: BaseException):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("it broke\nhere"), {"outcome": "failed", "error": "ValueError: it broke here"}),
        (SystemExit(85), {"outcome": "stopped", "exit_code": 85}),
        (SystemExit(0), {"outcome": "stopped", "exit_code": 0}),
        (KeyboardInterrupt(), {"outcome": "signal", "signal": "SIGINT"}),
    ],
)
def test_an_attempt_that_does_not_end_well_is_told_and_leaves_no_manifest(study, error, told):
    with pytest.raises(type(error)):
        record(study, fail(error))
    assert not (study / "runs" / "sft" / "train.manifest.json").exists()
    end = attempts(study)[-1]
    assert {key: end[key] for key in told} == told


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGTERM, ["start", "end"]), (signal.SIGKILL, ["start"])], ids=["SIGTERM", "SIGKILL"]
)
def test_an_attempt_ended_by_a_signal_is_in_the_ledger_and_leaves_no_manifest(study, number, ends):
    code = """
import sys, time
from pathlib import Path
from chord.provenance.cli import run_verb
from chord.provenance.manifest import JobSpec, Manifest
def main():
    with Manifest.recording(Path(sys.argv[1]), JobSpec("chord.records"), inputs={}, outputs={}):
        print("ready", flush=True)
        time.sleep(60)
run_verb("chord.records", main)
"""
    path = study / "a.manifest.json"
    with started(code, path) as process:
        process.stdout.readline()
        process.send_signal(number)
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number)
    assert not path.exists()
    told = attempts(study)
    assert [line["event"] for line in told] == ends
    if number == signal.SIGTERM:
        assert (told[1]["outcome"], told[1]["signal"]) == ("signal", "SIGTERM")


def test_a_missing_input_or_output_is_named_and_leaves_no_manifest(study):
    with pytest.raises(UserError, match=r"absent\.jsonl: found nothing there"):
        record(study, inputs={"train": study / "absent.jsonl"})
    with pytest.raises(UserError, match=r"forgotten: found nothing there"):
        record(study, outputs={"model": study / "forgotten"})
    assert not (study / "runs" / "sft" / "train.manifest.json").exists()
    assert [line["outcome"] for line in attempts(study) if line["event"] == "end"] == ["failed", "failed"]


@pytest.mark.parametrize("name", ["data/train.jsonl", "data/parts/one", "data/parts/new"])
def test_an_input_that_changes_while_the_verb_works_is_an_error_and_a_touch_is_none(study, name):
    record(study, lambda: os.utime(study / "data" / "train.jsonl"))
    with pytest.raises(UserError, match=r"found it changed while chord\.records ran"):
        record(study, lambda: (study / name).write_text("xyz"))


def test_where_the_ledger_cannot_be_written_there_is_no_manifest_either(study, monkeypatch):
    whole = ledger.append

    def full(path, event, fields):
        if event == "end":
            raise OSError(28, "No space left on device")
        return whole(path, event, fields)

    monkeypatch.setattr(ledger, "append", full)
    with pytest.raises(OSError, match="No space"):
        record(study)
    assert not (study / "runs" / "sft" / "train.manifest.json").exists()


def test_outside_of_a_study_there_is_a_manifest_and_no_ledger(tmp_path):
    with Manifest.recording(tmp_path / "a.json", JobSpec("chord.records"), inputs={}, outputs={}):
        pass
    assert read_manifest(tmp_path / "a.json").attempt.ledger_line_sha256 is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_an_absent_manifest_or_a_folder_is_refused_by_name(tmp_path):
    for path, said in ((tmp_path / "absent.json", "found no such file"), (tmp_path, "found a folder")):
        with pytest.raises(UserError, match=said):
            read_manifest(path)


# --- git and secrets, in a project of their own ------------------------------------------------

SECRETS = {name: f"{name} of the environment" for name in ("HF_TOKEN", "WANDB_API_KEY", "PGPASSWORD")}
TOKEN = "ghp_0123456789abcdefghij"
ON_THE_WAY = ["remotepassword", "optionsecret", "equalssecret", TOKEN, "urlpassword", "querysecret"]
VERB = """
import os, sys
from pathlib import Path
from chord.provenance.manifest import JobSpec, Manifest
study = Path(sys.argv[1])
extra = {"where": "https://user:urlpassword@example.org/x?token=querysecret", "note": [os.environ["HF_TOKEN"]]}
with Manifest.recording(study / "a.json", JobSpec("chord.records"), inputs={}, outputs={}, extra=extra):
    pass
with Manifest.recording(study / "b.json", JobSpec("chord.records"), inputs={}, outputs={}):
    raise ValueError("could not log in with " + os.environ["WANDB_API_KEY"])
"""


@pytest.fixture
def project(tmp_path):
    """A checkout of the project, with a remote that has a password in it, and one commit."""
    root = copied(tmp_path / "project")
    git(root, "init", "-q")
    git(root, "remote", "add", "origin", "https://user:remotepassword@example.org/project.git")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root


def run_in(root: Path, code: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTHON"))}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=root, env={**clean, **variables}, capture_output=True, text=True, timeout=60)


def test_no_secret_reaches_any_file(project):
    study = project / "results" / "demo"
    options = ["--hf-token", "optionsecret", "--api_key=equalssecret", TOKEN, SECRETS["PGPASSWORD"]]
    done = run_in(project, VERB, study, *options, "--max-tokens", "512", "--tokenizer=char", **SECRETS)
    assert "ValueError: could not log in" in done.stderr
    written = [path for path in study.rglob("*") if path.is_file()]
    assert sorted(path.name for path in written) == ["a.json", "ledger.jsonl"]
    for path in written:
        text = path.read_text()
        assert [secret for secret in (*SECRETS.values(), *ON_THE_WAY) if secret in text] == []
    command = read_manifest(study / "a.json").command
    assert command[4:] == (
        *("--hf-token", "[removed]", "--api_key=[removed]", "[removed]", "[removed]"),
        *("--max-tokens", "512", "--tokenizer=char"),
    )
    failed = ledger.read(study / "provenance" / "ledger.jsonl")[-1]
    assert failed["error"] == "ValueError: could not log in with [removed]"


def state(root: Path, **variables: str) -> dict:
    code = "import json; from chord.provenance import digest, environment\n"
    code += "print(json.dumps(environment.git_state(digest.PROJECT)))"
    return json.loads(run_in(root, code, **variables).stdout)


def test_git_state_says_commit_and_whether_and_how_the_tree_differs(project):
    commit = git(project, "rev-parse", "HEAD").strip()
    clean = state(project)
    assert clean == {"commit": commit, "dirty": False, "diff_sha256": None, "untracked": 0, "why": None}
    (project / "chord" / "new.py").write_text("x = 1\n")
    assert state(project) == {**clean, "untracked": 1}
    with (project / "chord" / "records.py").open("a") as file:
        file.write("x = 1\n")
    git(project, "add", "chord/records.py")
    difference = hashlib.sha256(git(project, "diff", "HEAD", "--binary").encode()).hexdigest()
    assert state(project) == {**clean, "dirty": True, "diff_sha256": difference, "untracked": 1}


def test_git_state_says_why_there_is_no_commit(project, tmp_path):
    (tmp_path / "empty").mkdir()
    assert state(project, PATH=str(tmp_path / "empty"))["why"] == "git is not installed"
    shutil.rmtree(project / ".git")
    gone = state(project)
    assert gone["commit"] is None
    assert "not a git repository" in gone["why"]


def test_neither_a_project_around_ours_nor_a_git_hook_changes_which_project_is_meant(project, tmp_path):
    git(tmp_path, "init", "-q", "other")
    commit = git(project, "rev-parse", "HEAD").strip()
    assert state(project, GIT_DIR=str(tmp_path / "other" / ".git"))["commit"] == commit
    shutil.move(project / ".git", tmp_path / ".git")
    git(tmp_path, "rm", "-r", "-q", "--cached", ".")
    assert state(project)["commit"] is None


def test_driver_cuda_and_nccl_are_recorded_where_they_are_and_absent_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(**packages: str) -> dict[str, str]:
        monkeypatch.setattr(environment, "installed", lambda: packages)
        return environment.accelerator(tmp_path)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert found(numpy="2.3.5") == {}
    smi, kernel = tmp_path / "nvidia-smi", tmp_path / "proc/driver/nvidia/version"
    asked = '[ "$*" = "--query-gpu=driver_version --format=csv,noheader" ]'
    for script, version in ((f"{asked} && echo 570.1.2; echo 570.1.2", "570.1.2"), ("echo has failed; exit 9", None)):
        smi.write_text(f"#!/bin/sh\n{script}\n")
        smi.chmod(0o755)
        assert found().get("nvidia_driver") == version
    kernel.parent.mkdir(parents=True)
    for line, version in (
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build  (a@b)", "580.82.07"),
    ):
        kernel.write_text(f"{line}\nGCC version:  gcc version 13.3.0 (Ubuntu)\n")
        assert found() == {"nvidia_driver": version}
    packages = {"nvidia-nccl-cu13": "2.29.7", "nvidia-cuda-runtime": "13.0.96"}
    packaged = {"nvidia_driver": "580.82.07", "cuda": "13.0.96", "nccl": "2.29.7"}
    assert found(**packages) == packaged
    nccl = SimpleNamespace(version=lambda: (2, 30, 1))
    loaded = SimpleNamespace(version=SimpleNamespace(cuda="13.1"), cuda=SimpleNamespace(nccl=nccl))
    monkeypatch.setitem(sys.modules, "torch", loaded)
    assert found(**packages) == packaged | {"cuda": "13.1", "nccl": "2.30.1"}
    loaded.version.cuda = None
    assert found(**packages) == packaged


@pytest.mark.parametrize("variable", ["APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"])
def test_a_manifest_names_the_image_that_its_job_ran_in_by_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    def recorded() -> dict[str, str | int]:
        environment.container.cache_clear()
        return {name: value for name, value in environment.machine().items() if name.startswith("container")}

    for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER", "CHORD_IMAGE_DIGEST"):
        monkeypatch.delenv(name, raising=False)
    assert recorded() == {}
    image = tmp_path / "chord.sif"
    image.write_bytes(b"an image")
    monkeypatch.setenv(variable, str(image))
    digest = f"sha256:{hashlib.sha256(b'an image').hexdigest()}"
    assert recorded() == {"container": "chord.sif", "container_digest": digest}
    image.unlink()  # the container does not show its own file
    assert recorded() == {"container": "chord.sif"}
    monkeypatch.setenv("CHORD_IMAGE_DIGEST", "sha256:beef")
    assert recorded() == {"container": "chord.sif", "container_digest": "sha256:beef"}
    monkeypatch.delenv(variable)
    assert recorded() == {"container_digest": "sha256:beef"}
    monkeypatch.undo()
    environment.container.cache_clear()


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("{here}/results/demo/x", "results/demo/x"),
        ("a=results/x={here}/results/y", "a=results/x=results/y"),
        ("--run={here}", "--run=."),
        ("FileNotFoundError: '{here}/a b', 'file://{here}/c'", "FileNotFoundError: 'a b', 'file://c'"),
        ("{here}-2/x", "{here}-2/x"),
        ("/mnt{here}/x", "/mnt{here}/x"),
    ],
)
def test_no_text_that_is_recorded_says_where_the_project_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, kept: str
) -> None:
    here = tmp_path / "here"
    (here / "config").mkdir(parents=True)
    monkeypatch.chdir(here)
    for place in (here, PROJECT):
        monkeypatch.setattr("sys.argv", ["-m", said.format(here=place)])
        assert command_of("chord.x") == ["python", "-m", "chord.x", kept.format(here=place)]
        assert scrubbed({"a": [said.format(here=place)]}) == {"a": [kept.format(here=place)]}
