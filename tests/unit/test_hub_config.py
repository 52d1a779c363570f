"""What a study may say of datasets on a hub, and what its lock file may."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from chord.config.project import load
from chord.config.sets import repositories
from chord.errors import ConfigError
from tests.mini_study import edit_yaml

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef" * 2 + "01234567"
FILTERS = {"script": "no-cjk", "answers": "integer", "generations": 1, "generation_tokens": 90, "overlap_words": 8}
DATASET = {"repository": "made-up/sums", "revision": "main", "files": ["data/train-*.parquet"]}
SPLIT = {"task": "published", "size": 40}
HARDER = {"label": "harder", "problems": SPLIT, "file": "harder.yaml"}


def hub_study(root: Path, **changes: Any) -> Path:
    """The demo with problems and traces of a made-up dataset; `tasks__published__filters=None` changes one value."""
    shutil.copytree(ROOT / "config", root / "config", dirs_exist_ok=True)
    file = root / "config" / "studies" / "demo.yaml"
    study: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    columns = {"question": "problem", "answer": "answer", "generations": "generations", "verified": "right"}
    study["datasets"] = {"sums": DATASET | {"columns": columns}}
    study["tasks"]["published"] = {"source": "hub", "dataset": "sums", "filters": dict(FILTERS), "prompt": "{question}"}
    study["data"] |= {name: dict(SPLIT) for name in ("train", "expert")} | {"validation": SPLIT | {"size": 128}}
    study["expert"] = {"source": "published", "name": "made-up expert"}
    file.write_text(yaml.safe_dump(study), encoding="utf-8")
    edit_yaml(file, **changes)
    return file


def test_a_study_may_draw_from_a_hub_and_needs_each_repository_once(tmp_path: Path) -> None:
    hub_study(tmp_path)
    project = load(tmp_path)
    assert project.lock is None
    (only,) = repositories(project.study)
    assert only[:3] == ("dataset", "made-up/sums", "main")
    assert only.patterns == only.required == ("data/train-*.parquet",)


def test_models_of_other_arms_and_served_experts_are_fetched_with_the_studys_own() -> None:
    needed = {name: repositories(load(ROOT, name).study) for name in ("math", "tools")}
    models = {name: [one.name for one in found if one.kind == "model"] for name, found in needed.items()}
    assert models["math"] == ["Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-7B"]
    assert models["tools"] == ["meta-llama/Llama-3.2-3B-Instruct", "Qwen/Qwen2.5-72B-Instruct"]
    assert all("*.safetensors" in one.required for found in needed.values() for one in found if one.kind == "model")


WITHOUT = {"question": "problem", "answer": "answer"}
REFUSED: dict[str, dict[str, Any]] = {
    "tasks.published.dataset is 'sum', expected `sums` (nearest)": {"tasks__published__dataset": "sum"},
    "datasets.sums: found no `answer` in `columns`": {"datasets__sums__columns": {"question": "problem"}},
    "has no `generations`, expected the columns of generations and verified": {"datasets__sums__columns": WITHOUT},
    "datasets.sums: found `verified` in `may_lack` and not in `columns`": {
        "datasets__sums": DATASET | {"columns": WITHOUT, "may_lack": ["verified"]}
    },
    "datasets.sums: found 'data/train.csv' in `files`": {"datasets__sums__files": ["data/train.csv"]},
    "datasets.sums.repository is ": {"datasets__sums__repository": "sums"},
    "found `generation_tokens` without `generations`": {"tasks__published__filters": {"generation_tokens": 90}},
    "expert.source is scripted and the problems are of source hub, expected problems of source generator": {
        "expert": {"source": "scripted", "name": "solver", "style": "terse"}
    },
    "tasks.published.filters.generations is not given, expected at least 1": {
        "tasks__published__filters": {"answers": "integer"}
    },
    "expected one source: else sets could share a prompt": {"data__expert": {"task": "sum-3", "size": 40}},
    "benchmarks.harder.categories is 'subject', expected ": {"benchmarks__harder": HARDER | {"categories": "subject"}},
    "tasks.sum-3: found `filters` with source generator": {"tasks__sum-3__filters": {"answers": "integer"}},
    "tasks.published: found `settings` or `keep` with source hub": {"tasks__published__settings": {"digits": 3}},
    'expert.source is "publish", expected `published` (nearest)': {"expert": {"source": "publish", "name": "expert"}},
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_is_told_by_its_key(said: str, tmp_path: Path) -> None:
    hub_study(tmp_path, **REFUSED[said])
    with pytest.raises(ConfigError) as refused:
        load(tmp_path)
    assert said in str(refused.value)
    assert all(line.startswith("config/studies/demo.yaml: ") for line in str(refused.value).splitlines())


def lock_of(**changes: Any) -> dict[str, Any]:
    file = {"size": 3, "sha256": "0" * 64}
    one = {"kind": "dataset", "name": "made-up/sums", "revision": "main", "commit": COMMIT}
    return {"study": "demo", "repositories": [one | {"files": {"data/train-0.parquet": file}} | changes]}


def locked_study(root: Path, text: str) -> Path:
    hub_study(root)
    (root / "config" / "locks").mkdir(exist_ok=True)
    (root / "config" / "locks" / "demo.json").write_text(text, encoding="utf-8")
    return root


def test_a_lock_file_is_read_with_the_study(tmp_path: Path) -> None:
    project = load(locked_study(tmp_path, json.dumps(lock_of())))
    assert project.lock
    (wanted,) = repositories(project.study)
    found = project.lock.find(wanted)
    assert found and found.commit == COMMIT
    assert project.lock.find(wanted._replace(revision="v2")) is None
    assert project.lock.find(wanted._replace(required=("data/test.jsonl",))) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "found an empty file, expected a whole lock file of `chord fetch --study demo`"),
        (json.dumps(lock_of(commit="main")), 'repositories.0.commit is "main"'),
        (json.dumps(lock_of(token="secret")), "repositories.0.token is not a key here"),
    ],
)
def test_a_damaged_lock_file_is_told(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load(locked_study(tmp_path, text))
    assert said in str(refused.value) and str(refused.value).startswith("config/locks/demo.json: ")
