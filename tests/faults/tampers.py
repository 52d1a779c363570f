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
from tests.projects import replace, set_values

GRPO, SFT = "runs/grpo/seed-1", "runs/sft-light/seed-1"
CELL = f"{GRPO}/eval/in-distribution"
ANSWERS, SCORES = f"{CELL}/answers.jsonl", f"{CELL}/scores.json"
LEDGER = "provenance/ledger.jsonl"

Falsify = Callable[[Path], Any]


# --- edits -------------------------------------------------------------------------------------


def edit_json(file: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content, ensure_ascii=False, sort_keys=True, indent=1) + "\n")


def edit_lines(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    file.write_text("".join(change(file.read_text().splitlines(keepends=True))))


def values(file: str, **changes: object) -> Falsify:
    """Other values in a JSON file; see `set_values`."""
    return lambda results: edit_json(results / file, lambda content: set_values(content, **changes))


def cell(**changes: object) -> Falsify:
    """Other values in one cell of the table."""

    def change(table: Any) -> None:
        table["rows"][2]["cells"]["in-distribution"].update(changes)

    return lambda results: edit_json(results / "table1.json", change)


def lines(file: str, change: Callable[[list[str]], list[str]]) -> Falsify:
    return lambda results: edit_lines(results / file, change)


def text(file: str, old: str, new: str) -> Falsify:
    """Other text in a file of results/demo, or, with ../../ before it, of the project."""
    return lambda results: replace(results / file, old, new)


def answer(**changes: str) -> Falsify:
    """Another first answer."""
    return lines(ANSWERS, lambda all: [json.dumps(json.loads(all[0]) | changes) + "\n", *all[1:]])


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
    elsewhere.mkdir(exist_ok=True)
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


# --- jobs that are honestly run again ----------------------------------------------------------


def job_of(results: Path, output: str) -> Job:
    return read_lineage(results).makers[results / output]


def remade(output: str, change: Callable[[Path], Any]) -> Falsify:
    """The job that made `output` runs again, with manifest and ledger, and now makes what `change` makes of it."""

    def run_again(results: Path) -> None:
        job = job_of(results, output)
        was = job.manifest
        with (
            mock.patch.object(sys, "argv", ["-m", *was.command[4:]]),
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

    return run_again


def put_back(tamper: Falsify, *names: str) -> Falsify:
    """After the tamper, these files are as they were before it."""

    def with_old_files(results: Path) -> None:
        contents = {name: (results / name).read_bytes() for name in names}
        tamper(results)
        for name, content in contents.items():
            (results / name).write_bytes(content)

    return with_old_files


def another_step(metrics: Path) -> None:
    edit_lines(metrics, lambda all: [*all[:-1], all[-1].replace('"reward": ', '"reward": 1')])


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


def with_values(**changes: object) -> Callable[[Path], None]:
    """Other values in a JSON file that a job makes."""
    return lambda file: edit_json(file, lambda content: set_values(content, **changes))


def better_point(figure: Path) -> None:
    edit_json(figure, lambda content: content["panels"][0]["curves"][0]["mean"].__setitem__(-1, 9.0))


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


def copied_run(results: Path) -> None:
    """One seed's whole run in the place of another's: twice the luckier one."""
    shutil.rmtree(results / GRPO)
    shutil.copytree(results / "runs/grpo/seed-2", results / GRPO)


def other_pin(results: Path) -> None:
    pins = results.parents[1] / "envs/report.txt"
    edit_lines(pins, lambda all: ["numpy==0.0.1\n" if line.startswith("numpy==") else line for line in all])
