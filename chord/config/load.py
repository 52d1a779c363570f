"""All of `config/` for one study, checked together; and which of its values are marked as ours.

`load` raises one `ConfigError` that lists every problem as: file, key, what was found, what was expected.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import yaml
from pydantic import TypeAdapter

from chord.config.benchmarks import BenchmarkTask, read_task
from chord.config.checks import alone, crossed, misnamed, of_arms, of_columns, of_study, unplanned
from chord.config.paper import EVERYTHING, Artefact, Choice, Claims
from chord.config.project import Project
from chord.config.reading import composed, expected, kind_of, one_line, parsed, read_yaml, shown, validated
from chord.config.recipe import Arm
from chord.config.sets import below, read_lock, why_not
from chord.config.study import PLANNING, Planning, Study
from chord.errors import ConfigError
from chord.reach import decides_nothing
from chord.settings import NAME, Number, Raw

# --- loading -------------------------------------------------------------------------------------

T = TypeVar("T")
Budget = Mapping[str, Number]
ARMS, CLAIMS = "config/arms.yaml", "config/claims.yaml"
BUDGET = re.compile(r"budget\.(\w+)")
ARM, STUDY = TypeAdapter(Arm), TypeAdapter(Study)


@decides_nothing("what config/ says reaches a job as values, which its manifest records")
def load(
    root: Path,
    study: str | None = None,
    seeds: tuple[int, ...] | None = None,
    given: Mapping[str, Raw] | None = None,
    others: bool = True,
) -> Project:
    """All of `root`/config for one study (default: the one of config.yaml). Raises ConfigError; writes nothing.

    `given` is config.yaml as Snakemake holds it, with what `--config` changed. Without `others` the files of other
    studies, their benchmarks and planning.yaml are left alone: a job that runs must not end because of them.
    """
    folder, problems = root / "config", list[str]()
    wanted = dict(given or {})
    if study:
        known = sorted(path.stem for path in (folder / "studies").glob("*.yaml"))
        if known and study not in known:
            raise ConfigError(f"--study: found '{study}', {expected(study, known)}")
        wanted["study"] = study
    if seeds:
        wanted["seeds"] = list[Raw](seeds)
    choice = _choice(folder, wanted)

    raw_arms = read_yaml(folder / "arms.yaml", ARMS)
    chosen = _studied(root, choice.study, raw_arms, problems)
    artefacts: dict[str, Artefact] = {}
    for path in sorted((folder / "experiments").glob("*.yaml")):
        file = f"config/experiments/{path.name}"
        if found := _read(TypeAdapter[Artefact](Artefact), path, file, problems):
            artefacts[path.stem] = found
    claims = _read(TypeAdapter(Claims), root / CLAIMS, CLAIMS, problems)
    names = sorted(path.stem for path in (folder / "studies").glob("*.yaml")) if others else []
    studied = [_studied(root, name, raw_arms, problems) for name in names if name != choice.study]
    tasks = _tasks(folder, chosen, others, problems)
    planned = others and (root / PLANNING).exists()  # without it nothing is lacking but what `chord plan` says
    planning = _read(TypeAdapter(Planning), root / PLANNING, PLANNING, problems) if planned else None

    if EVERYTHING in choice.artefacts and not problems and chosen:
        built = [name for name, one in artefacts.items() if not why_not(chosen.study, chosen.arms, one)]
        choice = choice.model_copy(update={"artefacts": tuple(built)})
    if not problems and chosen and claims:
        shown_arms = [name for key in choice.artefacts if key in artefacts for name in artefacts[key].arms]
        for one in filter(None, [chosen, *studied]):
            used = below(shown_arms, one.arms)
            problems += alone(one.study, one.name, root, [one.arms[name] for name in used])
            problems += of_study(one.study, one.file, tasks)
            problems += of_columns(one.study, one.file, artefacts)
            problems += of_arms(one.arms, used, one.budgets)
        problems += crossed(chosen.study, chosen.arms, artefacts, choice, root)
        problems += misnamed(claims, chosen.arms, root)
        problems += unplanned(planning, chosen.arms, names) if planning else []
    if problems or not chosen or not claims:
        raise ConfigError("\n".join(_once(problems)))
    locks = {name: read_lock(root, name) for name in dict.fromkeys([choice.study, *names])}
    return Project(
        study=chosen.study,
        arms=chosen.arms,
        artefacts=artefacts,
        choice=choice,
        claims=claims,
        lock=locks[choice.study],
    )


def _once(problems: list[str]) -> list[str]:
    """The lines, each once: of a budget's value that many arms ask for, the first."""
    lines: dict[str, str] = {}
    for line in "\n".join(problems).split("\n"):
        lines.setdefault(line.partition("; asked for in ")[0], one_line(line))
    return list(lines.values())


class _Studied(NamedTuple):
    """The study in a file of this name, the arms with its budget, and which of their values is which key of it."""

    name: str
    study: Study
    arms: dict[str, Arm]
    budgets: Mapping[str, str]

    @property
    def file(self) -> str:
        return f"config/studies/{self.name}.yaml"


def _studied(root: Path, name: str, raw_arms: dict[str, Raw], problems: list[str]) -> _Studied | None:
    """A study and all arms as it trains them, or nothing and its problems added to the others."""
    file = f"config/studies/{name}.yaml"
    try:
        raw = read_yaml(root / file, file)
        budget = validated(TypeAdapter(dict[str, Number]), raw.get("budget", {}), file, "budget")
        _refuse_lacking({f"{file}: ": raw, f"{ARMS}: ": raw_arms}, budget, file)
    except ConfigError as error:
        problems.append(str(error))
        return None
    own, budgets = ({place: f"{file}: budget.{key}" for place, key in _asked(one, "")} for one in (raw, raw_arms))
    study = _collected(STUDY, _resolved(raw, budget), file, "", problems, own)
    arms = {
        key: _collected(ARM, _resolved(one, budget), ARMS, key, problems, budgets)
        for key, one in raw_arms.items()
        if _may_name_an_arm(key, problems)
    }
    return _Studied(name, study, {key: arm for key, arm in arms.items() if arm}, budgets) if study else None


def _tasks(folder: Path, chosen: "_Studied | None", others: bool, problems: list[str]) -> dict[str, BenchmarkTask]:
    """The files of all benchmarks, or of the chosen study's; one that is named and not there is told elsewhere."""
    used = {one.file for one in chosen.study.benchmarks.values()} if chosen else set[str]()
    found: dict[str, BenchmarkTask] = {}
    for path in sorted((folder / "benchmarks").glob("*.yaml")):
        if others or path.name in used:
            try:
                found[path.name] = read_task(path, f"config/benchmarks/{path.name}")[1]
            except ConfigError as error:
                problems.append(str(error))
    return found


def _read(adapter: TypeAdapter[T], path: Path, file: str, problems: list[str]) -> T | None:
    """The record in a file, or nothing and its problems added to the others."""
    try:
        return validated(adapter, read_yaml(path, file), file)
    except ConfigError as error:
        problems.append(str(error))
        return None


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


def _collected(
    adapter: TypeAdapter[T], raw: Raw, file: str, prefix: str, problems: list[str], budgets: Mapping[str, str]
) -> T | None:
    """The record, or nothing and its problems added to the others; a value out of a budget is told as that."""
    try:
        return validated(adapter, raw, file, prefix, budgets)
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
            yield from _asked(value, f"{place}{'' if place.endswith(' ') or not place else '.'}{name}")
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


# --- ours ----------------------------------------------------------------------------------------

MARK = re.compile(r"(?:^|\s)# ours: (.*)$")


class Ours(NamedTuple):
    """One marked value: the file below config/, the dotted key, the value as it is written there, and the reason."""

    file: str
    key: str
    value: str
    reason: str


def ours(config: Path, files: Sequence[str]) -> list[Ours]:
    """Every marked value in these files below `config`, in order; files that are not there have none.

    A mark at the end of a line is about that line; one that stands alone, with the comment lines that follow it, is
    about the next line with a key.
    """
    paths = ((name, config / name) for name in files)
    return [one for name, path in paths if path.is_file() for one in _marked(name, path.read_text(encoding="utf-8"))]


def _marked(name: str, text: str) -> Iterator[Ours]:
    keys = dict(_keys(composed(text, f"config/{name}")))
    lines = text.splitlines()
    for number, line in enumerate(lines):
        mark = MARK.search(line)
        if mark is None:
            continue
        stands_alone = line.lstrip().startswith("#")
        reason, at = mark[1].strip(), number
        if stands_alone:
            at = next((line for line in range(number, len(lines)) if line in keys), number)
            reason = " ".join([reason, *(line.strip().removeprefix("#").strip() for line in lines[number + 1 : at])])
        value = MARK.sub("", lines[at]).partition(": ")[2].strip()
        yield Ours(name, keys.get(at, ""), value, reason.strip())


def _keys(node: yaml.Node | None, above: str = "") -> Iterator[tuple[int, str]]:
    """The line, from 0, on which each key begins, with its dotted name; the first of a line comes last."""
    if not isinstance(node, yaml.MappingNode):
        return
    pairs: list[tuple[yaml.Node, yaml.Node]] = node.value
    for key, value in reversed(pairs):
        name = f"{above}{key.value}"
        yield from _keys(value, f"{name}.")
        yield key.start_mark.line, name


# --- verbs ---------------------------------------------------------------------------------------


def add_study(parser: argparse.ArgumentParser) -> None:
    """Adds `--study NAME`, and `--root` for a verb that does not run in the project's folder."""
    parser.add_argument("--study", required=True, metavar="NAME", help="the study in config/studies/NAME.yaml")
    parser.add_argument("--root", type=Path, default=Path("."), help="the folder that holds config/ (default: here)")


@decides_nothing("what config/ says reaches a job as values, which its manifest records")
def project_of(args: argparse.Namespace) -> Project:
    """The project for the study that a verb was told; other studies are not read. Raises ConfigError."""
    return load(args.root, args.study, others=False)
