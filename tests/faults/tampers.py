"""Ways to falsify results/demo of a project: functions of that folder. `test_tamper.py` tries them."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from chord.provenance import ledger as ledgers
from chord.provenance.files import content_hash
from chord.provenance.lineage import Job, read_lineage
from chord.provenance.manifest import JobSpec, Manifest

GRPO, SFT = "runs/grpo/seed-1", "runs/sft-light/seed-1"
CELL = f"{GRPO}/eval/in-distribution"
ANSWERS, SCORES = f"{CELL}/answers.jsonl", f"{CELL}/scores.json"
LEDGER = "provenance/ledger.jsonl"

Lines = Callable[[list[str]], list[str]]
Falsify = Callable[[Path], Any]


# --- edits -------------------------------------------------------------------------------------


def edit_json(file: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content, ensure_ascii=False, sort_keys=True, indent=1) + "\n")


def cell(**changes: object) -> Falsify:
    """Other values in one cell of the table."""
    return lambda results: edit_json(
        results / "table1.json", lambda table: table["rows"][2]["cells"]["in-distribution"].update(changes)
    )


def values(file: str, **changes: object) -> Falsify:
    """Other values in a JSON file; `recipe__mu__value=0.5` changes recipe.mu.value."""

    def change(content: Any) -> None:
        for place, value in changes.items():
            *above, last = place.split("__")
            node = content
            for key in above:
                node = node[key]
            node[last] = value

    return lambda results: edit_json(results / file, change)


def lines(file: str, change: Lines) -> Falsify:
    return lambda results: lines_of(results / file, change)


def text(file: str, old: str, new: str) -> Falsify:
    """Other text in a file below results/demo, or, with ../../ before it, of the project."""
    return lambda results: replace(results / file, old, new)


def answer(**changes: str) -> Falsify:
    """Another first answer."""
    return lines(ANSWERS, lambda all: [json.dumps(json.loads(all[0]) | changes) + "\n", *all[1:]])


def lines_of(file: Path, change: Lines) -> None:
    file.write_text("".join(change(file.read_text().splitlines(keepends=True))))


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, f"{file}: no {old!r}"
    file.write_text(text.replace(old, new, 1))


def flip_in_place(file: Path) -> None:
    """One bit in the middle, size and times as before."""
    before, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def exchange(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def to_link(path: Path) -> Path:
    """Move it out of the study and leave a link in its place; where it is now."""
    project = next(folder.parent for folder in path.parents if folder.name == "results")
    elsewhere = project.with_name("elsewhere")
    elsewhere.mkdir()
    shutil.move(path, elsewhere / path.name)
    path.symlink_to(elsewhere / path.name)
    return elsewhere / path.name


def linked_to(path: Path, other: Path) -> None:
    """In the place of a file or folder a link to another one of the study."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(os.path.relpath(other, path.parent))


def to_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "inside").write_text("x")


def backed_up(results: Path, *names: str) -> Callable[[], None]:
    """Copies of files, and what puts them back."""
    contents = {name: (results / name).read_bytes() for name in names}
    return lambda: [(results / name).write_bytes(content) for name, content in contents.items()] and None


# --- jobs that are honestly run again ----------------------------------------------------------


def job_of(results: Path, output: str) -> Job:
    return read_lineage(results).makers[results / output]


def remade(results: Path, output: str, change: Callable[[Path], Any]) -> None:
    """The job that made `output` runs again, with manifest and ledger, and now makes what `change` makes of it."""
    job = job_of(results, output)
    was = job.manifest
    command = ["-m", *was.command[4:]]
    with (
        mock.patch.object(sys, "argv", command),
        Manifest.recording(
            job.path,
            JobSpec(was.verb, was.step, was.decided_by, was.code.uses),
            seeds=was.seeds,
            extra=was.extra,
            inputs=dict(zip(was.inputs, job.inputs, strict=True)),
            outputs=dict(zip(was.outputs, job.outputs, strict=True)),
        ),
    ):
        change(results / output)


def another_step(metrics: Path) -> None:
    lines_of(metrics, lambda all: [*all[:-1], all[-1].replace('"reward": ', '"reward": 1')])


def other_outcome(scores: Path) -> None:
    """One more answer is right, or wrong, and all sums of it are right."""

    def change(raw: dict[str, Any]) -> None:
        outcomes = raw["problems"][0]["outcomes"]
        outcomes[:] = ["wrong" if one == "right" else "right" for one in outcomes]
        every = [row["outcomes"] for row in raw["problems"]]
        raw["mean"] = sum(row.count("right") / len(row) for row in every) / len(every)
        raw["pass_at_k"] = sum("right" in row for row in every) / len(every)
        raw["outcomes"] = {name: sum(row.count(name) for row in every) for name in raw["outcomes"]}

    edit_json(scores, change)


def metrics_made_again(results: Path) -> None:
    remade(results, f"{GRPO}/metrics.jsonl", another_step)


def score_made_again(results: Path) -> None:
    remade(results, SCORES, other_outcome)


def old_score_put_back(results: Path) -> None:
    put_back = backed_up(results, f"{CELL}/scores.json")
    remade(results, f"{CELL}/scores.json", other_outcome)
    put_back()


def old_attempt_put_back(results: Path) -> None:
    names = [f"{CELL}/{name}" for name in ("scores.json", "scores.manifest.json")]
    put_back = backed_up(results, *names)
    remade(results, names[0], other_outcome)
    put_back()


def forged_table(results: Path) -> None:
    """A better number, honestly recorded: every hash and the ledger agree with it."""

    remade(results, "table1.json", lambda table: cell(mean=99.0)(table.parent))


def forged_score(results: Path) -> None:
    remade(results, f"{CELL}/scores.json", lambda file: edit_json(file, lambda raw: raw.update(mean=0.99)))


def forged_count(results: Path) -> None:
    remade(results, f"{CELL}/scores.json", lambda file: edit_json(file, lambda raw: raw.update(pass_at_k=0.99)))


def forged_figure(results: Path) -> None:
    def better(file: Path) -> None:
        edit_json(file, lambda figure: figure["panels"][0]["curves"][0]["mean"].__setitem__(-1, 9.0))

    remade(results, "figure9.json", better)


# --- ledger ------------------------------------------------------------------------------------


def edited_and_rechained(results: Path) -> None:
    """A ledger made anew from the line of one attempt on, so that the chain holds again."""
    old = [json.loads(line) for line in (results / LEDGER).read_text().splitlines()]
    old[4]["host"] = "another"
    chain(results, old)


def removed_and_rechained(results: Path) -> None:
    """Every line of the newest attempt at a score taken out, and the chain made anew."""
    old = [json.loads(line) for line in (results / LEDGER).read_text().splitlines()]
    gone = {entry["attempt"] for entry in old if entry.get("manifest") == f"{CELL}/scores.manifest.json"}
    chain(results, [entry for entry in old if entry["attempt"] not in gone])


def chain(results: Path, entries: list[dict[str, Any]]) -> None:
    (results / LEDGER).unlink()
    for entry in entries:
        fields = {key: value for key, value in entry.items() if key not in ("previous", "time", "event")}
        ledgers.append(results / LEDGER, entry["event"], fields)


def second_end(results: Path) -> None:
    """A well chained line that says that an attempt ended another way."""
    attempt = job_of(results, "table1.json").manifest.attempt.id
    ledgers.append(results / LEDGER, "end", {"attempt": attempt, "outcome": "ok", "manifest_sha256": "0" * 64})


# --- manifests ---------------------------------------------------------------------------------


def output_and_manifest(results: Path) -> None:
    """A better answer, whose new hash is written into its manifest."""
    answer(text="=7")(results)
    answers = results / ANSWERS

    def change(content: dict[str, Any]) -> None:
        content["outputs"]["answers"] |= {"sha256": content_hash(answers), "bytes": answers.stat().st_size}

    edit_json(results / f"{CELL}/answers.manifest.json", change)


def copied_manifest(results: Path) -> None:
    names = [f"runs/grpo/seed-{seed}/train.manifest.json" for seed in (1, 2)]
    shutil.copyfile(results / names[1], results / names[0])


def copied_run(results: Path) -> None:
    """One seed's whole run in the place of another's: twice the luckier one."""
    shutil.rmtree(results / GRPO)
    shutil.copytree(results / "runs/grpo/seed-2", results / GRPO)


# --- code and settings -------------------------------------------------------------------------

COMMON, EVALUATE = (f"../../workflow/rules/{name}.smk" for name in ("common", "evaluate"))
STATISTICS, TABLE = "chord/findings/statistics.py", "config/experiments/table1.yaml"


def other_pin(results: Path) -> None:
    pins = results.parents[1] / "envs/report.txt"
    lines_of(pins, lambda all: ["numpy==0.0.1\n" if line.startswith("numpy==") else line for line in all])
