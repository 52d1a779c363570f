"""`chord doctor` where there is no Slurm, and how it reads what a cluster says: by hand, no cluster needed."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from chord.cluster.doctor import (
    Finding,
    Kind,
    Node,
    builds,
    described,
    gpus_of,
    held,
    minutes_of,
    misfits,
    planned,
    profile_file,
    wanted_gpus,
)
from chord.cluster.sizing import site_of
from chord.config.project import load
from chord.errors import ConfigError
from tests import warm
from tests.projects import ROOT, edit_yaml

NODES = [
    Node("cpu", "n1", minutes=None, memory_mb=8000, cpus=4, gpus={}),
    Node("gpu", "n2", minutes=1440, memory_mb=64000, cpus=16, gpus={"h100": 2}),
    Node("gpu", "n3", minutes=1440, memory_mb=32000, cpus=8, gpus={"a100": 4}),
]
PLACE = Path("profiles/slurm/config.yaml")
FITS = {"slurm_partition": "gpu", "runtime": 1440, "mem_mb": 64000, "threads": 16, "gres": "gpu:4"}


def doctor(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `chord doctor` says with this PATH."""
    command = [sys.executable, "-m", "chord", "doctor", *arguments]
    return warm.run(command, cwd=ROOT, env=os.environ | {"PATH": path}, jobs="stubs")


def test_without_slurm_it_says_which_programs_are_missing_and_where_to_find_them(tmp_path: Path) -> None:
    for needed in ("sh", "bash", "which"):  # the plugin asks `which`
        (tmp_path / needed).symlink_to(str(shutil.which(needed)))
    done = doctor(str(tmp_path), "--profile", "slurm")
    assert done.returncode == 1, done.stderr
    for program in ("sbatch", "squeue"):
        assert f"CHANGE  no {program} found\n        -> run this on a login node of the cluster" in done.stdout
    assert "ok      executor slurm\n" in done.stdout
    assert done.stdout.endswith("6 of 15 to be changed.\n")


def test_a_profile_that_is_not_there_and_one_that_cannot_be_planned_end_with_one_line(tmp_path: Path) -> None:
    done = doctor(os.environ["PATH"], "--profile", "slurmm")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "chord doctor: slurmm: found no profile of this name, expected slurmm/config.yaml\n"
    (tmp_path / "config.yaml").write_text("executor: slurm\nno-such-option: 1\n")
    done = doctor(os.environ["PATH"], "--profile", str(tmp_path))
    assert (done.returncode, done.stdout.count("CHANGE")) == (2, 0)
    assert "no-such-option" in done.stderr


def test_time_limits_are_read_as_sinfo_writes_them() -> None:
    week = 7 * 1440 + 12 * 60 + 5
    limits = {"infinite": None, "n/a": None, "30:00": 30, "2:30:00": 150, "1-00:00:00": 1440, "7-12:05:00": week}
    assert {text: minutes_of(text) for text in limits} == limits


def test_gpus_are_counted_by_type_and_other_resources_left_out() -> None:
    assert (gpus_of("(null)"), gpus_of("gpu:8")) == ({}, {"": 8})
    assert gpus_of("gpu:h100:4(S:0-1),gpu:a100:2,nvme:1,gpu:a100:2(IDX:0,1)") == {"h100": 4, "a100": 4}
    asked: list[dict] = [{"gres": "gpu:h100:2"}, {"gpu": 3}, {"gres": "gpu"}, {}]
    assert list(map(wanted_gpus, asked)) == [(2, "h100"), (3, ""), (1, ""), (0, "")]


ON_CPU = {"slurm_partition": "cpu", "threads": 1, "mem_mb": 1}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"slurm_partition": "gpus"}, "found partition gpus, the cluster has cpu, gpu"),
        ({"gres": "gpu:5"}, "found 5 GPUs on a node, partition gpu has a100:4, h100:2"),
        ({"gres": "gpu:h100:3"}, "found 3 GPUs of type h100 on a node, partition gpu has a100:4, h100:2"),
        ({"runtime": 1441}, "found 1441 minutes, partition gpu allows 1440: it would wait for ever"),
        ({"mem_mb": 64001}, "found mem_mb 64001, the largest node of partition gpu has 64000"),
        ({"threads": 17}, "found threads 17, the largest node of partition gpu has 16"),
        (ON_CPU | {"gres": "gpu:1"}, "found 1 GPUs on a node, partition cpu has none"),
        ({}, None),
        (ON_CPU | {"gres": "", "runtime": 10**6, "mem_mb": 8000, "threads": 4}, None),
    ],
)
def test_what_no_node_of_the_partition_can_give_is_named_with_what_there_is(change: dict, found: str | None) -> None:
    assert [one.found for one in misfits(FITS | change, NODES)] == ([found] if found else [])


# What the small job of chord doctor writes on a node with an H100 that is well.
WELL = {
    "host": "n1",
    "cuda_of_torch": "13.0",
    "installed_for": "",
    "accelerator": {"nvidia_driver": "580.82.07", "cuda": "13.0", "nccl": "2.29.7"},
    "packages": {"torch": "2.13.0", "vllm": "0.32.0", "deepspeed": "0.19.8"},
}
SEEN = "n1 has torch {torch}, CUDA {cuda}, driver {driver}, NCCL 2.29.7, vLLM {vllm}, DeepSpeed 0.19.8"


@pytest.mark.parametrize(
    ("torch", "cuda", "driver", "vllm", "wrong"),
    [
        ("2.13.0", "13.0", "580.82.07", "0.32.0", ""),
        ("2.13.0", "13.0", "580.82.07", "missing", ""),  # no study here asks for it
        ("2.13.0", "12.8", "525.60.13", "0.32.0", ""),
        ("2.13.0+cpu", None, "580.82.07", "0.32.0", "torch built for CPUs, on a partition with GPUs"),
        ("2.13.0", "13.0", "580.82.07", "0.32.0+cpu", "vLLM built for CPUs, on a partition with GPUs"),
        ("2.13.0+cpu", None, "580.82.07", "0.32.0+cpu", "torch and vLLM built for CPUs, on a partition with GPUs"),
        ("2.13.0", "13.0", "570.124.06", "0.32.0", "CUDA 13.0 needs driver 580 or newer"),
    ],
)
def test_a_node_with_gpus_needs_builds_for_them_and_a_driver_that_is_new_enough(
    torch: str, cuda: str | None, driver: str, vllm: str, wrong: str
) -> None:
    there = WELL | {"cuda_of_torch": cuda, "packages": {"torch": torch, "vllm": vllm, "deepspeed": "0.19.8"}}
    there |= {"accelerator": {"nvidia_driver": driver, "nccl": "2.29.7"}, "installed_for": "cpu" if wrong else ""}
    finding = builds(there).of(PLACE)
    seen = SEEN.format(torch=torch, cuda=cuda or "none", driver=driver, vllm=vllm)
    if "CPUs" in wrong:
        assert finding.found == f"{seen}: {wrong} (.venv is made for cpu)"
        assert finding.change.startswith("`make install FOR=cuda`")
        assert finding.change.endswith("leave `gres` and this partition out of profiles/slurm/config.yaml")
    else:
        change = "ask for driver 580 or newer on the nodes, or install a torch for an older CUDA"
        assert finding == Finding(f"{seen}: {wrong}" if wrong else seen, change if wrong else "")


def test_a_node_says_of_itself_all_that_is_held_against_its_gpus() -> None:
    here: dict = described()
    assert WELL.keys() <= here.keys() and {*WELL["packages"]} <= here["packages"].keys()
    assert here["packages"]["vllm"] != "missing"
    assert builds(here).found


SITE = {"machine": "h100-80gb", "slurm_partition": "gpu", "gpus": 8, "mem_mb": 1_000_000, "runtime": 1440}
SITE |= {"gres": "gpu", "nodes": 1, "cpus": None}
GIVEN = {"slurm_partition": "gpu", "gres": "gpu:8", "mem_mb": 369_000, "runtime": 1440}
SIGNAL = "sbatch --signal=USR1@300"
Usage = namedtuple("Usage", "free")


def held_against(
    monkeypatch: pytest.MonkeyPatch, rule="train", of="chord-phi", attempts=4, call=SIGNAL, free=1e15, site=None,
    study="math", **given,
) -> list[Finding]:  # fmt: skip
    """What is found of one kind of job, of which the profile gives each attempt the same."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free))
    place = f"results/{study}/runs/{of}/seed-1" + ("/eval/aime24/answers.jsonl" if rule == "generate" else "/model")
    place = f"results/{study}/data/traces/{of}.jsonl" if rule == "ask_expert" else place
    resources = {key: value for key, value in (GIVEN | given).items() if value is not None}
    each = [{"resources": resources | {"threads": 8}, "call": call}] * attempts
    found = held(SITE | (site or {}), [Kind([rule], each, [(rule, [place])])], load(ROOT, study))
    return [one.of(PLACE) for one in found]


def test_what_the_plan_asks_for_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    found, disk = held_against(monkeypatch)
    assert not found.change and not disk.change
    assert found.found.startswith("train of chord-phi needs 8 GPUs x 72.6 GB of 80 GB, 369 GB of host memory, 39.5 h;")
    assert found.found.endswith("the profile gives it 8 GPUs, 369 GB and 96.0 h in 4 attempts")


EIGHT = "train of chord-phi needs 8 GPUs x 72.6 GB of 80 GB"
HOST = f"{EIGHT}, 369 GB of host memory"
FOUR = {"gres": "gpu:4", "mem_mb": 215_000, "site": {"gpus": 4, "mem_mb": 256_000}}
EXPERT = {"rule": "ask_expert", "of": "expert-second", "study": "tools", "gres": "gpu:4"}
SHORT = {"rule": "generate", "gres": "gpu:1", "runtime": 60}
LONG = "train of chord-phi takes about 39.5 h"


@pytest.mark.parametrize(
    ("given", "found", "change"),
    [
        ({"gres": "gpu:1", "mem_mb": 64_000}, f"{HOST}; the profile gives it 1; gpu", "set `gres: gpu:8` in profiles"),
        (FOUR, "on each node; the profile gives it 4; gpu has nodes of 4 GPUs, 256 GB", "set `nodes: 2` of `site`"),
        ({"gres": None}, EIGHT, "set `gres: gpu:8`"),
        ({"mem_mb": 64_000}, f"{HOST}; the profile gives it mem_mb 64000", "of train out, or set it to 369000"),
        ({"site": {"mem_mb": 256_000}}, f"{HOST}; gpu has nodes of 8 GPUs, 256 GB", "take fewer GPUs on"),
        ({"runtime": 480}, f"{LONG}, the profile gives it 4 attempts of 480 to 480 minutes", "set `retries: 4`"),
        ({"attempts": 2, "runtime": 1200, "call": "sbatch"}, LONG, "`retries: 2`"),
        ({"call": "sbatch"}, "train of chord-phi is not told before its time is up", "add --signal=USR1@300"),
        (SHORT, "generate of chord-phi takes about 1.6 h", "longer `run"),
        (EXPERT, "8 GPUs x 20.2 GB of 80 GB, 209 GB of host memory; the profile gives it 4", "set `gres: gpu:8`"),
        ({"free": 5e9}, "results/ has 5 GB free, models of the study take up to 183 GB", "put results/ on a larger"),
        ({"site": {"machine": "h100-80gb", "gpus": 1, "nodes": 64}, "gres": "gpu:1"}, "needs 8 GPUs", "leave `gres`"),
    ],
)
def test_what_the_plan_says_cannot_hold_is_named_with_numbers(
    monkeypatch: pytest.MonkeyPatch, given: dict, found: str, change: str
) -> None:
    wrong = [one for one in held_against(monkeypatch, **given) if one.change]
    assert any(found in one.found and change in one.change for one in wrong), list(map(str, wrong))


def test_without_a_site_it_says_that_the_plan_was_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (found,) = held(None, [], load(ROOT, "math"))
    assert profile_file("slurm") == PLACE
    assert str(found).startswith("note    the profile does not say what GPUs its nodes have")
    assert not site_of({"train": {"gres": namedtuple("R", "raw")("gpu:1")}})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"the profile: set-resources\.site\.gpu\b"):
        site_of({"site": {name: namedtuple("R", "raw")(value) for name, value in {"gpu": 8, "machine": "a"}.items()}})


def changed(folder: Path, **changes: object) -> str:
    """A profile like the shipped one, with other settings."""
    shutil.copytree(ROOT / "profiles/slurm", folder)
    edit_yaml(folder / "config.yaml", **changes)
    return str(folder)


def sent(monkeypatch: pytest.MonkeyPatch, profile: str, study: str, *rules: str) -> list[list[dict]]:
    """The first and the last attempt of each kind of job, as it would be sent, for each of these rules."""
    monkeypatch.chdir(ROOT)
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", lambda command, **_: warm.run(command, cwd=ROOT))
        kinds = planned(profile, [f"study={study}"])["kinds"]
    found = []
    for rule in rules:
        attempts = [kind["attempts"] for kind in kinds if kind["rules"] == [rule]]
        found.append([one["resources"] | {"call": one["call"]} for each in attempts for one in (each[0], each[-1])])
    return found


def test_a_study_brings_what_its_jobs_need_and_the_site_what_there_is(monkeypatch, tmp_path: Path) -> None:
    (trainings,) = sent(monkeypatch, "slurm", "math", "train")
    for one in trainings:
        expected = {"slurm_partition": "gpu", "gres": "gpu:8", "mem_mb": 369_000, "runtime": 1440, "cpus_per_task": 64}
        assert expected.items() <= one.items()
        assert "--gres=gpu:8" in one["call"] and "--signal=USR1@300" in one["call"]
    half = changed(
        tmp_path / "half",
        **{"set-resources__site__gpus": 4, "set-resources__site__nodes": 2, "set-resources__site__gres": "gpu:h100"},
        **{"set-resources__site__runtime": 600, "set-resources__generate": {"gres": "gpu:2", "runtime": 45}},
        **{"default-resources__slurm_extra": "'--exclude=node7 --qos=long'"},
    )
    trainings, answers = sent(monkeypatch, half, "math", "train", "generate")
    for one in trainings:
        expected = {"gres": "gpu:h100:4", "nodes": 2, "mem_mb": 215_000, "runtime": 600}
        assert expected.items() <= one.items()
        assert "--exclude=node7 --qos=long --signal=USR1@300" in one["call"] and "--nodes=2 --ntasks=2" in one["call"]
    for one in answers:
        assert {"gres": "gpu:2", "runtime": 45, "slurm_partition": "gpu"}.items() <= one.items()
        assert "--exclude=node7" in one["call"] and "--signal" not in one["call"]


def test_the_demo_asks_for_one_gpu_or_for_none_where_there_are_none(monkeypatch, tmp_path: Path) -> None:
    ((first, last),) = sent(monkeypatch, "slurm", "demo", "train_base")
    assert (first["gres"], first["runtime"], last["runtime"]) == ("gpu:1", 60, 240)
    site = {"machine": "cpu-core", "slurm_partition": "cpu", "mem_mb": 64_000, "runtime": 90}
    alone = changed(tmp_path / "alone", **{"set-resources": {"site": site}})
    ((first, last),) = sent(monkeypatch, alone, "demo", "train_base")
    assert "gres" not in first and (first["slurm_partition"], first["mem_mb"]) == ("cpu", 4000)
    assert (first["runtime"], last["runtime"]) == (60, 90)


def test_a_profile_that_cannot_hold_the_study_is_refused_where_there_is_no_slurm_too(tmp_path: Path) -> None:
    profile = changed(tmp_path / "profile", **{"set-resources__train": {"gres": "gpu:1", "mem_mb": 64_000}})
    done = doctor(os.environ["PATH"], "--profile", profile, "--config", "study=math")
    assert done.returncode == 1, done.stderr
    assert "needs 8 GPUs x 72.6 GB of 80 GB, 369 GB of host memory; the profile gives it 1;" in done.stdout
