"""All of `config/` for one study, and what training is told of it: the run of one arm with one seed."""

import difflib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from pydantic import Field, TypeAdapter

from chord.config.paper import Artefact, Cells, Choice, Claims, Elsewhere, Figure, PaperClaim, Table, benchmarks_of
from chord.config.reading import expected, read_json, validated
from chord.config.recipe import Arm, Recipe
from chord.config.sets import Lock, can_train, corpus_of_start, start_models, why_not
from chord.config.study import Arithmetic, Grading, Groups, Model, Optimiser, PolicyLoss, Sampling, Study, Validation
from chord.settings import Count, Frozen, Name, Seed

# --- project -------------------------------------------------------------------------------------

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
    prompt_date: str | None = Field(default=None, exclude_if=lambda v: v is None)
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
        return validated(TypeAdapter(cls), read_json(path), str(path))


class Project(Frozen):
    """Everything under config/, checked together, for one study; `lock` is its lock file, if there is one."""

    study: Study
    arms: dict[Name, Arm]
    artefacts: dict[Name, Artefact]
    choice: Choice
    claims: Claims
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


# --- targets -------------------------------------------------------------------------------------

# Whether what a person typed as a target or a file is one; if not, why, and what is nearest. Runs nothing.

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

WHERE = {
    "scores": "runs/{arm}/seed-{seed}/eval/{benchmark}/scores.json",
    "metrics": "runs/{arm}/seed-{seed}/metrics.jsonl",
    "validation": "runs/{arm}/seed-{seed}/validation.json",
}


@dataclass(frozen=True)
class Needs:
    """`lacking` says why the claim is not run; else its arms' scores on `benchmark`, or, without one, their curves.

    `artefact` is the chosen table or figure that shows these numbers, if one shows them all.
    """

    arms: tuple[str, ...] = ()
    benchmark: str | None = None
    artefact: str | None = None
    lacking: str | None = None


def needs(project: Project, claim: PaperClaim) -> Needs:
    """What the claim is judged by, among what the chosen artefacts build anyway."""
    rule = claim.rule
    if isinstance(rule, Elsewhere):
        return Needs(lacking=f"not run at this scale: it takes {rule.needs}")
    arms = claim.arms
    if claim.studies and project.study.name not in claim.studies:
        return Needs(arms, lacking=f"the claim is about {_listed(claim.studies, 'study', 'studies')}")
    return _of_scores(project, rule, arms) if isinstance(rule, Cells) else _of_curves(project, rule.metric, arms)


def judged_files(project: Project) -> list[str]:
    """All that the judged claims are judged by, below results/STUDY."""
    found: dict[str, None] = {}
    for claim in project.claims.claims:
        one = needs(project, claim)
        for arm in one.arms if not one.lacking else ():
            later = project.arms[arm].only_imitates or project.arms[arm].choose
            kinds = ("scores",) if one.benchmark else ("metrics", *(("validation",) if later else ()))
            for seed in project.seeds:
                places = (WHERE[kind].format(arm=arm, seed=seed, benchmark=one.benchmark) for kind in kinds)
                found |= dict.fromkeys(places)
    return list(found)


def _of_scores(project: Project, rule: Cells, arms: tuple[str, ...]) -> Needs:
    study = project.study
    fitting = [key for column in rule.columns for key, one in study.benchmarks.items() if one.paper_column == column]
    if not fitting:
        return Needs(arms, lacking=f"study {study.name} has no benchmark beside {' or '.join(rule.columns)}")
    tables = _chosen_tables(project)
    for benchmark in fitting:
        shown = {name: set(one.arms) for name, one in tables.items() if benchmark in benchmarks_of(study, one)}
        if set(arms) <= set().union(*shown.values()):
            whole = [name for name, rows in shown.items() if set(arms) <= rows]
            return Needs(arms, benchmark, whole[0] if whole else None)
    rows = {arm for one in tables.values() for arm in one.arms}
    missing = tuple(arm for arm in arms if arm not in rows) or arms
    return Needs(arms, fitting[0], lacking=f"no table that was chosen has {_listed(missing, 'arm', 'arms')}")


def _of_curves(project: Project, metric: str, arms: tuple[str, ...]) -> Needs:
    built = {arm for name in project.choice.artefacts for arm in project.artefacts[name].arms}
    if missing := tuple(arm for arm in arms if arm not in built):
        return Needs(arms, lacking=f"no table or figure that was chosen has {_listed(missing, 'arm', 'arms')}")
    if untrained := tuple(arm for arm in arms if project.arms[arm].same_as):
        return Needs(arms, lacking=f"{_listed(untrained, 'arm', 'arms')}: not trained, so without a curve")
    figures = {name: project.artefacts[name] for name in project.choice.artefacts}
    fitting = (
        name
        for name, one in figures.items()
        if isinstance(one, Figure) and set(arms) <= set(one.arms) and metric in {panel.metric for panel in one.panels}
    )
    return Needs(arms, artefact=next(fitting, None))


def _chosen_tables(project: Project) -> dict[str, Table]:
    chosen = {name: project.artefacts[name] for name in project.choice.artefacts}
    return {name: one for name, one in chosen.items() if isinstance(one, Table)}


def _listed(names: tuple[str, ...], one: str, more: str) -> str:
    return f"{one if len(names) == 1 else more} {', '.join(names)}"
