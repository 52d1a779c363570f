"""Raw problems -> one set of a study's problems: a split, the base corpus or a benchmark; no two sets share a prompt.

chord prepare --study demo --set train --problems FILE --counts FILE [--manifest FILE]
    [--apart-from FILE ...] [--benchmarks FILE ...] [--trained FILE ...] [--tokenizer MODEL_DIR]

Which prompts of a generator may serve which set is decided by their hash. Rows of a dataset of a hub are too few for
that: there a set is told which other sets it must be apart from, and which benchmarks no question of it may overlap.
Items of a package are a benchmark as it is.

No benchmark may be trained on, or chosen by. Of each pair the one that is drawn later counts what it shares with the
other, in its counts and its manifest, and is refused if that is more than nothing, unless the study allows it
(`data.overlap`): sets of generators come first, then benchmarks, then sets out of a hub.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chord.config.project import add_study, project_of
from chord.config.sets import BENCHMARK, Lock, beside_benchmark, problem_sets, purpose, source_of, split_of
from chord.config.study import Study
from chord.data.hub_rows import WORDS, shared
from chord.data.problems import Draw, draw, owner
from chord.errors import ConfigError, UserError
from chord.provenance.files import write_atomically
from chord.provenance.manifest import Manifest
from chord.reach import PlugPoint
from chord.records import Problem, read_lines, write_lines
from chord.steps import of_problems


def main() -> None:
    """Draws the whole set, then writes it: one that cannot be filled leaves no file behind."""
    args = _arguments()
    project = project_of(args)
    root, study = args.root, project.study
    lock = project.lock
    decided = of_problems(study, args.set, lock)
    inputs = {f"apart from {path.stem}": path for path in args.apart_from}
    inputs |= {f"benchmark {path.stem}": path for path in args.benchmarks}
    inputs |= {f"trained {path.stem}": path for path in args.trained}
    inputs |= {"tokenizer": args.tokenizer} if args.tokenizer else {}
    recording = nullcontext()
    if args.manifest:
        recording = Manifest.recording(
            args.manifest,
            decided,
            inputs=inputs,
            outputs={"problems": args.problems, "counts": args.counts},
            seeds={"data": study.data.seed},
        )
    with recording as record:
        problems, told = SOURCES[source_of(study, args.set)](study, args, root, lock)
        told["overlap"] = overlaps(study, args.set, problems, [*args.benchmarks, *args.trained])
        if record:
            record.extra["overlap"] = told["overlap"]
        write_atomically(args.problems, write_lines(problems))
        write_atomically(args.counts, json.dumps(told, indent=1) + "\n")
    print(f"{args.set}: {len(problems)} problems of {told['drawn']} drawn", flush=True)


Drawn = tuple[list[Problem], dict[str, Any]]
SOURCES = PlugPoint[Callable[[Study, argparse.Namespace, Path, Lock | None], Drawn]]("problems")


@SOURCES.entry("generator")
def _generated(study: Study, args: argparse.Namespace, _root: Path, _lock: Lock | None) -> Drawn:
    drawn = draw(study, args.set)
    return drawn.problems, counts(args.set, drawn, {"generator": f"reasoning-gym {version('reasoning-gym')}"})


@SOURCES.entry("hub")
def _from_hub(study: Study, args: argparse.Namespace, root: Path, lock: Lock | None) -> Drawn:
    from chord.data.hub_rows import Beside, hub_set

    return hub_set(study, args.set, root, lock, Beside(args.apart_from, args.benchmarks, args.tokenizer))


@SOURCES.entry("package")
def _from_package(study: Study, args: argparse.Namespace, _root: Path, _lock: Lock | None) -> Drawn:
    from chord.data.bfcl import packaged
    from chord.grading.bfcl import release

    drawn = packaged(study, args.set)
    kept = Counter(problem.source["category"] for problem in drawn.problems)
    return drawn.problems, counts(args.set, drawn, {"package": release()}) | {"kept_by_category": dict(kept)}


def overlaps(study: Study, name: str, problems: list[Problem], others: list[Path]) -> dict[str, dict[str, int]]:
    """How many problems of the set called `name` stand in each file of `others`, and share words in a row with it.

    `others` are benchmarks, or for a benchmark sets that are trained on. Of a generator's benchmark the sets of other
    generators need no file: a prompt's hash says whose it is. Raises ConfigError for a problem that is shared, unless
    the study allows it, and UserError if a set that a benchmark must be compared with is missing.
    """
    wanted = beside_benchmark(study, name)
    if missing := sorted(set(wanted) - {path.stem for path in others}):
        raise UserError(f"--trained: found no {', '.join(missing)}, expected all of these sets: {', '.join(wanted)}")
    split = None if purpose(name) == "base" else split_of(study, name)
    filters = study.tasks[split.task].filters if split else None
    words = (filters and filters.overlap_words) or WORDS
    found: dict[str, dict[str, int]] = {}
    if name.startswith(BENCHMARK) and source_of(study, name) == "generator":
        owners = Counter(owner(problem.prompt)[0] for problem in problems)
        sets = [one for one in problem_sets(study) if not one.startswith(BENCHMARK)]
        found = {one: {"same": owners[purpose(one)]} for one in sets if source_of(study, one) == "generator"}
    for path in others:
        both = shared(problems, read_lines(path, Problem), words)
        found[path.stem] = {"same": len(both.same), f"{words} words in a row": len(both.words)}
        if both.all and study.data.overlap == "refused":
            first, of = both.all[0], "set" if name.startswith(BENCHMARK) else "benchmark"
            remedy = f"; `overlap_words: {words}` in its task's filters leaves them out" if first in both.words else ""
            raise ConfigError(
                f"config/studies/{study.name}.yaml: {name}: found {len(both.all)} of {len(problems)} problems in {of}"
                f" {path.stem} too ({len(both.same)} the same, {len(both.words)} with {words} words in a row;"
                f" '{first.id}' first), expected none: no benchmark may be trained on; draw one of them from other"
                f" problems, or say `data.overlap: allowed`{remedy}"
            )
    return found


def counts(name: str, drawn: Draw, out_of: dict[str, str]) -> dict[str, Any]:
    """What was drawn, `out_of` what, what was dropped and why, what was kept."""
    return {
        "set": name,
        **out_of,
        "drawn": drawn.drawn,
        "dropped": dict(sorted(drawn.dropped.items())),
        "kept": len(drawn.problems),
        "kept_by_task": dict(Counter(problem.task for problem in drawn.problems)),
        "distinct_prompts": len({problem.prompt for problem in drawn.problems}),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chord prepare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_study(parser)
    parser.add_argument("--set", required=True, help="train, validation, expert[-NAME], base[-NAME] or benchmark:NAME")
    parser.add_argument("--problems", type=Path, required=True, help="file for the problems")
    parser.add_argument("--counts", type=Path, required=True, help="file for what was drawn, dropped and kept")
    of_hub = "of problems from a hub: "
    parser.add_argument(
        "--apart-from", type=Path, nargs="*", default=[], help=f"{of_hub}sets with which none is shared"
    )
    parser.add_argument("--benchmarks", type=Path, nargs="*", default=[], help="benchmarks that none may overlap")
    parser.add_argument(
        "--trained", type=Path, nargs="*", default=[], help="of a benchmark: sets of generators that none may overlap"
    )
    parser.add_argument("--tokenizer", type=Path, help=f"{of_hub}folder of the study's model, to measure texts")
    parser.add_argument("--manifest", type=Path, help="file for what this command read, ran on and wrote")
    return parser.parse_args()
