"""Whether what a person typed as a target or a file is one; if not, why, and what is nearest. Runs nothing."""

import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from chord.config.project import Project
from chord.config.reading import expected

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
