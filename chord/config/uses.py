"""Which entries of plug points each kind of job uses (see `chord.reach`), as its settings name them."""

from collections.abc import Mapping
from typing import Any, cast

from chord.config.project import Run
from chord.config.reading import FunctionName
from chord.config.sets import is_published, source_of
from chord.config.study import AnswerForm, Study
from chord.provenance.digest import FUNCTIONS, Uses

DATA = {"process_docs"}  # of an lm-eval task, the function that says what the problems are


def of_training(run: Run) -> Uses:
    """What a training of this recipe, on a machine used so, can reach."""
    recipe, execution = run.recipe, run.execution
    branches = {"rollouts": recipe.needs_rollouts, "experts": recipe.needs_experts}
    return {
        "method": (recipe.method,),
        "mu schedule": (recipe.mu.name,),
        "token weight": (recipe.expert_tokens.name,) if recipe.needs_experts else (),
        "branch": tuple(name for name, needed in branches.items() if needed),
        "practice": ("rollouts" if recipe.needs_rollouts else "none",),
        "start": ("random" if recipe.init == "random" else "model",),
        "engine": ("deepspeed" if execution.zero.stage else "torch",),
        "sampler": (execution.sampler,),
        "grader": (run.grading.grader,) if run.grading else (),
        "reward": (run.grading.reward,) if run.grading else (),
    }


def of_problems(study: Study, problems: str) -> Uses:
    """What drawing this set of problems can reach."""
    return {"problems": (source_of(study, problems),), **of_grading(study.grading.form)}


def of_traces(study: Study, traces: str) -> Uses:
    """What writing this set of traces can reach."""
    return {"traces": ("published" if is_published(study, traces) else "written",), **of_grading(study.grading.form)}


def of_grading(form: AnswerForm) -> Uses:
    """What grading answers of this form can reach."""
    return {"grader": (form.grader,)}


def of_answers(study: Study, task: Mapping[str, Any]) -> Uses:
    """What sampling answers to a benchmark, whose lm-eval task says `task`, can reach."""
    return {"answers": (study.execution.answers,), FUNCTIONS: tuple(_functions(task, DATA))}


def of_scores(study: Study, benchmark: str, task: Mapping[str, Any]) -> Uses:
    """What scoring answers to a benchmark, whose lm-eval task says `task`, can reach."""
    return {**of_grading(study.form_of(benchmark)), FUNCTIONS: tuple(_functions(task, set(task)))}


def _functions(value: Any, keys: set[str] | None = None) -> list[str]:
    """The full names of the functions in a task, in its order; at its top only those under these keys."""
    if isinstance(value, FunctionName):
        return [str(value)]
    if isinstance(value, Mapping):
        parts = cast("Mapping[str, Any]", value)
        return [name for key, one in parts.items() if keys is None or key in keys for name in _functions(one)]
    return [name for one in cast("list[Any]", value) for name in _functions(one)] if isinstance(value, list) else []
