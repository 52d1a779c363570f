"""What a claim needs of a study: arms, a benchmark, curves; or why it cannot be judged there. Reads no results.

The Snakefile asks this too, so nothing here loads numpy.
"""

from dataclasses import dataclass

from chord.config.paper import Cells, Elsewhere, Figure, PaperClaim, Table, benchmarks_of
from chord.config.project import Project

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


def files(project: Project) -> list[str]:
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
