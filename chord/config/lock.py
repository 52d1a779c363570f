"""The lock file of a study: what of a model hub it stands on, to the byte. `chord fetch` writes it, jobs go by it."""

from fnmatch import filter as matching
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, TypeAdapter

from chord.config.reading import read_json, validated
from chord.config.sets import models_from
from chord.config.study import Model, Study
from chord.reach import decides_nothing
from chord.settings import Frozen, Name

COMMIT = r"^[0-9a-f]{40}$"
# Weights as safetensors alone: no pickle, and no code of a repository, is ever fetched.
MODEL_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.*", "vocab.json"),
    *("merges.txt", "LICENSE*", "USE_POLICY*"),
)


class LockedFile(Frozen):
    """One file as it arrived: bytes, and their SHA-256."""

    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LockedRepository(Frozen):
    """One repository at one commit. `revision` is what the study asked for when it was pinned."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str
    commit: Annotated[str, Field(pattern=COMMIT)]
    files: dict[str, LockedFile]


class Lock(Frozen):
    """config/locks/STUDY.json: every repository that the study needs, pinned."""

    study: Name
    repositories: tuple[LockedRepository, ...]

    def find(self, wanted: "Wanted") -> LockedRepository | None:
        """The pinned repository that `wanted` asks for, as far as it is the same revision and has such files."""
        for one in self.repositories:
            same = (one.kind, one.name, one.revision) == (wanted.kind, wanted.name, wanted.revision)
            if same and all(matching(one.files, pattern) for pattern in wanted.required):
                return one
        return None


class Wanted(NamedTuple):
    """A repository that a study needs: files that match `patterns`, and at least one for each of `required`."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str
    patterns: tuple[str, ...]
    required: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def lock_path(root: Path, study: str) -> Path:
    """Where the lock file of a study is, in the project in `root`."""
    return root / "config" / "locks" / f"{study}.json"


@decides_nothing("what config/ says reaches a job as values, which its manifest records")
def read_lock(root: Path, study: str) -> Lock | None:
    """The study's lock file, or nothing where none was written yet. Raises ConfigError for a damaged one."""
    path = lock_path(root, study)
    if not path.exists():
        return None
    shown = f"config/locks/{path.name}"
    return validated(TypeAdapter(Lock), read_json(path, shown, f"a lock file of `chord fetch --study {study}`"), shown)


def repositories(study: Study) -> list[Wanted]:
    """Every repository of a hub that the study needs, each once: its models and its datasets."""
    found: dict[tuple[str, str, str], Wanted] = {}
    models = [wanted_model(model) for model in models_from(study, "hub").values()]
    for one in [*models, *(wanted_dataset(study, dataset) for dataset in study.datasets)]:
        if before := found.get(one[:3]):
            patterns = tuple(dict.fromkeys(before.patterns + one.patterns))
            one = one._replace(patterns=patterns, required=tuple(dict.fromkeys(before.required + one.required)))
        found[one[:3]] = one
    return list(found.values())


def wanted_model(model: Model) -> Wanted:
    """The repository of a model of a hub."""
    assert model.source == "hub" and model.revision is not None
    needed = ("*.safetensors", "config.json", "tokenizer.json")
    return Wanted("model", model.name, model.revision, MODEL_FILES, needed)


def wanted_dataset(study: Study, dataset: str) -> Wanted:
    """The repository of one of the study's datasets."""
    one = study.datasets[dataset]
    return Wanted("dataset", one.repository, one.revision, one.files, one.files)
