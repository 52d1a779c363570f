"""The command line of `chord.train`, checked against what the recipe needs. Part of that verb."""

import argparse
from pathlib import Path
from typing import Any

from chord.config.project import Run
from chord.provenance.files import UserError
from chord.provenance.options import Number
from chord.records import read_lines


def arguments() -> argparse.Namespace:
    """The command line of `chord.train`."""
    parser = argparse.ArgumentParser(prog="chord.train", description="Train one arm: see run.json for what it is told.")
    for name, required, what in (
        ("run", True, "the resolved recipe, run.json"),
        ("start", False, "folder of the model to start from; none for a recipe with init: random"),
        ("prompts", False, "training problems (JSON lines); for recipes that sample"),
        ("traces", False, "expert traces (JSON lines); for recipes that imitate"),
        ("solved", False, "problems that the traces solve (JSON lines); for recipes that sample and imitate"),
        ("validation", True, "validation problems (JSON lines)"),
        ("model", True, "folder to write the trained model to"),
        ("metrics", True, "file to write the metrics to, a JSON line a step"),
        ("timing", True, "file to write seconds and memory to, a JSON line a step"),
        (
            "validation-answers",
            False,
            "file to write the answers to validation problems to; for recipes that only imitate",
        ),
        ("candidates", False, "folder to write the weights of each validated step to; for recipes with keep: every"),
        ("manifest", True, "file to write the manifest to"),
        ("state", True, "folder for checkpoints; the same folder continues a run that was stopped"),
        ("tensorboard", False, "folder for TensorBoard events"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=required, help=what)
    for name, least, default, what in (
        ("threads", 1, 1, "threads of the CPU; another number may move the last bits of the result"),
        ("checkpoint-every-steps", 1, 20, "steps that a kill costs at most; moves no bit of the result"),
        ("checkpoint-every-minutes", None, 5.0, "the same in minutes; whichever comes first"),
    ):
        parser.add_argument(
            f"--{name}",
            action=Number,
            kind=type(default),
            least=least,
            default=default,
            help=f"{what} (default: {default})",
        )
    return parser.parse_args()


def outputs_of(args: argparse.Namespace, run: Run) -> dict[str, Path]:
    """What this run is to write, by flag. Raises UserError for a flag that it lacks or has no use for."""
    imitates = not run.recipe.needs_rollouts
    needed = {"validation_answers": imitates, "candidates": run.recipe.keep == "every"}
    for name, wanted in needed.items():
        given = getattr(args, name) is not None
        if (wanted and not given) or (given and not imitates):
            found, expected = ("a path", "none") if given else ("nothing", "a path to write to")
            kind = "only imitates" if imitates else "samples rollouts"
            raise UserError(
                f"--{name.replace('_', '-')}: found {found}, expected {expected}: arm '{run.arm}' {kind} and keeps"
                f" {run.recipe.keep}"
            )
    names = ("model", "metrics", "timing", "tensorboard", *needed)
    return {name: path for name in names if (path := getattr(args, name)) is not None}


def records_of(args: argparse.Namespace, name: str, kind: Any, needed: bool, run: Run) -> list[Any]:
    """The records of one input, none if the recipe has no use for them."""
    path = getattr(args, name)
    if not needed:
        return []
    if path is None:
        raise UserError(
            f"--{name}: found nothing, expected a file of {kind.__name__} lines: arm '{run.arm}' reads them"
        )
    return read_lines(path, kind)
