"""All of `config/` for one study, and what training is told of it: the run of one arm with one seed."""

from pathlib import Path
from typing import Self

from pydantic import TypeAdapter

from chord.config.artefacts import Artefact, Choice
from chord.config.base import Count, CountOrNone, Frozen, Name
from chord.config.reading import read_json, validated
from chord.config.recipe import Arm, Recipe
from chord.config.study import Execution, Grading, Model, Optimiser, PolicyLoss, Rollouts, Study, Validation


class Run(Frozen):
    """run.json: all that training is told. Labels and the paper's numbers are not in it."""

    study: Name
    arm: Name
    seed: CountOrNone
    recipe: Recipe
    model: Model | None
    rollouts: Rollouts
    expert_rows_per_step: Count
    grading: Grading
    optimiser: Optimiser
    policy_loss: PolicyLoss
    validation: Validation
    execution: Execution

    @classmethod
    def read(cls, path: Path) -> Self:
        """The run in a run.json; raises ConfigError naming the file and every bad key."""
        return validated(TypeAdapter(cls), read_json(path), str(path))


class Project(Frozen):
    """Everything under config/, checked together, for one study."""

    study: Study
    arms: dict[Name, Arm]
    artefacts: dict[Name, Artefact]
    choice: Choice

    @property
    def seeds(self) -> tuple[int, ...]:
        """Training seeds: those of config.yaml if given, else the study's."""
        return self.choice.seeds or self.study.seeds

    def run(self, arm: str, seed: int) -> Run:
        """What training is told for `arm` and `seed`; `base` is the study's own base model."""
        study = self.study
        if arm == "base":
            assert study.base_corpus is not None, "only a random model is trained by the DAG"
            recipe, rows, model = study.base_corpus.recipe, study.base_corpus.rows_per_step, study.model
        else:
            found = self.arms[arm].recipe
            assert found is not None, f"{arm} is not trained"
            recipe, rows, model = found, study.expert_rows_per_step, None
        shared = ("rollouts", "grading", "optimiser", "policy_loss", "validation", "execution")
        return Run(
            study=study.name,
            arm=arm,
            seed=seed,
            recipe=recipe,
            model=model,
            expert_rows_per_step=rows,
            **{name: getattr(study, name) for name in shared},
        )
