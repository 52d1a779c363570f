"""Every file under `config/`, read and checked before anything runs. Writes nothing."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from chord.config.artefacts import EVERYTHING, Artefact, Choice
from chord.config.base import NAME, ConfigError, Number, Raw
from chord.config.building import why_not
from chord.config.checks import crossed, misnamed
from chord.config.claims import Claims
from chord.config.lock import read_lock
from chord.config.messages import expected, kind_of, shown
from chord.config.project import Project
from chord.config.reading import parsed, read_yaml, validated
from chord.config.recipe import Arm
from chord.config.study import Study

T = TypeVar("T")
Budget = Mapping[str, Number]
ARMS, CLAIMS = "config/arms.yaml", "config/claims.yaml"
BUDGET = re.compile(r"budget\.(\w+)")


def load(
    root: Path,
    study: str | None = None,
    seeds: tuple[int, ...] | None = None,
    given: Mapping[str, Raw] | None = None,
) -> Project:
    """All of `root`/config for one study (default: the one of config.yaml). Raises ConfigError; writes nothing.

    `given` is config.yaml as Snakemake holds it, with what `--config` changed.
    """
    folder, problems = root / "config", list[str]()
    wanted = dict(given or {})
    if study:
        wanted["study"] = study
    if seeds:
        wanted["seeds"] = list[Raw](seeds)
    choice = _choice(folder, wanted)

    file = f"config/studies/{choice.study}.yaml"
    raw_study, raw_arms = read_yaml(root / file, file), read_yaml(folder / "arms.yaml", ARMS)
    budget = validated(TypeAdapter(dict[str, Number]), raw_study.get("budget", {}), file, "budget")
    _refuse_lacking({f"{file}: ": raw_study, f"{ARMS}: ": raw_arms}, budget, file)
    loaded = _collected(TypeAdapter[Study](Study), _resolved(raw_study, budget), file, "", problems)

    arms = {
        name: _collected(TypeAdapter[Arm](Arm), _resolved(raw, budget), ARMS, name, problems)
        for name, raw in raw_arms.items()
        if _may_name_an_arm(name, problems)
    }
    artefacts: dict[str, Artefact | None] = {}
    for path in sorted((folder / "experiments").glob("*.yaml")):
        file = f"config/experiments/{path.name}"
        artefacts[path.stem] = _collected(TypeAdapter[Artefact](Artefact), read_yaml(path, file), file, "", problems)

    claims = _collected(TypeAdapter[Claims](Claims), read_yaml(root / CLAIMS, CLAIMS), CLAIMS, "", problems)
    whole_arms = {name: arm for name, arm in arms.items() if arm}
    whole_artefacts = {name: artefact for name, artefact in artefacts.items() if artefact}
    if EVERYTHING in choice.artefacts and not problems and loaded:
        built = [name for name, artefact in whole_artefacts.items() if not why_not(loaded, whole_arms, artefact)]
        choice = choice.model_copy(update={"artefacts": tuple(built)})
    if not problems and loaded and claims:
        problems += crossed(loaded, whole_arms, whole_artefacts, choice, root)
        problems += misnamed(claims, whole_arms, root)
    if problems or not loaded or not claims:
        raise ConfigError("\n".join(problems))
    lock = read_lock(root, loaded.name)
    return Project(study=loaded, arms=whole_arms, artefacts=whole_artefacts, choice=choice, claims=claims, lock=lock)


def _choice(folder: Path, given: Mapping[str, Raw]) -> Choice:
    """config.yaml with what was given on the command line, where texts are read as YAML."""
    raw = read_yaml(folder / "config.yaml", "config/config.yaml")
    choice = validated(TypeAdapter(Choice), raw, "config/config.yaml")
    changed = {key: value for key, value in given.items() if key not in raw or raw[key] != value}
    if changed:
        choice = validated(
            TypeAdapter(Choice), raw | {key: _typed(key, value) for key, value in changed.items()}, "--config"
        )
    known = sorted(path.stem for path in (folder / "studies").glob("*.yaml"))
    if choice.study not in known:
        place = "--config" if "study" in changed else "config/config.yaml"
        raise ConfigError(f"{place}: study is {shown(choice.study)}, {expected(choice.study, known)}")
    return choice


def _typed(key: str, value: Raw) -> Raw:
    """A value of `--config`: Snakemake hands over the numbers of a list as texts. No value here has lists in lists."""
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict | list) for item in value)):
        raise ConfigError(f"--config: {key} is {kind_of(value)} of more than plain values, expected plain values")
    if isinstance(value, list):
        return [parsed(item, f"--config {key}") if isinstance(item, str) else item for item in value]
    return value


def _may_name_an_arm(name: str, problems: list[str]) -> bool:
    if re.match(r"base(-|$)", name) or not re.match(NAME, name):
        problems.append(
            f"{ARMS}: {name} is a name that no arm may have, expected small letters, digits, `.`, `+` and `-`;"
            " `base` is the model that every arm starts from, and `base-NAME` are other such models"
        )
        return False
    return True


def _collected(adapter: TypeAdapter[T], raw: Raw, file: str, prefix: str, problems: list[str]) -> T | None:
    """The record, or nothing and its problems added to the others."""
    try:
        return validated(adapter, raw, file, prefix)
    except ConfigError as error:
        problems.append(str(error))
        return None


def _refuse_lacking(files: Mapping[str, Raw], budget: Budget, file: str) -> None:
    """Raise if a text `budget.KEY` asks for what the study's budget does not say."""
    lacking: dict[str, list[str]] = {}
    for start, raw in files.items():
        for place, key in _asked(raw, start):
            if key not in budget:
                lacking.setdefault(key, []).append(place)
    if lacking:
        raise ConfigError(
            "\n".join(
                f"{file}: budget has no '{key}', {expected(key, budget)}; asked for in {'; '.join(places)}"
                for key, places in lacking.items()
            )
        )


def _asked(raw: Raw, place: str) -> Iterator[tuple[str, str]]:
    """Where `raw` asks for the study's budget, and for which of its values."""
    if isinstance(raw, dict):
        for name, value in raw.items():
            yield from _asked(value, f"{place}{'' if place.endswith(' ') else '.'}{name}")
    elif isinstance(raw, list):
        for index, value in enumerate(raw):
            yield from _asked(value, f"{place}.{index}")
    elif isinstance(raw, str) and (match := BUDGET.fullmatch(raw)):
        yield place, match[1]


def _resolved(raw: Raw, budget: Budget) -> Raw:
    """`raw` with every text `budget.KEY` replaced by the study's value for KEY."""
    if isinstance(raw, dict):
        return {name: _resolved(value, budget) for name, value in raw.items()}
    if isinstance(raw, list):
        return [_resolved(value, budget) for value in raw]
    match = BUDGET.fullmatch(raw) if isinstance(raw, str) else None
    return budget[match[1]] if match else raw
