"""The demo on a real Slurm by `snakemake --profile slurm`, an arm of each kind: GPUs, few submissions, local bytes."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from chord.provenance.files import content_hash
from tests import warm
from tests.cluster.needs import why_not
from tests.cluster.slurm import Cluster
from tests.conftest import made_once
from tests.mini_study import BENCHMARKS, prepare, shrink_study
from tests.projects import edit_yaml, git, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
# What the tests change of the profile: fewer jobs at once than a cluster takes, and looks at them more often.
HERE = ("--jobs", "4", "--latency-wait", "20", "--slurm-init-seconds-before-status-checks", "5")
ARMS = ("original", "sft-best", "grpo", "chord-phi")
TRAINED = {"base", "sft-lr-low", "sft-lr-mid", "sft-lr-high", *ARMS} - {"original", "sft-best"}
ON_GPUS = ("chord train", "chord generate")


class Built(NamedTuple):
    """A project whose demo was built by Slurm, and each Slurm job as `scontrol` tells it."""

    folder: Path
    jobs: dict[str, dict[str, str]]

    @property
    def manifests(self) -> dict[str, dict[str, Any]]:
        """Every manifest of the study, by its place in it."""
        results = self.folder / "results/demo"
        files = results.rglob("*.manifest.json")
        return {file.relative_to(results).as_posix(): json.loads(file.read_text()) for file in files}


def shrink(config: Path) -> None:
    """Every rule of `make demo`, an arm of each kind, one seed, next to no learning."""
    shrink_study(config, seeds=[1])
    edit_yaml(config / "config.yaml", artefacts=["table1", "figure2", "figure9"])
    edit_yaml(config / "experiments/table1.yaml", arms=list(ARMS))
    budget = {"sft_epochs": 1, "mu_decay_steps": 2, "tune_both_warmup_steps": 1, "sasr_warmup_steps": 1}
    edit_yaml(config / "studies/demo.yaml", **{f"budget__{name}": value for name, value in budget.items()})


def build(folder: Path) -> None:
    """`snakemake --profile slurm` on the login machine of a cluster of 4 nodes with 2 GPUs each.

    Snakemake and the verbs are forked on the nodes where Slurm starts them, from processes that have loaded packages.
    """
    prepare(folder / "project", shrink)
    (folder / "project/slurm").symlink_to("profiles/slurm")
    for server in ("planning", "computing"):
        warm.serve(server)
    environment = {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", warm.JOBS: warm.begin()}
    command = (f"{warm.begin()}/python", "-m", "snakemake", "--profile", "slurm", *HERE)
    with Cluster(min_job_age=7200) as cluster:
        cluster.run(*command, cwd=folder / "project", env=environment, timeout=1700)
        jobs = {number: cluster.job(number) for number in cluster.states()}
    (folder / "jobs.json").write_text(json.dumps(jobs))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The demo, built once."""
    if reason := why_not():
        pytest.skip(reason)
    folder = made_once(tmp_path_factory, "demo by slurm", build)
    return Built(folder / "project", json.loads((folder / "jobs.json").read_text()))


def rule_of(job: dict[str, str]) -> str:
    """Rule or group of a Slurm job, by the comment that the plugin gives it."""
    return re.sub(r"^rule_|_wildcards_.*", "", job["Comment"])


def test_every_artefact_is_there_and_every_slurm_job_ended_well_at_once(built: Built) -> None:
    chosen = yaml.safe_load((built.folder / "config/config.yaml").read_text())["artefacts"]
    assert {path.stem for path in (built.folder / "results/demo").glob("*.json")} >= {*chosen, "claims"} > {"table1"}
    assert (built.folder / "results/demo/report.html").exists()
    assert Counter(job["JobState"] for job in built.jobs.values()) == {"COMPLETED": len(built.jobs)}
    assert {job["JobName"].split("_")[0] for job in built.jobs.values()} == {"chord"}
    assert {f"runs/{arm}/seed-1/eval/in-distribution/scores.manifest.json" for arm in ARMS} <= set(built.manifests)


def test_training_and_answering_are_scheduled_by_gpus_and_nothing_else_is(built: Built) -> None:
    verbs = Counter(manifest["verb"] for manifest in built.manifests.values())
    assert (verbs["chord train"], verbs["chord generate"]) == (len(TRAINED), len(ARMS) * len(BENCHMARKS))
    for place, manifest in built.manifests.items():
        job = built.jobs[manifest["environment"]["SLURM_JOB_ID"]]
        gpus = manifest["environment"].get("CUDA_VISIBLE_DEVICES", "")
        if manifest["verb"] in ON_GPUS:
            assert (job["Partition"], job["TresPerNode"]) == ("gpu", "gres:gpu:1"), place
            assert gpus in ("0", "1"), place
        else:
            assert (job["Partition"], job.get("TresPerNode"), gpus) == ("cpu", None, ""), place


def test_each_manifest_names_its_slurm_job_and_node_and_small_jobs_share_one(built: Built) -> None:
    made_by = Counter(manifest["attempt"]["job"] for manifest in built.manifests.values())
    assert set(made_by) == set(built.jobs)  # no Slurm job for nothing
    for manifest in built.manifests.values():
        assert manifest["attempt"]["host"] == built.jobs[manifest["attempt"]["job"]]["BatchHost"]
    shared = {rule_of(built.jobs[job]): count for job, count in made_by.items() if count > 1}
    kinds = Counter(re.split("[-_]", name)[0] for name in shared)
    assert kinds == {"problems": 1, "choice": 1, "scores": len(ARMS)}
    assert next(count for name, count in shared.items() if name.startswith("problems")) >= 6
    # Two benchmarks: half of the scores' submissions are saved; of the problems' and the choice's all but one.
    assert len(built.jobs) == sum(made_by.values()) - sum(count - 1 for count in shared.values())
    assert len(built.jobs) < 0.8 * sum(made_by.values())


def test_models_metrics_answers_and_scores_are_those_of_a_run_without_slurm(built: Built, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(built.folder), "local")
    runs = Path("results/demo/runs")
    scores = [str(runs / arm / "seed-1/eval/in-distribution/scores.json") for arm in ("chord-phi", "sft-best")]
    done = run(tmp_path / "local", "snakemake", "--cores", "2", "--quiet", "all", "--", *scores)
    assert done.returncode == 0, done.stdout
    same = [runs / "chord-phi/seed-1" / name for name in ("model", "metrics.jsonl")]
    same += [runs / "sft-best/seed-1" / name for name in ("model", "chosen.json")]
    same += [Path("results/demo/models/base/model"), *(Path(path) for path in scores)]
    same += [Path(path).with_name("answers.jsonl") for path in scores]
    for path in same:
        assert content_hash(built.folder / path) == content_hash(tmp_path / "local" / path), path


def test_the_audit_holds_and_a_second_run_plans_nothing_also_where_there_is_no_slurm(built: Built) -> None:
    audited = run(built.folder, "chord audit", "results/demo")
    assert audited.returncode == 0, audited.stdout
    assert f"{len(built.manifests)} attempts ({len(built.manifests)} ok)" in audited.stdout
    planned = run(built.folder, "snakemake", "-n", "--profile", "slurm")
    assert planned.returncode == 0, planned.stdout
    assert "Nothing to be done" in planned.stdout
