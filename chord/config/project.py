"""All of `config/` for one study, checked together: the tables and trainings that follow, and the values that are ours.

`load` raises one `ConfigError` that lists every problem as: file, key, what was found, what was expected.
"""

import argparse
import difflib
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import yaml
from pydantic import TypeAdapter

from chord.config import checks, paper, reading
from chord.config.benchmarks import BenchmarkTask, read_task
from chord.config.checks import ARMS
from chord.config.sets import Lock, below, can_train, corpus_of_start, read_lock, start_models, why_not
from chord.config.study import (
    PLANNING,
    Arithmetic,
    Arm,
    Grading,
    Groups,
    Model,
    Optimiser,
    Planning,
    PolicyLoss,
    Recipe,
    Sampling,
    Study,
    Validation,
)
from chord.errors import ConfigError, expected
from chord.reach import decides_nothing
from chord.settings import NAME, Count, Frozen, Name, Number, Raw, Seed, quiet

# --- project -------------------------------------------------------------------------------------

T = TypeVar("T")
Part = TypeVar("Part", bound=Frozen)


class Run(Frozen):
    """run.json: all that decides a training but its data. Labels and the paper's numbers are not in it.

    What this recipe cannot use is null, so that an edit of it trains nothing: `rollouts`, `grading` and `policy_loss`
    where nothing is sampled to learn from, `expert_rows_per_step` where no step draws expert rows.
    """

    study: Name
    arm: Name
    seed: Seed
    recipe: Recipe
    model: Model | None
    prompt_date: str | None = quiet(None, "day that prompts show")
    sampling: Sampling
    rollouts: Groups | None
    grading: Grading | None
    policy_loss: PolicyLoss | None
    expert_rows_per_step: Count | None
    optimiser: Optimiser
    validation: Validation
    execution: Arithmetic

    def _wrong(self) -> Iterator[str]:
        """No more and no less than the recipe needs."""
        samples, mixes = self.recipe.needs_rollouts, self.recipe.mixes_experts
        wanted = {"rollouts": samples, "grading": samples, "policy_loss": samples, "expert_rows_per_step": mixes}
        for name, needed in wanted.items():
            if (getattr(self, name) is not None) != needed:
                found, expected = ("nothing", "a value") if needed else ("a value", "nothing")
                yield f"found {found} under {name}, expected {expected} with mu {self.recipe.mu}"

    @classmethod
    def read(cls, path: Path) -> Self:
        """The run in a run.json; raises ConfigError naming the file and every bad key."""
        return reading.validated(TypeAdapter(cls), reading.read_json(path), str(path))


class Project(Frozen):
    """Everything under config/, checked together, for one study; `lock` is its lock file, if there is one."""

    study: Study
    arms: dict[Name, Arm]
    artefacts: dict[Name, paper.Artefact]
    choice: paper.Choice
    claims: paper.Claims
    lock: Lock | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Training seeds: those of config.yaml if given, else the study's."""
        return self.choice.seeds or self.study.seeds

    def why_not(self, artefact: str) -> str | None:
        """Why this study does not build a table or figure; None where it does."""
        return why_not(self.study, self.arms, self.artefacts[artefact])

    @property
    def trainable(self) -> list[str]:
        """The arms for which the study has all that they and the arms below them read and start from."""
        return [name for name in self.arms if can_train(self.study, self.arms, name)]

    def run(self, arm: str, seed: int) -> Run:
        """What training is told for `arm` and `seed`; `base` and `base-NAME` are models that arms start from."""
        study = self.study
        if arm in start_models(study):
            corpus, model = corpus_of_start(study, arm), start_models(study)[arm]
            recipe, rows = corpus.recipe, corpus.rows_per_step
            rare = {"every_steps": recipe.steps or study.validation.every_steps, "thorough": None}
            study = study.model_copy(
                update={"validation": study.validation.model_copy(update=rare)}
            )  # at its ends alone
        else:
            found = self.arms[arm].recipe
            assert found is not None, f"{arm} is not trained"
            recipe, rows, model = found, study.expert_rows_per_step, None
        samples = recipe.needs_rollouts
        return Run(
            study=study.name,
            arm=arm,
            seed=seed,
            recipe=recipe,
            model=model,
            prompt_date=study.prompt_date,
            sampling=_narrowed(Sampling, study.rollouts),
            rollouts=_narrowed(Groups, study.rollouts) if samples else None,
            grading=study.grading if samples else None,
            policy_loss=study.policy_loss if samples else None,
            expert_rows_per_step=rows if recipe.mixes_experts else None,
            optimiser=study.optimiser,
            validation=study.validation,
            execution=_narrowed(Arithmetic, study.execution),
        )


def _narrowed(kind: type[Part], whole: Frozen) -> Part:
    """The fields of `kind` out of a record that has them and more."""
    return kind.model_validate({name: getattr(whole, name) for name in kind.model_fields})


# --- loading -------------------------------------------------------------------------------------

CONFIG, CLAIMS = "config/config.yaml", "config/claims.yaml"
BUDGET = re.compile(r"budget\.(\w+)")
Problems = list[str]


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
    problems: Problems = []
    studies = sorted(_files(root, "studies"))
    if study and studies and study not in studies:
        raise ConfigError(f"--study: found '{study}', {expected(study, studies)}")
    told: dict[str, Raw] = {"study": study, "seeds": list[Raw](seeds) if seeds else None}
    choice = _choice(root, studies, {**(given or {}), **{key: value for key, value in told.items() if value}})

    raw_arms = reading.read_yaml(root / ARMS, ARMS)
    problems += [
        f"{ARMS}: {name} is a name that no arm may have, expected small letters, digits, `.`, `+` and `-`;"
        " `base` is the model that every arm starts from, and `base-NAME` are other such models"
        for name in raw_arms
        if re.match(r"base(-|$)", name) or not re.match(NAME, name)
    ]
    chosen = _studied(root, choice.study, raw_arms, problems)
    artefacts: dict[str, paper.Artefact] = {}
    kind = TypeAdapter[paper.Artefact](paper.Artefact)
    for name, file in _files(root, "experiments").items():
        with _collected(problems):
            artefacts[name] = _read(kind, root, file)
    claims = planning = None
    with _collected(problems):
        claims = _read(TypeAdapter(paper.Claims), root, CLAIMS)
    studied = [_studied(root, name, raw_arms, problems) for name in studies if others and name != choice.study]
    used = {one.file for one in chosen.study.benchmarks.values()} if chosen else set[str]()
    tasks: dict[str, BenchmarkTask | None] = {}
    for name, file in _files(root, "benchmarks").items():
        tasks[f"{name}.yaml"] = None
        if others or f"{name}.yaml" in used:
            with _collected(problems):
                tasks[f"{name}.yaml"] = read_task(root / file, file)[1]
    if others and (root / PLANNING).exists():  # without it nothing is lacking but what `chord plan` says
        with _collected(problems):
            planning = _read(TypeAdapter(Planning), root, PLANNING)

    if chosen and claims and not problems:
        if paper.EVERYTHING in choice.artefacts:
            built = (name for name, one in artefacts.items() if not why_not(chosen.study, chosen.arms, one))
            choice = choice.model_copy(update={"artefacts": tuple(built)})
        problems += _crossed(choice, chosen, [one for one in studied if one], artefacts, tasks, studies)
        problems += checks.of_claims(claims, chosen.arms, studies)
        problems += checks.of_planning(planning, chosen.arms, studies) if planning else []
    if problems or not chosen or not claims:
        raise ConfigError("\n".join(_once(problems)))
    locks = {name: read_lock(root, name) for name in {choice.study, *(studies if others else ())}}
    return Project(
        study=chosen.study,
        arms=chosen.arms,
        artefacts=artefacts,
        choice=choice,
        claims=claims,
        lock=locks[choice.study],
    )


class _Studied(NamedTuple):
    """The study in a file of this name, the arms with its budget, and which of their values is which key of it."""

    name: str
    study: Study
    arms: dict[str, Arm]
    budgets: Mapping[str, str]


def _studied(root: Path, name: str, raw_arms: Mapping[str, Raw], problems: Problems) -> _Studied | None:
    """A study and all arms as it trains them, or nothing and its problems added to the others."""
    file = f"config/studies/{name}.yaml"
    with _collected(problems):
        raw = reading.read_yaml(root / file, file)
        budget = reading.validated(TypeAdapter(dict[str, Number]), raw.get("budget", {}), file, "budget")
        own, asked = dict[str, str](), dict[str, str]()
        raw_study = _resolved(raw, budget, "", own)
        resolved = {key: _resolved(one, budget, key, asked) for key, one in raw_arms.items()}
        asking = [(f"{file}: {place}", key) for place, key in own.items()]
        asking += [(f"{ARMS}: {place}", key) for place, key in asked.items()]
        lacking = dict.fromkeys(key for _, key in asking if key not in budget)
        if lacking:
            places = {key: "; ".join(place for place, wanted in asking if wanted == key) for key in lacking}
            lines = (f"{key}', {expected(key, budget)}; asked for in {places[key]}" for key in lacking)
            raise ConfigError("\n".join(f"{file}: budget has no '{line}" for line in lines))
        own, budgets = ({place: f"{file}: budget.{key}" for place, key in keys.items()} for keys in (own, asked))
        study, arms = None, dict[str, Arm]()
        with _collected(problems):
            study = reading.validated(TypeAdapter(Study), raw_study, file, "", own)
        for key, one in resolved.items():
            with _collected(problems):
                arms[key] = reading.validated(TypeAdapter(Arm), one, ARMS, key, budgets)
        problems += _searched(file, study.learning_rates if study else {}, arms)
        return _Studied(name, study, arms, budgets) if study else None
    return None


def _searched(file: str, rates: Mapping[str, float], arms: dict[str, Arm]) -> Iterator[str]:
    """Gives arms the learning rates that a study found for them; says which of these have no recipe to put it in."""
    trained = [name for name, arm in arms.items() if arm.recipe]
    for name, rate in rates.items():
        if recipe := arms[name].recipe if name in arms else None:
            recipe = recipe.model_copy(update={"learning_rate": rate})
            arms[name] = arms[name].model_copy(update={"recipe": recipe})
        else:
            yield f"{file}: learning_rates names '{name}', {expected(name, trained)}"


def _resolved(raw: Raw, budget: Mapping[str, Number], place: str, asked: dict[str, str]) -> Raw:
    """`raw` with each text `budget.KEY` replaced by the study's value; `asked` records which place uses which KEY."""
    if isinstance(raw, dict):
        return {key: _resolved(one, budget, f"{place}.{key}".lstrip("."), asked) for key, one in raw.items()}
    if isinstance(raw, list):
        return [_resolved(one, budget, f"{place}.{index}", asked) for index, one in enumerate(raw)]
    match = BUDGET.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        return raw
    asked[place] = match[1]
    return budget.get(match[1])


def _crossed(
    choice: paper.Choice,
    chosen: _Studied,
    others: Sequence[_Studied],
    artefacts: Mapping[str, paper.Artefact],
    tasks: Mapping[str, BenchmarkTask | None],
    studies: Sequence[str],
) -> Iterator[str]:
    """Problems between files that are each correct."""
    shown_arms = [name for key in choice.artefacts if key in artefacts for name in artefacts[key].arms]
    columns = [column for one in artefacts.values() for column in one.paper.columns]
    for one in (chosen, *others):
        used = below(shown_arms, one.arms)
        found = checks.of_study(one.study, one.name, tasks, columns, [one.arms[name] for name in used])
        yield from (f"config/studies/{one.name}.yaml: {line}" for line in found)
        yield from checks.of_recipes(one.arms, used, one.budgets)
    yield from checks.of_arms(chosen.arms)
    needing = {name: chosen.arms[name] for name in shown_arms if name in chosen.arms}
    yield from (f"config/studies/{chosen.name}.yaml: {line}" for line in checks.of_needs(chosen.study, needing))
    yield from checks.each_of(f"{CONFIG}: artefacts", choice.artefacts, artefacts)
    yield from checks.each_of(f"{CONFIG}: seeds", choice.seeds or (), choice.seeds or ())
    for key in choice.artefacts:
        if key in artefacts and (reason := why_not(chosen.study, chosen.arms, artefacts[key])):
            found = f"'{key}', which study {chosen.name} does not build ({reason})"
            yield f"{CONFIG}: artefacts names {found}, expected others"
    for key, artefact in artefacts.items():
        yield from checks.of_artefact(key, artefact, chosen.study, chosen.arms, studies)


def _files(root: Path, folder: str) -> dict[str, str]:
    """The YAML files of a folder of config/, by name without ending, as messages call them."""
    paths = sorted((root / "config" / folder).glob("*.yaml"))
    return {path.stem: f"config/{folder}/{path.name}" for path in paths}


@contextmanager
def _collected(problems: Problems) -> Generator[None]:
    """Collects a ConfigError instead of stopping at it, so that one run reports every problem."""
    try:
        yield
    except ConfigError as error:
        problems.append(str(error))


def _read(kind: TypeAdapter[T], root: Path, file: str) -> T:
    return reading.validated(kind, reading.read_yaml(root / file, file), file)


def _once(problems: Problems) -> list[str]:
    """The lines, each once: of a budget's value that many arms ask for, the first."""
    lines: dict[str, str] = {}
    for line in "\n".join(problems).split("\n"):
        lines.setdefault(line.partition("; asked for in ")[0], reading.one_line(line))
    return list(lines.values())


def _choice(root: Path, studies: Sequence[str], given: Mapping[str, Raw]) -> paper.Choice:
    """config.yaml with what was given on the command line, where texts are read as YAML."""
    raw = reading.read_yaml(root / CONFIG, CONFIG)
    choice = reading.validated(TypeAdapter(paper.Choice), raw, CONFIG)
    changed = {key: _typed(key, value) for key, value in given.items() if key not in raw or raw[key] != value}
    if changed:
        choice = reading.validated(TypeAdapter(paper.Choice), raw | changed, "--config")
    if choice.study not in studies:
        place = "--config" if "study" in changed else CONFIG
        raise ConfigError(f"{place}: study is {reading.shown(choice.study)}, {expected(choice.study, studies)}")
    return choice


def _typed(key: str, value: Raw) -> Raw:
    """A value of `--config`: Snakemake hands over the numbers of a list as texts. No value here has lists in lists."""
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict | list) for item in value)):
        raise ConfigError(
            f"--config: {key} is {reading.kind_of(value)} of more than plain values, expected plain values"
        )
    if isinstance(value, list):
        return [reading.parsed(item, f"--config {key}") if isinstance(item, str) else item for item in value]
    return value


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
    keys = dict(_keys(reading.composed(text, f"config/{name}")))
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
    files = sorted(path for path in (args.root / "config").rglob("*.*") if path.is_file() and os.access(path, os.R_OK))
    return _project_of(args.root, args.study, tuple((str(file), file.read_bytes()) for file in files))


@lru_cache(maxsize=1)  # for the forks of a process that has read the same files: see chord.cluster.warm
def _project_of(root: Path, study: str, contents: tuple[tuple[str, bytes], ...]) -> Project:
    return load(root, study, others=False)


# --- targets -------------------------------------------------------------------------------------

ALWAYS = ("all", "everything", "claims")


def refusal(
    project: Project, target: str, is_made: Callable[[str], bool], files: Callable[[], Iterable[str]]
) -> str | None:
    """Why Snakemake cannot make `target`, in one sentence; None where it can.

    `is_made`: whether a rule makes a file; `files`: all that the study makes, asked for only where none does.
    """
    study = project.study.name
    if target in ALWAYS:
        return None
    if target in project.artefacts:
        reason = project.why_not(target)
        return f"{target} is not built in study {study}: {reason}." if reason else None
    if is_made(target):
        return None
    if os.sep in target:
        near = difflib.get_close_matches(target, list(files()), n=1, cutoff=0.6)
        wanted = f"`{near[0]}` (nearest) or another one" if near else f"one below results/{study}"
        return f"{target} is no file that study {study} makes, expected {wanted}; `snakemake --summary` lists them."
    built = [name for name in project.artefacts if not project.why_not(name)]
    arms = difflib.get_close_matches(target, project.arms, n=1, cutoff=0.6)
    place = f"; the models of arm `{arms[0]}` are results/{study}/runs/{arms[0]}/seed-SEED/model" if arms else ""
    return f"{target} is no target of study {study}, {expected(target, [*built, *ALWAYS])}{place}."


def nearest(path: Path) -> str:
    """A clause that names what is there beside a path that is not: the first part of it that is wrong set right."""
    above = next((folder for folder in path.parents if folder.is_dir()), Path("."))
    missing, *below = path.parts[len(above.parts) :]
    names = [one.name for one in above.iterdir() if not one.name.startswith(".")]
    near = difflib.get_close_matches(missing, names, n=1, cutoff=0.6)
    return f"; did you mean {above.joinpath(near[0], *below)}?" if near else ""


# --- what a claim needs ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Needs:
    """`lacking` says why the claim is not run; else its arms' scores on `benchmark`, or, without one, their curves.

    `artefact` is the chosen table or figure that shows these numbers, if one shows them all.
    """

    arms: tuple[str, ...] = ()
    benchmark: str | None = None
    artefact: str | None = None
    lacking: str | None = None


def needs(project: Project, claim: paper.PaperClaim) -> Needs:
    """What the claim is judged by, among what the chosen artefacts build anyway."""
    rule, arms, study = claim.rule, claim.arms, project.study
    if isinstance(rule, paper.Elsewhere):
        return Needs(lacking=f"not run at this scale: it takes {rule.needs}")
    if claim.studies and study.name not in claim.studies:
        return Needs(arms, lacking=f"the claim is about {_listed(claim.studies, 'study', 'studies')}")
    chosen = {name: project.artefacts[name] for name in project.choice.artefacts}
    if isinstance(rule, paper.Cells | paper.ExpertLength):
        return _of_scores(study, rule, arms, {key: one for key, one in chosen.items() if isinstance(one, paper.Table)})
    built = {arm for one in chosen.values() for arm in one.arms}
    if missing := tuple(arm for arm in arms if arm not in built):
        return Needs(arms, lacking=f"no table or figure that was chosen has {_listed(missing, 'arm', 'arms')}")
    if untrained := tuple(arm for arm in arms if project.arms[arm].same_as):
        return Needs(arms, lacking=f"{_listed(untrained, 'arm', 'arms')}: not trained, so without a curve")
    curves = {key: one for key, one in chosen.items() if isinstance(one, paper.Figure) and set(arms) <= set(one.arms)}
    fitting = (key for key, one in curves.items() if rule.metric in {panel.metric for panel in one.panels})
    return Needs(arms, artefact=next(fitting, None))


def _of_scores(
    study: Study,
    rule: paper.Cells | paper.ExpertLength,
    arms: tuple[str, ...],
    tables: Mapping[str, paper.Table],
) -> Needs:
    fitting = [key for column in rule.columns for key, one in study.benchmarks.items() if one.paper_column == column]
    if not fitting:
        return Needs(arms, lacking=f"study {study.name} has no benchmark beside {' or '.join(rule.columns)}")
    for benchmark in fitting:
        rows = {key: {*one.arms} for key, one in tables.items() if benchmark in paper.benchmarks_of(study, one)}
        if set(arms) <= set().union(*rows.values()):
            return Needs(arms, benchmark, next((key for key, shown in rows.items() if set(arms) <= shown), None))
    missing = tuple(arm for arm in arms if not any(arm in one.arms for one in tables.values())) or arms
    return Needs(arms, fitting[0], lacking=f"no table that was chosen has {_listed(missing, 'arm', 'arms')}")


def _listed(names: tuple[str, ...], one: str, more: str) -> str:
    return f"{one if len(names) == 1 else more} {', '.join(names)}"


def judged_files(project: Project) -> list[str]:
    """All that the judged claims are judged by, below results/STUDY."""
    found: dict[str, None] = {}
    for claim in project.claims.claims:
        one = needs(project, claim)
        for arm in one.arms if not one.lacking else ():
            later = project.arms[arm].only_imitates or project.arms[arm].choose
            kinds = ("scores",) if one.benchmark else ("metrics", *(("validation",) if later else ()))
            kinds += ("metrics",) if isinstance(claim.rule, paper.ExpertLength) else ()
            for seed in project.seeds:
                places = (paper.WHERE[kind].format(arm=arm, seed=seed, benchmark=one.benchmark) for kind in kinds)
                found |= dict.fromkeys(places)
    return list(found)
