"""`chord doctor` on a real Slurm: the profile as it stands is well; what does not fit is named, with the cure."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cluster.needs import why_not
from tests.cluster.slurm import Cluster, process_one
from tests.projects import copied, edit_yaml

PROFILE, LOOKS = "profiles/slurm/config.yaml", "slurm-init-seconds-before-status-checks"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, not built."""
    folder = copied(tmp_path / "project")
    (folder / "slurm").symlink_to("profiles/slurm")
    return folder


def doctor(cluster: Cluster, folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and words of `chord doctor` on the login machine."""
    shell = f'"{sys.executable}" -m chord doctor "$@"; echo "exit code $?"'
    told = cluster.run("bash", "-c", shell, "doctor", *arguments, cwd=folder)
    said, _, code = told.rpartition("exit code ")
    return int(code), said


def test_the_profile_as_it_stands_fits_and_nothing_is_left_behind(cluster: Cluster, project: Path) -> None:
    code, said = doctor(cluster, project, "--profile", "slurm")
    for rules in ("prepare + prepare_benchmark", "train", "choose + validate", "score", "tabulate"):
        assert f"ok      {rules}: sbatch takes it (slurm_partition" in said
    assert "n1 reads what is written here, and the other way round" in said
    assert "a job on partition gpu: n1 was given 1 GPUs of 1" in said
    assert list((project / "results").iterdir()) == []
    jobs = cluster.squeue("%j %P %T")
    ended = {tuple(line.split()[1:]) for line in jobs if "chord-doctor" in line}
    assert ended == {("cpu", "COMPLETED"), ("gpu", "COMPLETED")}
    lines = said.splitlines()
    wrong = [i for i, line in enumerate(lines) if line.startswith("CHANGE")]
    if torch.version.cuda is None:  # the node has GPUs by name, and what is installed cannot use any
        assert (code, len(wrong)) == (1, 1), said
        node = f"CHANGE  a job on partition gpu: n1 has torch {torch.__version__}, CUDA none"
        assert lines[wrong[0]].startswith(node)
        assert "torch and vLLM built for CPUs, on a partition with GPUs" in lines[wrong[0]]
        assert lines[wrong[0] + 1].startswith("        -> `make install FOR=cuda`")
    else:
        assert (code, wrong) == (0, []), said


def test_builds_for_cpus_are_well_where_no_rule_asks_for_gpus(cluster: Cluster, project: Path) -> None:
    site = {"machine": "cpu-core", "slurm_partition": "cpu", "mem_mb": 8000, "runtime": 90}
    edit_yaml(project / PROFILE, **{"set-resources": {"site": site}})
    code, said = doctor(cluster, project)
    assert code == 0, said
    assert "a job on partition cpu: n1 imports chord and torch" in said
    assert "partition gpu" not in said


def test_what_does_not_fit_is_named_with_the_cure_and_nothing_is_sent(cluster: Cluster, project: Path) -> None:
    rules = {"train_base": {"slurm_partition": "gpus"}, "train": {"gres": "gpu:3"}}
    rules |= {"train_sft": {"runtime": "720 * attempt"}}
    changes = {f"set-resources__{rule}": resources for rule, resources in rules.items()}
    changes |= {LOOKS: 120, "default-resources__slurm_account": "physics"}
    edit_yaml(project / PROFILE, **changes)
    before = len(cluster.states())
    code, said = doctor(cluster, project)
    assert code == 1
    for found, change in (
        ("squeue knows ended jobs for 300 s", f"set `{LOOKS}: 100` or less in {PROFILE}"),
        ("account physics", f"leave `slurm_account` out of {PROFILE}"),
        ("train_base: found partition gpus, the cluster has cpu, gpu", "set `slurm_partition` to one of them"),
        ("train: found 3 GPUs on a node, partition gpu has fake:2", "set `gpus` of `site`, `gres`"),
        ("train: sbatch refuses: allocation failure: Requested node configuration is not available", "asked: sbatch"),
        ("train_sft: found 2880 minutes, partition gpu allows 1440", "set `runtime` to at most 1440"),
    ):
        lines = [i for i, line in enumerate(said.splitlines()) if line.startswith(f"CHANGE  {found}")]
        assert lines, (found, said)
        assert change in said.splitlines()[lines[0] + 1], said
    assert "ok      demonstrate: sbatch takes it" in said
    assert len(cluster.states()) == before


def test_a_results_folder_that_the_nodes_do_not_share_is_found(project: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    (project / "results").mkdir()
    with Cluster(nodes=1) as cluster:
        hidden = ["nsenter", f"--target={process_one(cluster, 'n1')}", "--mount", "--"]
        subprocess.run([*hidden, "mount", "-t", "tmpfs", "none", project / "results"], check=True)
        code, said = doctor(cluster, project)
    assert code == 1
    assert "CHANGE  a job on partition cpu: ended (FAILED), and nothing that it wrote is in " in said, said
    assert "-> put the project on a file system that login and compute nodes share" in said


def test_a_cluster_that_does_not_answer_is_named_and_no_jobs_sends_none(project: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    with Cluster(nodes=1) as cluster:
        code, said = doctor(cluster, project, "--no-jobs")
        assert (code, cluster.states()) == (0, {}), said
        assert "a job on partition" not in said
        cluster.controller_stop()
        code, said = doctor(cluster, project, "--no-jobs")
    assert code == 1
    assert "CHANGE  the cluster: " in said
