"""One set of problems out of a fetched dataset, and counts of all that was dropped. Rules are in `chord.tasks.hub`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chord.config.lock import Lock, Wanted, wanted_dataset
from chord.config.sets import BENCHMARK, drawn_as
from chord.config.sets import hub_split_of as split_of
from chord.config.study import Split, Study
from chord.provenance.fetched import checked_files
from chord.provenance.files import UserError
from chord.records import Problem, read_lines
from chord.settings import ConfigError
from chord.tasks.hub import Lengths, Rules, Selection, select
from chord.tasks.overlap import Overlap, question_key, question_of
from chord.tasks.rows import lacking, read_rows


@dataclass(frozen=True)
class Beside:
    """The files beside which a set is drawn: sets to be apart from, benchmarks not to overlap, the model's folder."""

    apart_from: Sequence[Path]
    benchmarks: Sequence[Path]
    tokenizer: Path | None


def hub_set(
    study: Study, name: str, root: Path, lock: Lock | None, beside: Beside
) -> tuple[list[Problem], dict[str, Any]]:
    """The problems of the set called `name`, and what is told of them. Raises ConfigError if there are too few."""
    split = split_of(study, name)
    task = study.tasks[split.task]
    wanted = wanted_dataset(study, task.dataset)
    files = checked_files(root, study.name, lock, wanted)
    dataset = study.datasets[task.dataset]
    absent = lacking(files, {one: dataset.columns[one] for one in dataset.may_lack})
    columns = {one: column for one, column in dataset.columns.items() if one not in absent}
    rules = replace(_rules(study, name, split.task, _commit(lock, wanted), beside), has_generations=not absent)
    found = select(read_rows(files, columns), rules, (drawn_as(name), split.size))
    told = counts(name, found, f"{wanted.name} at {rules.commit}", beside)
    told |= {"columns_lacking": [dataset.columns[one] for one in absent]} if absent else {}
    if len(found.problems) < split.size and not split.or_fewer:
        raise ConfigError(_too_few(study, name, split, found))
    if not found.problems:
        raise ConfigError(_too_few(study, name, split, found))
    return found.problems, told


def counts(name: str, found: Selection, source: str, beside: Beside) -> dict[str, Any]:
    """What was read, what was dropped and why, what was kept."""
    return {
        "set": name,
        "source": source,
        "drawn": len(found.problems) + found.dropped.total(),
        "dropped": dict(sorted(found.dropped.items())),
        "generations": dict(sorted(found.generations.items())),
        "apart_from": sorted(path.stem for path in beside.apart_from),
        "no_overlap_with": sorted(path.stem for path in beside.benchmarks),
        "kept": len(found.problems),
        "kept_by_task": dict(Counter(problem.task for problem in found.problems)),
        "distinct_prompts": len({problem.prompt for problem in found.problems}),
    }


def token_lengths(folder: Path, date: str | None = None) -> Lengths:
    """Lengths by the tokenizer in `folder`, of prompts that show `date`.

    Text that looks like a special token is counted as the text that it is.
    """
    from transformers import AutoTokenizer

    from chord.tasks.prompts import prompt_ids

    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder}: found no tokenizer.json, expected the folder of the study's model")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def generations(texts: Sequence[str]) -> list[int]:
        encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
        return [len(ids) for ids in encoded["input_ids"]]

    return Lengths(lambda prompt: len(prompt_ids(tokenizer, prompt, date=date)), generations)


def _rules(study: Study, name: str, task: str, commit: str, beside: Beside) -> Rules:
    """The rules for a set; a benchmark has no lengths and overlaps nothing, since it is asked as it is."""
    filters = study.tasks[task].filters
    words = filters.overlap_words if filters else None
    is_benchmark = name.startswith(BENCHMARK)
    if not is_benchmark and beside.tokenizer is None:
        raise UserError(f"--tokenizer: found nothing, expected the folder of the study's model to measure {name} with")
    if not is_benchmark and {path.stem for path in beside.benchmarks} != set(study.benchmarks):
        found = ", ".join(path.stem for path in beside.benchmarks) or "none"
        raise UserError(f"--benchmarks: found {found}, expected all of them: {', '.join(study.benchmarks)}")
    apart = (one for path in beside.apart_from for one in read_lines(path, Problem))
    asked = [question_of(one) for path in beside.benchmarks for one in read_lines(path, Problem)]
    model = None if is_benchmark else beside.tokenizer
    return Rules(
        study=study,
        name=task,
        commit=commit,
        apart=frozenset(question_key(question_of(one)) for one in apart),
        overlap=Overlap(asked, words) if words and not is_benchmark else None,
        lengths=token_lengths(model, study.prompt_date) if model else None,
    )


def _commit(lock: Lock | None, wanted: Wanted) -> str:
    locked = lock.find(wanted) if lock else None
    assert locked is not None, "its files were checked"
    return locked.commit


def _too_few(study: Study, name: str, split: Split, found: Selection) -> str:
    why = ", ".join(f"{reason}: {count}" for reason, count in found.dropped.most_common()) or "nothing"
    key = f"benchmarks.{name.removeprefix(BENCHMARK)}.problems" if name.startswith(BENCHMARK) else f"data.{name}"
    key = f"other_experts.{name.removeprefix('expert-')}" if name.startswith("expert-") else key
    return (
        f"config/studies/{study.name}.yaml: {key} asks for {split.size} problems of '{split.task}', found"
        f" {len(found.problems)} that fit (dropped: {why}); expected a smaller size, `or_fewer: true` or other filters"
    )
