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
from pathlib import Path

from chord.config.project import Project, add_study, project_of
from chord.config.sets import BENCHMARK, beside_benchmark, problem_sets, purpose, seed_of, source_of, split_of
from chord.config.study import Study
from chord.data.hub_rows import WORDS, shared
from chord.data.problems import SPARE, Draw, draw, owner, problem_id
from chord.errors import ConfigError, UserError
from chord.provenance.files import write_atomically
from chord.provenance.manifest import Manifest
from chord.reach import PlugPoint
from chord.records import Problem, read_lines, write_lines
from chord.settings import derive
from chord.steps import of_problems


def main() -> None:
    """Draws the whole set, then writes it: one that cannot be filled leaves no file behind."""
    args = _arguments()
    project = project_of(args)
    study = project.study
    decided = of_problems(study, args.set, project.lock)
    beside = {"apart from": args.apart_from, "benchmark": args.benchmarks, "trained": args.trained}
    inputs = {f"{how} {path.stem}": path for how, paths in beside.items() for path in paths}
    inputs |= {"tokenizer": args.tokenizer} if args.tokenizer else {}
    recording = nullcontext()
    if args.manifest:
        recording = Manifest.recording(
            args.manifest,
            decided,
            inputs=inputs,
            outputs={"problems": args.problems, "counts": args.counts},
            seeds={"data": seed_of(study, args.set)},
        )
    with recording as record:
        drawn = SOURCES[source_of(study, args.set)](project, args)
        counts = drawn.counts(args.set)
        counts["overlap"] = overlaps(study, args.set, drawn.problems, [*args.benchmarks, *args.trained])
        if record:
            record.extra["overlap"] = counts["overlap"]
        write_atomically(args.problems, write_lines(drawn.problems))
        write_atomically(args.counts, json.dumps(counts, indent=1) + "\n")
    print(f"{args.set}: {counts['kept']} problems of {counts['drawn']} drawn", flush=True)


SOURCES = PlugPoint[Callable[[Project, argparse.Namespace], Draw]]("problems")


@SOURCES.entry("generator")
def _generated(project: Project, args: argparse.Namespace) -> Draw:
    return draw(project.study, args.set)


@SOURCES.entry("hub")
def _from_hub(project: Project, args: argparse.Namespace) -> Draw:
    from chord.data.hub_rows import Beside, hub_set

    beside = Beside(args.apart_from, args.benchmarks, args.tokenizer)
    return hub_set(project.study, args.set, args.root, project.lock, beside)


@SOURCES.entry("package")
def _from_package(project: Project, args: argparse.Namespace) -> Draw:
    return packaged(project.study, args.set)


# --- items of a package --------------------------------------------------------------------------


def packaged(study: Study, name: str) -> Draw:
    """The benchmark called `name`, out of BFCL; of more items than it asks for, those whose seeded hash is lowest.

    They are taken category by category, as even as their numbers allow, and kept in the order of the package. Raises
    ConfigError if the set is no benchmark, if the package has too few items, or if the prompt names what none has.
    """
    from chord.grading.tool_calls import BFCL_CATEGORIES, bfcl_items, bfcl_release

    split = split_of(study, name)
    task, where = study.tasks[split.task], f"config/studies/{study.name}.yaml: tasks.{split.task}"
    if not name.startswith(BENCHMARK):
        raise ConfigError(
            f"{where}: found it in data.{name}, expected it in benchmarks alone: its items are a test set"
        )
    categories = task.settings.get("categories", list(BFCL_CATEGORIES))
    if not isinstance(categories, list) or not categories or task.settings.keys() - {"categories"}:
        raise ConfigError(f"{where}.settings is {task.settings}, expected `categories`, a list of BFCL's")
    problems, release = list[Problem](), bfcl_release()
    for item in bfcl_items([str(one) for one in categories], where):
        try:
            prompt = task.prompt.format_map(item)
        except (KeyError, ValueError) as error:
            found = f"found {error} in braces, expected only `question` and `tools`"
            raise ConfigError(f"{where}.prompt: {found}") from None
        # The two halves of the paper's column BFCL: what users asked, and what was made.
        kind = "live" if item["category"].startswith("live_") else "non-live"
        source = {"package": release, "item": item["id"], "category": item["category"], "kind": kind}
        problems.append(
            Problem(problem_id(split.task, f"{item['id']} {prompt}"), split.task, prompt, item["answer"], source)
        )
    if len(problems) < split.size and not split.or_fewer:
        key = f"benchmarks.{name.removeprefix(BENCHMARK)}.problems.size"
        raise ConfigError(f"{where}: found {len(problems)} items, {key} asks for {split.size}; expected no more")
    kept = _lowest(problems, split.size, study.data.seed)
    groups = {"kept_by_category": dict(Counter(problem.source["category"] for problem in kept))}
    dropped = +Counter({SPARE: len(problems) - len(kept)})
    return Draw(kept, dropped, {"package": release}, groups=groups)


def _lowest(problems: list[Problem], size: int, seed: int) -> list[Problem]:
    turn: Counter[str] = Counter()
    ranked: list[tuple[int, int, int]] = []
    for place in sorted(range(len(problems)), key=lambda at: derive(seed, "items", problems[at].id)):
        category = problems[place].source["category"]
        ranked.append((turn[category], derive(seed, "turn", category), place))
        turn[category] += 1
    return [problems[place] for place in sorted(place for _, _, place in sorted(ranked)[:size])]


# --- overlap -------------------------------------------------------------------------------------


def overlaps(study: Study, name: str, problems: list[Problem], others: list[Path]) -> dict[str, dict[str, int]]:
    """How many problems of the set called `name` stand in each file of `others`, and share words in a row with it.

    `others` are benchmarks, or for a benchmark sets that are trained on. Of a generator's benchmark the sets of other
    generators need no file: a prompt's hash says whose it is. Raises ConfigError for a problem that is shared, unless
    the study allows it, and UserError if a set that a benchmark must be compared with is missing.
    """
    wanted = beside_benchmark(study, name)
    if missing := sorted(set(wanted) - {path.stem for path in others}):
        raise UserError(f"--trained: found no {', '.join(missing)}, expected all of these sets: {', '.join(wanted)}")
    filters = None if purpose(name) == "base" else study.tasks[split_of(study, name).task].filters
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chord prepare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_study(parser)
    parser.add_argument("--set", required=True, help="train, validation, expert[-NAME], base[-NAME] or benchmark:NAME")
    parser.add_argument("--problems", type=Path, required=True, help="file for the problems")
    parser.add_argument("--counts", type=Path, required=True, help="file for what was drawn, dropped and kept")
    for flag, what in (
        ("apart-from", "of problems from a hub: sets with which none is shared"),
        ("benchmarks", "benchmarks that none may overlap"),
        ("trained", "of a benchmark: sets of generators that none may overlap"),
    ):
        parser.add_argument(f"--{flag}", type=Path, nargs="*", default=[], help=what)
    parser.add_argument("--tokenizer", type=Path, help="of problems from a hub: folder of the study's model")
    parser.add_argument("--manifest", type=Path, help="file for what this command read, ran on and wrote")
    return parser.parse_args()
