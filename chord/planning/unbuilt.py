"""What a table or figure that no study builds would cost, from what config/planning.yaml says of its training."""

from collections.abc import Iterator

from chord.config.planning import Planning, Unbuilt
from chord.config.project import Project
from chord.config.study import Study
from chord.planning.model import named
from chord.planning.work import Bench, Cost


def as_trained(study: Study, target: Unbuilt) -> Study:
    """The study with the rollouts that the paper has for this table or figure."""
    rollouts = {
        "prompts_per_step": target.prompts_per_step,
        "per_prompt": target.per_prompt,
        "max_prompt_tokens": target.max_prompt_tokens,
        "max_response_tokens": target.max_response_tokens,
    }
    return study.model_copy(update={"rollouts": study.rollouts.model_copy(update=rollouts)})


def costs(
    project: Project, planning: Planning, target: Unbuilt, bench: Bench, answering: int
) -> Iterator[tuple[str, str, Cost]]:
    """Rule, arm and cost of every training and benchmark, and of the judge where there is one, for one seed.

    `bench` has the study of `as_trained`; the judge grades on as many devices as learn, `answering` ones answer.
    """
    tested = Bench(bench.study, bench.shape, bench.machine, bench.lengths, answering)
    for arm in target.arms:
        recipe = project.arms[arm].recipe
        length = bench.lengths.of(arm) if recipe else bench.lengths.base
        graded = float(target.answers)
        if recipe:
            if recipe.needs_rollouts:
                recipe = recipe.model_copy(update={"steps": target.steps})
                graded += target.steps * target.prompts_per_step * target.per_prompt
            yield "train", arm, bench.training(arm, recipe, target.expert_rows_per_step)
        yield "generate", arm, tested.answering(target.answers, length)
        if target.judge:
            lengths = bench.lengths.model_copy(update={"prompt": target.judge.prompt + length})
            shape = named(target.judge.model, planning)
            judge = Bench(bench.study, shape, bench.machine, lengths, bench.devices)
            yield "judge", arm, judge.answering(round(graded), target.judge.verdict)
