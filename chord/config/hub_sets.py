"""Sets of problems out of a hub: which rows each may take, and how many. Knows no files.

A dataset has too few rows for places by hash, as generators have them, so here sets are told what to keep apart from.
"""

from chord.config import sets
from chord.config.datasets import Split
from chord.config.study import Study

LARGER = "expert-"  # other expert sets: with the study's own at their head, and drawn after every other set


def apart_from(study: Study, problems: str) -> list[str]:
    """The sets whose prompts a set out of a hub must not have: those before it, RL taking what remains (A.2).

    A larger expert set takes what RL left, so that the sets of the main results do not depend on it.
    """
    if problems.startswith(LARGER) and sets.source_of(study, problems) == "hub":
        return ["validation", "train"]
    return sets.apart_from(study, problems)


def split_of(study: Study, problems: str) -> Split:
    """Task and size; a larger expert set may have fewer where the study's own may."""
    split = sets.split_of(study, problems)
    if problems.startswith(LARGER):
        return split.model_copy(update={"or_fewer": study.data.expert.or_fewer})
    return split


def drawn_as(problems: str) -> str:
    """The name by which rows are put in order for a set: a larger expert set takes the expert set's first."""
    return "expert" if problems.startswith(LARGER) else problems
