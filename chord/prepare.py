"""Raw problems -> one set of a study's problems: a split, the base corpus or a benchmark; no two sets share a prompt.

python -m chord.prepare --study config/studies/demo.yaml --set train --problems FILE --counts FILE [--manifest FILE]
"""

import argparse
import json
from collections import Counter
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chord.config.slices import of_problems
from chord.provenance.digest import OF_TRAINING
from chord.provenance.files import run_verb, write_atomically
from chord.provenance.manifest import Manifest
from chord.records import write_lines
from chord.tasks.problems import Draw, draw
from chord.tasks.studies import read_study


def main() -> None:
    """Draws the whole set, then writes it: one that cannot be filled leaves no file behind."""
    args = _arguments()
    study = read_study(args.study)
    decided_by = of_problems(study, args.set)
    recording = nullcontext()
    if args.manifest:
        recording = Manifest.recording(
            args.manifest,
            verb="chord.prepare",
            step="data",
            without=OF_TRAINING,
            decided_by=decided_by,
            inputs={},
            outputs={"problems": args.problems, "counts": args.counts},
            seeds={"data": study.data.seed},
        )
    with recording:
        drawn = draw(study, args.set)
        write_atomically(args.problems, write_lines(drawn.problems))
        write_atomically(args.counts, json.dumps(counts(args.set, drawn), indent=1) + "\n")
    print(f"{args.set}: {len(drawn.problems)} problems of {drawn.drawn} drawn", flush=True)


def counts(name: str, drawn: Draw) -> dict[str, Any]:
    """What was drawn, what was dropped and why, what was kept."""
    return {
        "set": name,
        "generator": f"reasoning-gym {version('reasoning-gym')}",
        "drawn": drawn.drawn,
        "dropped": dict(sorted(drawn.dropped.items())),
        "kept": len(drawn.problems),
        "kept_by_task": dict(Counter(problem.task for problem in drawn.problems)),
        "distinct_prompts": len({problem.prompt for problem in drawn.problems}),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chord.prepare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True, help="config/studies/NAME.yaml")
    parser.add_argument("--set", required=True, help="train, validation, expert, base or benchmark:NAME")
    parser.add_argument("--problems", type=Path, required=True, help="file for the problems")
    parser.add_argument("--counts", type=Path, required=True, help="file for what was drawn, dropped and kept")
    parser.add_argument("--manifest", type=Path, help="file for what this command read, ran on and wrote")
    return parser.parse_args()


if __name__ == "__main__":
    run_verb("chord.prepare", main)
