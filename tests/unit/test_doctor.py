"""`chord doctor` where there is no Slurm, and how it reads what a cluster says: by hand, no cluster needed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chord.cluster import Node, gpus_of, last_words, minutes_of
from chord.doctor import _misfits, profile_file, wanted_gpus
from chord.probe import Finding, _builds, described
from chord.provenance.files import UserError

ROOT = Path(__file__).resolve().parents[2]
NODES = [
    Node("cpu", "n1", minutes=None, memory_mb=8000, cpus=4, gpus={}),
    Node("gpu", "n2", minutes=1440, memory_mb=64000, cpus=16, gpus={"h100": 2}),
    Node("gpu", "n3", minutes=1440, memory_mb=32000, cpus=8, gpus={"a100": 4}),
]
FITS = {"slurm_partition": "gpu", "runtime": 1440, "mem_mb": 64000, "threads": 16, "gres": "gpu:4"}


def doctor(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `chord doctor` says with this PATH."""
    command = [sys.executable, "-m", "chord.doctor", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True)


def test_without_slurm_it_says_which_programs_are_missing_and_where_to_find_them(tmp_path: Path) -> None:
    for needed in ("sh", "bash", "which"):  # the plugin asks `which`
        (tmp_path / needed).symlink_to(str(shutil.which(needed)))
    done = doctor(str(tmp_path), "--profile", "slurm")
    assert done.returncode == 1, done.stderr
    for program in ("sbatch", "squeue"):
        assert f"CHANGE  no {program} found\n        -> run this on a login node of the cluster" in done.stdout
    assert "ok      executor slurm\n" in done.stdout
    assert done.stdout.endswith("6 of 10 to be changed.\n")


def test_a_profile_that_is_not_there_and_one_that_cannot_be_planned_end_with_one_line(tmp_path: Path) -> None:
    done = doctor(os.environ["PATH"], "--profile", "slurmm")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "chord doctor: slurmm: found no profile of this name, expected slurmm/config.yaml\n"
    (tmp_path / "config.yaml").write_text("executor: slurm\nno-such-option: 1\n")
    done = doctor(os.environ["PATH"], "--profile", str(tmp_path))
    assert (done.returncode, done.stdout.count("CHANGE")) == (2, 0)
    assert "no-such-option" in done.stderr


def test_the_profile_is_named_by_the_file_that_is_to_be_edited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert profile_file("slurm") == Path("profiles/slurm/config.yaml")
    with pytest.raises(UserError, match=r"found no profile of this name, expected nowhere/config\.yaml"):
        profile_file("nowhere")


def test_time_limits_are_read_as_sinfo_writes_them() -> None:
    read = {text: minutes_of(text) for text in ("infinite", "n/a", "30:00", "2:30:00", "1-00:00:00", "7-12:05:00")}
    assert read == {
        "infinite": None,
        "n/a": None,
        "30:00": 30,
        "2:30:00": 150,
        "1-00:00:00": 1440,
        "7-12:05:00": 7 * 1440 + 12 * 60 + 5,
    }


def test_gpus_are_counted_by_type_and_other_resources_left_out() -> None:
    assert gpus_of("(null)") == {}
    assert gpus_of("gpu:8") == {"": 8}
    assert gpus_of("gpu:h100:4(S:0-1),gpu:a100:2,nvme:1,gpu:a100:2(IDX:0,1)") == {"h100": 4, "a100": 4}
    assert wanted_gpus({"gres": "gpu:h100:2"}) == (2, "h100")
    assert wanted_gpus({"gpu": 3}) == (3, "")
    assert wanted_gpus({"gres": "gpu"}) == (1, "")
    assert wanted_gpus({}) == (0, "")


def test_what_one_node_of_the_partition_can_give_is_no_misfit() -> None:
    assert list(_misfits(FITS, NODES)) == []
    assert list(_misfits({"slurm_partition": "cpu", "runtime": 10**6, "mem_mb": 8000, "threads": 4}, NODES)) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"slurm_partition": "gpus"}, "found partition gpus, the cluster has cpu, gpu"),
        ({"gres": "gpu:5"}, "found 5 GPUs on a node, partition gpu has a100:4, h100:2"),
        ({"gres": "gpu:h100:3"}, "found 3 GPUs of type h100 on a node, partition gpu has a100:4, h100:2"),
        ({"runtime": 1441}, "found 1441 minutes, partition gpu allows 1440: it would wait for ever"),
        ({"mem_mb": 64001}, "found mem_mb 64001, the largest node of partition gpu has 64000"),
        ({"threads": 17}, "found threads 17, the largest node of partition gpu has 16"),
        (
            {"slurm_partition": "cpu", "gres": "gpu:1", "threads": 1, "mem_mb": 1},
            "found 1 GPUs on a node, partition cpu has none",
        ),
    ],
)
def test_what_no_node_of_the_partition_can_give_is_named_with_what_there_is(change: dict, found: str) -> None:
    assert [said for said, _ in _misfits(FITS | change, NODES)] == [found]


def test_a_finding_says_what_to_do_only_where_there_is_something_to_do() -> None:
    assert str(Finding("sbatch: here")) == "ok      sbatch: here"
    assert str(Finding("no sbatch found", "load it")) == "CHANGE  no sbatch found\n        -> load it"
    assert str(Finding("1 GPU", note="without CUDA")) == "note    1 GPU\n        -> without CUDA"
    assert last_words("a\n\nb\n c \nd\n") == "b c d"


# What chord.probe writes on a node with an H100 that is well.
WELL = {
    "host": "n1",
    "cuda_of_torch": "13.0",
    "installed_for": "cuda",
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
    there |= {
        "accelerator": {"nvidia_driver": driver, "nccl": "2.29.7"},
        "installed_for": "cpu" if "CPUs" in wrong else "",
    }
    (finding,) = _builds(there, Path("profiles/slurm/config.yaml"))
    seen = SEEN.format(torch=torch, cuda=cuda or "none", driver=driver, vllm=vllm)
    assert finding.found.startswith(seen)
    if not wrong:
        assert (finding.found, finding.change) == (seen, "")
    elif "CPUs" in wrong:
        assert finding.found == f"{seen}: {wrong} (.venv is made for cpu)"
        assert finding.change.startswith("`make install FOR=cuda`")
        assert finding.change.endswith("leave `gres` and this partition out of profiles/slurm/config.yaml")
    else:
        assert finding.found == f"{seen}: {wrong}"
        assert finding.change == "ask for driver 580 or newer on the nodes, or install a torch for an older CUDA"


def test_a_node_says_of_itself_all_that_is_held_against_its_gpus() -> None:
    here = described()
    assert set(WELL) <= set(here)
    assert set(WELL["packages"]) <= set(here["packages"])
    assert here["packages"]["vllm"] != "missing"
    assert len(list(_builds(here, Path("profile")))) == 1
