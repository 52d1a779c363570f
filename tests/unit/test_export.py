"""Property: the crate of a study passes the public validator, tells each attempt and hash truly, and no secret."""

import hashlib
import json
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest
from requests import Request
from requests_cache import CachedRequest, CachedResponse, CachedSession
from rocrate_validator import services
from rocrate_validator.models import Severity, ValidationSettings

from chord.audit import export
from chord.audit.export import without_places
from chord.errors import UserError
from chord.provenance import ledger
from chord.provenance.cli import Terminated
from chord.provenance.files import TIMESTAMP, tree_hash
from chord.provenance.manifest import JobSpec, Manifest
from chord.steps import step_of

ROOT = Path(__file__).parents[2]
CONTEXT = ROOT / "tests" / "data" / "ro-crate-1.1-context.jsonld"
# The other context that a crate names: these terms, each in the namespace of the run profiles.
RUN_TERMS = ["ParameterConnection", "ContainerImage", "DockerImage", "SIFImage", "connection", "sourceParameter"]
RUN_TERMS += ["targetParameter", "md5", "sha1", "sha256", "sha512", "environment", "registry", "tag", "containerImage"]
RUN_TERMS += ["resourceUsage"]
# The one recommendation that no crate of a workflow can meet; see chord/audit/crate.py.
UNMET = {("SoftwareApplication id", "crate/Snakefile")}
SECRET = "hf_plantedForThisTest0123456789"


# --- a study made by hand ----------------------------------------------------------------------


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Attempts of every kind on one model, one table of it; a secret in environment, command line and an error."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node-with-a-name")
    monkeypatch.setattr(sys, "argv", ["verb", "--api-token", "planted-on-the-line", "--state", f"{tmp_path}/state"])
    folder = tmp_path / "project-of-somebody" / "results" / "demo"
    raw = tmp_path / "private place" / "raw.txt"
    raw.parent.mkdir()
    raw.write_text("raw")
    problems = {"train": "data/problems/train.jsonl"}
    job(folder, "chord prepare", "data/problems/train", {"raw": raw}, problems, seeds={"data": 7})
    killed(lambda: train(folder, work=lambda: os._exit(9)))
    for end in (RuntimeError(f"no room in {tmp_path}/model for {SECRET}"), Terminated(15), SystemExit(75)):
        with pytest.raises(type(end)):
            train(folder, fails_with=end)
    train(folder)
    scores = {"metrics": folder / "runs/sft-light/seed-1/metrics.jsonl"}
    outputs = {name: name for name in ("table1.json", "table1.md")}
    job(folder, "chord tabulate", "table1", scores, outputs, extra={"artefact": "table1"})
    (folder / "logs").mkdir()
    (folder / "logs" / "table1.log").write_text("a log, which no manifest names\n")
    (folder / "runs/sft-light/seed-1/state").mkdir()
    (folder / "runs/sft-light/seed-1/state/half").write_text("no output")
    return folder


def job(folder, verb, name, inputs, outputs, work=lambda: None, **options):
    """What a verb does: the outputs by path in the study, then `work`."""
    made = {key: folder / path for key, path in outputs.items()}
    with Manifest.recording(folder / f"{name}.manifest.json", JobSpec(verb), inputs=inputs, outputs=made, **options):
        for path in made.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"title": "Table 1: all arms", "of": path.name}))
        work()


def train(folder, fails_with=None, work=lambda: None):
    run = folder / "runs" / "sft-light" / "seed-1"
    with Manifest.recording(
        run / "train.manifest.json",
        JobSpec("chord train", "train", {"recipe": {"mu": 0.5, "phi": "p(1-p)"}}),
        inputs={"prompts": folder / "data" / "problems" / "train.jsonl"},
        outputs={"model": run / "model", "metrics": run / "metrics.jsonl"},
        seeds={"run": 1},
    ):
        (run / "model" / "parts").mkdir(parents=True, exist_ok=True)
        (run / "model" / "parts" / "model.safetensors").write_bytes(b"weights")
        (run / "metrics.jsonl").write_text("{}\n")
        work()
        if fails_with:
            raise fails_with


def killed(work):
    """Does `work` in a process of its own, which it ends by `os._exit`."""
    if (child := os.fork()) == 0:
        work()
    os.waitpid(child, 0)


def graph_of(folder: Path) -> dict[str, dict]:
    """Every entity of a crate by its name, read as plain JSON."""
    entities = json.loads((folder / "ro-crate-metadata.json").read_bytes())["@graph"]
    return {entity["@id"]: entity for entity in entities}


def actions_of(graph: dict[str, dict], name: str) -> list[dict]:
    """The actions of one job, by the time at which they began."""
    found = [one for one in graph.values() if one["@type"] == "CreateAction" and one["name"].startswith(f"{name}:")]
    return sorted(found, key=lambda one: one["startTime"])


def names(refs: dict | list) -> set[str]:
    return {one["@id"] for one in (refs if isinstance(refs, list) else [refs])}


# --- the public validator ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """What the validator would fetch, in its own cache."""
    place = tmp_path_factory.mktemp("validator") / "cache"
    terms = {term: f"https://w3id.org/ro/terms/workflow-run#{term}" for term in RUN_TERMS}
    texts = {
        "https://w3id.org/ro/crate/1.1/context": CONTEXT.read_bytes(),
        "https://w3id.org/ro/terms/workflow-run/context": json.dumps({"@context": terms}).encode(),
    }
    with CachedSession(cache_name=str(place), backend="sqlite", expire_after=-1) as session:
        for url, text in texts.items():
            about = {"status_code": 200, "headers": {"Content-Type": "application/ld+json"}, "content": text}
            answer = CachedResponse(url=url, request=CachedRequest(method="GET", url=url), **about)
            session.cache.save_response(answer, session.cache.create_key(Request("GET", url)))
    return place


@pytest.fixture
def complaints(cache):
    """A function from a crate to what the public validator says against it, required or recommended."""

    def validate(folder: Path) -> set[tuple[str, str]]:
        settings = ValidationSettings(
            rocrate_uri=str(folder),
            profile_identifier="provenance-run-crate-0.5",
            requirement_severity=Severity.RECOMMENDED,
            offline=True,
            cache_path=cache,
        )
        found = services.validate(settings)
        assert len(found.executed_checks) > 150, "the validator did not run"
        return {(issue.check.name, _entity(issue, folder)) for issue in found.get_issues()}

    return validate


def _entity(issue, folder: Path) -> str:
    """Which entity of the crate an issue is about."""
    value = issue.violatingPropertyValue if issue.check.name == "SoftwareApplication id" else None
    return f"{value or issue.violatingEntity or ''}".removeprefix(f"file://{folder}/").removeprefix("./")


def exported(folder: Path, *arguments: str) -> dict[str, dict]:
    export.main([str(folder), *arguments])
    return graph_of(folder)


def test_failed_and_killed_attempts_pass_the_public_validator_but_one_killed_outright_and_never_repeated_has_no_end(
    study, complaints
):
    outputs = {"made": "data/other.json"}
    killed(lambda: job(study, "chord prepare", "data/other", {}, outputs, work=lambda: os._exit(9)))
    attempt = next(one for one in exported(study).values() if str(one.get("name")).endswith(": data/other"))
    assert "endTime" not in attempt and attempt["error"].startswith("no end was recorded")
    assert complaints(study) == {*UNMET, ("Action endTime", attempt["@id"])}


def test_a_study_built_by_the_real_workflow_passes_the_public_validator_and_all_its_hashes_are_true(
    mini_copy, complaints
):
    folder = mini_copy / "results" / "demo"
    for name in ("CITATION.cff", "LICENSE"):
        shutil.copy(ROOT / name, mini_copy / name)
    assert_hashes_are_true(folder, exported(folder))
    assert complaints(folder) == UNMET
    jobs = [one for one in graph_of(folder).values() if one["@type"] == "CreateAction"]
    assert len(jobs) == len(list(folder.rglob("*.manifest.json"))) + 1
    assert not any("without a rule" in one["name"] for one in jobs)


def no_main_entity(graph):
    del graph["./"]["mainEntity"]


def no_instrument_no_agent_no_such_file(graph):
    del actions_of(graph, "train")[-1]["instrument"]
    del actions_of(graph, "train")[0]["agent"]
    graph["table1.md"]["@id"] = "table2.md"
    graph["./"]["hasPart"].append({"@id": "table2.md"})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (no_main_entity, {"mainEntity of Main Workflow entity existence"}),
        (
            no_instrument_no_agent_no_such_file,
            {"Action instrument", "Action agent", "Data Entity: REQUIRED resource availability"},
        ),
    ],
)
def test_a_crate_that_lacks_something_fails_the_public_validator(study, complaints, damage, said):
    graph = exported(study)
    damage(graph)
    whole = json.loads((study / "ro-crate-metadata.json").read_bytes())
    (study / "ro-crate-metadata.json").write_text(json.dumps(whole | {"@graph": list(graph.values())}))
    assert said <= {name for name, _ in complaints(study)}


# --- hashes ------------------------------------------------------------------------------------


def assert_hashes_are_true(folder: Path, graph: dict[str, dict]) -> None:
    """Every file is there, with its size and, where one is given, its SHA-256; every folder with its Merkle root."""
    files = {name: one for name, one in graph.items() if "File" in one["@type"]}
    for name, one in files.items():
        content = (folder / name).read_bytes()
        assert one["contentSize"] == str(len(content)), name
        assert one.get("sha256") in (None, hashlib.sha256(content).hexdigest()), name
    folders = [one for one in graph.values() if one["@type"] == "Dataset" and one["@id"] != "./"]
    assert folders
    for one in folders:
        assert graph[one["identifier"]["@id"]]["value"] == tree_hash(folder / one["@id"])
    parts = {name for one in folders for name in names(one.get("hasPart", []))}  # an empty folder has none
    assert {name for name, one in files.items() if "sha256" not in one} <= parts
    assert len(files) - len(parts) > 10


def test_every_file_of_the_study_is_named_with_its_true_hash_but_state_that_passes(study):
    graph = exported(study)
    assert_hashes_are_true(study, graph)
    there = {path.relative_to(study).as_posix() for path in study.rglob("*") if path.is_file()}
    named = {name for name, one in graph.items() if "File" in one["@type"]}
    assert there - named == {"ro-crate-metadata.json", "runs/sft-light/seed-1/state/half"}
    assert named <= there


def test_bytes_are_read_again_with_verify_alone_and_an_output_of_another_size_is_never_exported(study):
    run = "runs/sft-light/seed-1"
    weights, metrics = f"{run}/model/parts/model.safetensors", study / run / "metrics.jsonl"
    assert "sha256" not in exported(study)[weights]
    assert exported(study, "--verify")[weights]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    metrics.write_text("[]\n")
    exported(study)
    for content, found, flags in (("[]\n", "other bytes", ["--verify"]), ("{} \n", "4 bytes", [])):
        metrics.write_text(content)
        with pytest.raises(UserError, match=f"metrics.jsonl: found {found}, expected the 3 that its manifest"):
            exported(study, *flags)


def test_an_input_that_has_been_replaced_is_told_by_its_own_hash_and_not_as_the_file_of_today(study):
    problems = study / "data/problems/train.jsonl"
    before = hashlib.sha256(problems.read_bytes()).hexdigest()
    outputs = {"train": "data/problems/train.jsonl"}
    job(study, "chord prepare", "data/problems/train", {}, outputs, work=lambda: problems.write_text("new problems"))
    graph = exported(study)
    assert f"#content-{before}" in names(actions_of(graph, "train")[-1]["object"])
    assert graph[f"#content-{before}"]["@type"] == "CreativeWork"
    assert graph["data/problems/train.jsonl"]["sha256"] == hashlib.sha256(b"new problems").hexdigest()
    replaced, present = actions_of(graph, "prepare")
    assert replaced["actionStatus"] == present["actionStatus"] and "error" not in replaced
    assert names(replaced["result"]) == {"provenance/ledger.jsonl"}
    assert "data/problems/train.jsonl" in names(present["result"])


# --- attempts ----------------------------------------------------------------------------------


def test_every_attempt_is_an_action_with_its_end_and_its_reason(study):
    graph = exported(study)
    killed, failed, terminated, stopped, made = actions_of(graph, "train")
    assert [one["actionStatus"].rpartition("/")[2] for one in (killed, failed, terminated, stopped, made)] == (
        ["FailedActionStatus"] * 4 + ["CompletedActionStatus"]
    )
    assert failed["error"] == "RuntimeError: no room in model for [removed]"
    assert terminated["error"] == "ended by SIGTERM"
    assert stopped["error"] == "stopped with exit code 75, its outputs not yet made"
    assert killed["error"].startswith("no end was recorded")
    lines = ledger.read(study / "provenance" / "ledger.jsonl")
    starts = [line["time"] for line in lines if line["event"] == "start" and line["verb"] == "chord train"]
    assert killed["endTime"] == starts[1]  # when the next attempt at the same outputs began
    assert "error" not in made and names(failed["result"]) == {"provenance/ledger.jsonl"}
    controls = [one for one in graph.values() if one["@type"] == "ControlAction"]
    assert names([one["object"] for one in controls]) == {
        one["@id"] for one in graph.values() if one["@type"] == "CreateAction" and one["@id"] != "#run"
    }


def test_a_job_tells_what_it_read_wrote_and_was_told_and_which_code_it_ran(study):
    graph = exported(study)
    made, manifest = actions_of(graph, "train")[-1], study / "runs/sft-light/seed-1/train.manifest.json"
    recorded = json.loads(manifest.read_bytes())
    assert names(made["result"]) == {
        "runs/sft-light/seed-1/model/",
        "runs/sft-light/seed-1/metrics.jsonl",
        "runs/sft-light/seed-1/train.manifest.json",
    }
    told = {graph[name]["name"]: graph[name].get("value") for name in names(made["object"])}
    assert "data/problems/train.jsonl" in names(made["object"])
    assert told["run"] == 1 and json.loads(told["recipe"]) == {"mu": 0.5, "phi": "p(1-p)"}
    assert json.loads(told["packages"]) == recorded["installed"]["packages"]
    variables = {graph[name]["name"]: graph[name]["value"] for name in names(made["environment"])}
    assert variables["OMP_NUM_THREADS"] == "1" and "SLURM_JOB_NODELIST" not in variables
    step = graph["#step-train"]
    assert made["instrument"] in step["workExample"]
    assert names(step["buildInstructions"]) == {"crate/envs/train.yaml", "crate/envs/train.txt"}
    tool = graph[made["instrument"]["@id"]]
    assert recorded["code"]["digest"] in tool["softwareVersion"] and tool["url"] == {
        "@id": "crate/chord/training/train.py"
    }
    assert tool["description"] == "The code in crate/chord has the digest of the code that ran."
    assert graph["table1.md"]["name"] == "table1: Table 1: all arms (table1.md)"


def test_the_last_attempt_decides_whether_the_run_of_the_workflow_failed(study):
    assert exported(study)["#run"]["actionStatus"].endswith("CompletedActionStatus")
    with pytest.raises(RuntimeError):
        train(study, fails_with=RuntimeError("no"))
    run = exported(study)["#run"]
    assert run["actionStatus"].endswith("FailedActionStatus")
    assert run["error"] == "last attempt without a result at: runs/sft-light/seed-1/train.manifest.json"


def test_an_attempt_that_no_rule_makes_has_no_step():
    assert step_of("chord train", "elsewhere/by-hand.manifest.json", ("model", "metrics")) is None
    assert step_of("chord tabulate", "runs/x/report.manifest.json", ()) is None


def test_every_file_that_is_referred_to_is_in_the_crate_also_where_its_path_needs_quoting(study):
    place = "runs/sft-light+rl/seed-1/eval/a benchmark/scores"
    read = {"metrics": study / "runs/sft-light/seed-1/metrics.jsonl"}
    job(study, "chord score", place, read, {"scores": f"{place}.json"})
    graph = exported(study)
    values = [value for one in graph.values() for value in one.values()]
    listed = [one for value in values for one in (value if isinstance(value, list) else [value])]
    referred = {one["@id"] for one in listed if isinstance(one, dict)}
    files = {name for name in referred if not name.startswith(("#", "http", "mailto:"))}
    assert len(files) > 10 and any("%2B" in name for name in files)
    assert sorted(files - graph.keys()) == []


# --- what does not get in ----------------------------------------------------------------------


def test_no_secret_no_machine_and_no_absolute_path_is_in_the_metadata(study, tmp_path):
    exported(study)
    text = (study / "ro-crate-metadata.json").read_text()
    assert SECRET not in text and "planted-on-the-line" not in text
    for place in (str(tmp_path), tmp_path.name, str(ROOT), str(Path.home()) + "/", "private place", "somebody"):
        assert place not in text
    assert f'"{socket.gethostname()}"' not in text and "node-with-a-name" not in text
    assert "--api-token [removed]" in text  # the command line is there, without the value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/ada/models/x.json", "x.json"),
        ("--out=/home/ada/x", "--out=x"),
        ("found no '/data/a b/c.txt', expected one", "found no 'a b/c.txt', expected one"),
        ("~/cache/hub/x", "x"),
        ("file:///home/ada/x", "x"),
        ("results/demo/x ./a/b ../a/b", "results/demo/x ./a/b ../a/b"),
        ("https://arxiv.org/abs/2508.11408", "https://arxiv.org/abs/2508.11408"),
        ("<think>a / b</think> <b>1/2/3</b></i>", "<think>a / b</think> <b>1/2/3</b></i>"),
        (r"\((\d+)/(\d+)/[a-z]+/", r"\((\d+)/(\d+)/[a-z]+/"),
    ],
)
def test_places_on_the_machine_are_taken_out_of_a_text_and_nothing_else(text, told):
    assert without_places(text) == told


def test_two_exports_give_the_same_bytes_also_elsewhere_and_nothing_else_of_the_study_changes(study, tmp_path):
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    exported(study)
    first = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    exported(study)
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == first
    added = {path.relative_to(study).parts[0] for path in first.keys() - before.keys()}
    assert added == {"crate", "README.md", "ro-crate-metadata.json"}
    assert {path: first[path] for path in before} == before
    moved = tmp_path / "moved" / "results" / "demo"
    shutil.copytree(study, moved)
    exported(moved)
    assert (moved / "ro-crate-metadata.json").read_bytes() == first[study / "ro-crate-metadata.json"]


# --- a folder of its own -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["--copy", "--link"])
def test_a_crate_apart_holds_all_that_it_names_also_of_results_on_other_disks(study, tmp_path, how):
    plain, linked = tmp_path / "plain", tmp_path / "to give away"
    model = study / "runs/sft-light/seed-1/model"
    (model / TIMESTAMP).write_text("Snakemake's own mark")
    job(study, "chord score", "part", {"part of a folder": model / "parts/model.safetensors"}, {"made": "part.json"})
    export.main([str(study), "--out", str(plain), how, "--verify"])
    assert os.path.samefile(study / "table1.json", plain / "table1.json") == (how == "--link")
    for number, path in enumerate([model / "parts/model.safetensors", study / "table1.json", study / "runs"]):
        disk = tmp_path / f"disk {number}"
        path.rename(disk)
        path.symlink_to(disk)
    (study / "latest").symlink_to("runs/sft-light")
    for _ in range(2):  # an older crate is replaced
        export.main([str(study), "--out", str(linked), how, "--verify"])
    held = [{file.relative_to(out).as_posix(): file.is_symlink() for file in out.rglob("*")} for out in (plain, linked)]
    assert held[0] == held[1] and not any(held[1].values())
    for out in (plain, linked):
        assert_hashes_are_true(out, graph_of(out))
        assert not list(out.rglob(TIMESTAMP))
    assert not (study / "ro-crate-metadata.json").exists()


def test_a_crate_is_not_written_over_something_else_nor_into_the_study(study, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="which is no crate, expected a new folder or an older crate"):
        export.main([str(study), "--out", str(tmp_path / "mine")])
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(UserError, match="inside of the study, expected a folder elsewhere"):
        export.main([str(study), "--out", str(study / "crate")])


def test_what_is_no_study_or_has_a_broken_ledger_is_refused(study, tmp_path):
    with pytest.raises(UserError, match="expected results/STUDY"):
        export.main([str(tmp_path)])
    (tmp_path / "results" / "empty").mkdir(parents=True)
    with pytest.raises(UserError, match="found no manifest, expected a study with results"):
        export.main([str(tmp_path / "results" / "empty")])
    file = study / "provenance" / "ledger.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(UserError, match=r"ledger\.jsonl, line 1"):
        export.main([str(study)])
