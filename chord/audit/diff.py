"""What two runs differ in, the first cause first: code, environment, config, data, seed, then what came out of it.

chord diff RUN_A RUN_B

Each is the folder of a run (or of anything with one manifest in it), or a manifest. Of metrics the first step is named
at which they part, of records the first line, of models the first weight. Times are not compared. Exit codes: 0 the
same, 1 different, 2 misuse.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, deserialize  # pyright: ignore[reportUnknownVariableType]

from chord.config.project import nearest
from chord.errors import UserError
from chord.provenance.changes import Change, code_differences, differences
from chord.provenance.lineage import Job
from chord.provenance.manifest import ENDING, Code, Content, read_manifest
from chord.records import split_lines
from chord.settings import Raw

DIFFERENT = 1
SHOWN = 8
TELLING = ("arm", "recipe.init", "recipe.mu", "recipe.expert_tokens")  # what an arm is; all else comes after
TIMES = ("timing",)  # outputs that say how long it took


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares the two runs on the command line; gives the exit code."""
    given = _parser().parse_args(arguments)
    one, other = (_job(path) for path in (given.one, given.other))
    found = list(compared(one, other))
    if given.json:
        print(json.dumps([change._asdict() for change in found], indent=1))
        return DIFFERENT if found else 0
    print(f"{one.path} ({one.manifest.verb}) -> {other.path} ({other.manifest.verb})")
    if not found:
        print("They differ in nothing: code, environment, config, data, seeds and outputs are the same.")
        return 0
    print(f"first: {found[0]}")
    for what in dict.fromkeys(change.what for change in found):
        same = [change for change in found if change.what == what]
        print(f"{what}:")
        for change in same[:SHOWN]:
            print(f"  {change.where}: {change.old} -> {change.new}")
        if len(same) > SHOWN:
            print(f"  and {len(same) - SHOWN} more; --json has all")
    return DIFFERENT


def compared(one: Job, other: Job) -> Iterator[Change]:
    """Every difference, in the order in which it can have caused the ones after it."""
    a, b = one.manifest, other.manifest
    yield from differences("code", {"verb": a.verb}, {"verb": b.verb})
    yield from _code(a.code, b.code)
    yield from differences("environment", _environment(one), _environment(other))
    runs = [_recipe(job) for job in (one, other)]
    yield from sorted(differences("config", _without(runs[0], "seed"), _without(runs[1], "seed")), key=_telling)
    yield from differences("config", a.decided_by, b.decided_by)
    yield from differences("config", _template(one), _template(other))
    yield from _files("data", one, other, a.inputs, b.inputs)
    yield from differences("seed", a.seeds, b.seeds)
    yield from _steps(one, other)
    yield from _files("output", one, other, _without(a.outputs, *TIMES), _without(b.outputs, *TIMES))


def _code(one: Code, other: Code) -> Iterator[Change]:
    """The definitions with two contents. Two jobs of other settings reach others besides: that is no change of one."""
    if one.digest != other.digest:
        changes = code_differences(one.definitions, other.definitions)
        yield from (change for change in changes if one.uses == other.uses or "nothing" not in (change.old, change.new))


def _telling(change: Change) -> int:
    """The place of a setting in the order in which a person wants to know of it."""
    return next(
        (number for number, key in enumerate(TELLING) if f"{change.where}.".startswith(f"{key}.")), len(TELLING)
    )


def _environment(job: Job) -> dict[str, Any]:
    """What ran it: Python, packages, pins, device, allowed variables."""
    manifest = job.manifest
    devices = {key: manifest.extra[key] for key in ("device", "compute_dtype", "ranks") if key in manifest.extra}
    return {
        "python": manifest.installed.python,
        "packages": manifest.installed.packages,
        "all packages": manifest.installed.all_sha256[:12],
        "pinned": manifest.installed.pinned,
        "machine": {**manifest.machine, **devices},
        "variables": manifest.environment,
    }


def _template(job: Job) -> dict[str, Any]:
    """What the chat template made of the first prompt, and the tokens that end a response."""
    return {key: job.manifest.extra[key] for key in ("first_prompt", "end_tokens") if key in job.manifest.extra}


def _recipe(job: Job) -> dict[str, Any]:
    """The run.json that the job read, where it is still there."""
    path = _path(job, "inputs", "run")
    try:
        return dict(json.loads(path.read_bytes())) if path else {}
    except (OSError, ValueError):
        return {}


def _files(
    what: str, one: Job, other: Job, first: Mapping[str, Content], second: Mapping[str, Content]
) -> Iterator[Change]:
    """Files of the same name and another content; where both are still there, the first record that differs."""
    part = "inputs" if what == "data" else "outputs"
    for name in dict.fromkeys([*first, *second]):
        if name == "run":
            continue
        pair = [side[name].sha256[:12] if name in side else "nothing" for side in (first, second)]
        if pair[0] != pair[1]:
            yield Change(what, name, pair[0], pair[1])
            paths = _path(one, part, name), _path(other, part, name)
            if name != "metrics" and paths[0] and paths[1]:
                yield from _inside(what, name, paths[0], paths[1])


def first_difference(one: Path, other: Path) -> tuple[str, str, str] | None:
    """Name of the first weight that differs between two model folders, and what each side has; None if none does."""
    weights = lru_cache(maxsize=2)(_weights)
    sides = [
        {name: file for file in sorted(folder.glob("*.safetensors")) for name in weights(file)}
        for folder in (one, other)
    ]
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        first, second = (weights(side[name])[name] if name in side else ("nothing", b"") for side in sides)
        if first[0] != second[0]:
            return name, first[0], second[0]
        if first[1] != second[1]:
            byte = next(place for place, pair in enumerate(zip(first[1], second[1], strict=True)) if pair[0] != pair[1])
            return name, f"{first[0]} as it was", f"other from byte {byte} of it on"
    return None


def _weights(file: Path) -> dict[str, tuple[str, bytes]]:
    """Type with shape, and bytes, of each weight in a safetensors file."""
    try:
        found = cast("list[tuple[str, dict[str, Any]]]", deserialize(file.read_bytes()))  # it gives them in any order
        return {name: (f"{one['dtype']} {one['shape']}", one["data"]) for name, one in sorted(found)}
    except SafetensorError as error:
        raise UserError(f"{file}: found no safetensors file ({error}), expected the weights of a model") from None


def _inside(what: str, name: str, one: Path, other: Path) -> Iterator[Change]:
    """The first line in which two files of records differ, or the first weight of two models."""
    if one.is_dir() and other.is_dir():
        if found := first_difference(one, other):
            yield Change(what, f"{name}, {found[0]}", found[1], found[2])
        return
    if one.suffix != ".jsonl" or not (one.is_file() and other.is_file()):
        return
    sides = [_split(path) for path in (one, other)]
    for number, (first, second) in enumerate(zip_longest(*sides), start=1):
        if found := differences(what, _parsed(first), _parsed(second), f"{name}, line {number}"):
            yield found[0]
            return


def _steps(one: Job, other: Job) -> Iterator[Change]:
    """The first step whose metrics differ: every key of that step, and where one run stops earlier."""
    paths = [_path(job, "outputs", "metrics") for job in (one, other)]
    sides = [_lines(path) if path and path.is_file() else {} for path in paths]
    for step in sorted({*sides[0], *sides[1]}):
        first, second = (side.get(step, "no such step") for side in sides)
        if found := differences("step", first, second, f"step {step}"):
            yield from found
            return


def _lines(path: Path) -> dict[int, Any]:
    """The lines of a metrics.jsonl by step."""
    parsed = [_parsed(line) for line in _split(path)]
    return {step: line for line in parsed if isinstance(line, dict) and isinstance(step := line.get("step"), int)}


def _split(path: Path) -> list[str]:
    return split_lines(path.read_bytes().decode(errors="replace"))


def _parsed(line: str | None) -> Raw:
    if line is None:
        return "no such line"
    try:
        return json.loads(line)
    except ValueError:
        return line


def _path(job: Job, part: str, name: str) -> Path | None:
    """Where an input or output of that name is now."""
    recorded = getattr(job.manifest, part)
    places = list(getattr(job, part))
    return places[list(recorded).index(name)] if name in recorded else None


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _job(path: Path) -> Job:
    """The manifest that is named, or that of a run's folder. Raises UserError where there is none, or more than one."""
    if not path.exists():
        raise UserError(f"{path}: found nothing there, expected a run's folder or a manifest{nearest(path)}")
    if path.is_dir():
        found = sorted(path.glob(f"*{ENDING}"))
        trained = [one for one in found if one.name in (f"train{ENDING}", f"choose{ENDING}")]
        if len(trained or found) != 1:
            names = ", ".join(one.name for one in found) or "no manifest"
            raise UserError(f"{path}: found {names}, expected one; name a run's folder, or the manifest itself")
        path = (trained or found)[0]
    return Job(path, read_manifest(path))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chord diff", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("one", type=Path, metavar="RUN_A", help="such as results/demo/runs/grpo/seed-1")
    parser.add_argument("other", type=Path, metavar="RUN_B", help="such as results/demo/runs/chord-phi/seed-1")
    parser.add_argument("--json", action="store_true", help="every difference, in the same order")
    return parser
