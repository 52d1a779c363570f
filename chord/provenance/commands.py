"""What rules say and what Snakemake plans: commands of jobs, and what it tells of them."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from os.path import isabs, join, normpath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from chord.errors import UserError
from chord.provenance.environment import REMOVED, scrubbed_command
from chord.provenance.freshness import Change, read

if TYPE_CHECKING:
    from snakemake.jobs import Job
    from snakemake.workflow import Workflow


# --- commands ------------------------------------------------------------------------------------

# What the rules of workflow/ tell each job today, beside what it was told when it ran. Knows no Snakemake.
#
# The command of a verb and the files in it are in its manifest. Compared are the verb, its flags and their values, in
# any
# order of the flags; files by where they lie in the study. Words that say how a machine is used are left out, and so is
# all that stands around the verb: what launches it, variables, redirects. A file that a verb finds by itself, as a
# table finds its scores, is no word of a command: code and settings decide it.

# Values of these say how a machine is used or where config/ lies; they decide no result.
HOW_NOT_WHAT = frozenset(
    {"--threads", "--checkpoint-every-steps", "--checkpoint-every-minutes", "--state", "--ahead", "--root"}
)
UNORDERED = frozenset({"--benchmarks", "--apart-from"})  # of these files each is asked the same
LAUNCHES = "chord launch"  # the verb comes after it
_SEPARATOR = re.compile(r"\|\|?|&&?|;")
_REDIRECT = re.compile(r"(?:\d*|&)(?:>>?|<)(.*)", re.DOTALL)


Values = tuple[str, ...]


class Told(NamedTuple):
    """What a rule gives one job: the text of its shell command, and the files that it names as inputs."""

    shell: str
    reads: tuple[str, ...]


def text_of(told: Told) -> str | None:
    """What the rule writes, for one that runs no verb and prints a text, as into run.json; else None."""
    words = _commands(told.shell)[0]
    return words[2] if words[:2] == ["printf", r"%s\n"] and len(words) == 3 else None


def texts(told: Mapping[str, Told]) -> dict[str, str]:
    """`text_of` each, where there is one."""
    return {key: text for key, one in told.items() if (text := text_of(one)) is not None}


def add_changes(found: dict[str, list[Change]], told: Mapping[str, Told], results: Path) -> None:
    """Adds the `changes` of each manifest that is there and can be read to what was `found` of it."""
    for key, one in told.items():
        manifest = read(results / key)
        if manifest and (more := changes(manifest, one, results.as_posix())):
            found.setdefault(key, []).extend(more)


def changes(manifest: Mapping[str, Any], told: Told, results: str) -> list[Change]:
    """How what the rule says differs from what the manifest recorded; `results` is results/STUDY, as in rules."""
    verb, words = verb_of(told.shell)
    if verb is None:
        return []
    if verb != manifest["verb"]:
        return [Change("command", "verb", manifest["verb"], verb)]
    reads = {_place(path, ".", results) for path in told.reads}
    reads |= {one["path"] for one in manifest["inputs"].values()}
    was = _flags(manifest["command"][4:], manifest["folder"], results)
    now = _flags(scrubbed_command(words), ".", results)
    found = []
    for flag in dict.fromkeys([*was, *now]):
        old, new = was.get(flag), now.get(flag)
        if not _same(flag, old, new):
            is_read = bool({*(old or ()), *(new or ())} & reads)
            what, where = ("reads", flag.removeprefix("--")) if is_read else ("command", flag or "words")
            found.append(Change(what, where, *_differing(old, new)))
    return found


def verb_of(shell: str) -> tuple[str | None, list[str]]:
    """The verb that a shell command runs and its words; None where it runs none of this project's."""
    for words in _commands(shell):
        for at in range(len(words) - 1, 0, -1):
            verb = " ".join(words[at : at + 2])
            if words[at - 1] == "-m" and words[at] == "chord" and verb != LAUNCHES:
                return verb, words[at + 2 :]
    return None, []


@cache
def _commands(shell: str) -> tuple[list[str], ...]:
    """The simple commands of a shell text, word by word, without redirects; not to be changed."""
    commands: list[list[str]] = [[]]
    waiting = iter(shlex.split(shell))
    for word in waiting:
        redirect = _REDIRECT.fullmatch(word)
        if _SEPARATOR.fullmatch(word):
            commands.append([])
        elif redirect:
            if not redirect[1]:
                next(waiting, None)
        else:
            commands[-1].append(word)
    return tuple(commands)


def _flags(words: list[str], folder: str, results: str) -> dict[str, Values]:
    """Values by flag, of repeated ones all; what stands before the first flag by "". Without how machines are used."""
    found: dict[str, Values] = {}
    flag = ""
    for word in words:
        if word.startswith("--"):
            flag, given, value = word.partition("=")
            found.setdefault(flag, ())
            word = value if given else None
        if word is not None:
            found[flag] = (*found.get(flag, ()), _place(word, folder, results))
    return {flag: values for flag, values in found.items() if flag not in HOW_NOT_WHAT}


def _place(word: str, folder: str, results: str) -> str:
    """A path as seen from the study, or from the working folder; any other word as it is."""
    if "/" not in word:
        return word
    path = normpath(join(folder, word))
    _, is_within, place = f"/{path}".rpartition(f"/{results}/")
    return place if is_within else path


def _same(flag: str, old: Values | None, new: Values | None) -> bool:
    if old is None or new is None or len(old) != len(new):
        return old is new
    pairs = zip(sorted(old), sorted(new), strict=True) if flag in UNORDERED else zip(old, new, strict=True)
    return all(_same_word(*pair) for pair in pairs)


def _same_word(old: str, new: str) -> bool:
    """Whether two words mean the same; one that was a secret is not known, one that was absolute may have moved."""
    return old == new or REMOVED in old or (isabs(old) and old.endswith(f"/{new}"))


def _differing(old: Values | None, new: Values | None) -> tuple[str, str]:
    """The values that are not on both sides; all where only their order differs."""
    gone = [one for one in old or () if one not in (new or ())]
    come = [one for one in new or () if one not in (old or ())]
    if old and new and not gone and not come:
        gone, come = list(old), list(new)
    return _shown(old, gone), _shown(new, come)


def _shown(values: Values | None, some: list[str]) -> str:
    return " ".join(some) or ("nothing" if values is None or values else "given")


# --- snakemake -----------------------------------------------------------------------------------

# Which jobs Snakemake would run for a target, by its own summary, and what its rules tell each. Runs none of them.

TELL = "CHORD_TELL"  # names a file: the Snakefile writes there what its rules tell each job

LAST_OUTPUTS = (".manifest.json", "/run.json")  # of every rule, one of these is the last

BEFORE = ("Using ", "Config file ", "stale: ")  # so begin lines that tell of profiles and of what changed


class Planned(NamedTuple):
    """One job that Snakemake would run."""

    rule: str
    outputs: tuple[str, ...]
    missing: tuple[str, ...]  # of the outputs


def planned(arguments: list[str]) -> list[Planned]:
    """The jobs that Snakemake would run, by its own summary. Raises UserError with its last words if it cannot plan."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--summary", *arguments], capture_output=True, text=True, check=False
    )
    lines = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    if done.returncode or not lines:
        raise UserError(why_refused(done.stderr or done.stdout, f"snakemake --summary {' '.join(arguments)}"))
    heads, *rows = lines
    return [
        Planned(
            files[0]["rule"],
            tuple(row["output_file"] for row in files),
            tuple(row["output_file"] for row in files if row["status"] == "missing"),
        )
        for files in _by_job([dict(zip(heads, row, strict=False)) for row in rows])
        if any(row["plan"] != "no update" for row in files)
    ]


def why_refused(said: str, command: str) -> str:
    """Why Snakemake would not plan, by what it said: a sentence of the Snakefile alone, else its own last words."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(BEFORE)]
    return lines[0] if len(lines) == 1 else f"{command}: {' '.join(lines[-3:]) or 'said nothing'}"


def _by_job(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    """The rows of Snakemake's summary, job by job: outputs of a job stand together, and its manifest is the last."""
    jobs: list[list[dict[str, str]]] = []
    for row in rows:
        last = jobs[-1][-1] if jobs else None
        if last is None or last["rule"] != row["rule"] or last["output_file"].endswith(LAST_OUTPUTS):
            jobs.append([])
        jobs[-1].append(row)
    return jobs


# --- what the rules tell each job --------------------------------------------------------------


class _NoGraph(NamedTuple):
    """Stands for the graph of jobs, which is not there yet while the Snakefile is read; a command needs no more."""

    workflow: "Workflow"

    def jobid(self, job: "Job") -> int:
        """Jobs have no number yet."""
        return 0


def told_by(workflow: "Workflow", results: str, keys: Iterable[str]) -> dict[str, Told]:
    """What the rules of a Snakefile that was read tell the job of each manifest or run.json below `results`."""
    from snakemake.iocontainers import ResourceList
    from snakemake.jobs import Job

    # What a profile gives to a job says where it runs; some of it Snakemake can only work out later, from the files.
    nothing = ResourceList(fromdict={"_cores": 1, "_nodes": 1})
    found = {}
    for key in keys:
        path = f"{results}/{key}"
        for rule in workflow.rules:
            if any(output.match(path) for output in rule.output):
                job = Job(rule, _NoGraph(workflow), rule.get_wildcards(path))
                job._resources = nothing
                if job.shellcmd:
                    found[key] = Told(job.shellcmd, tuple(map(str, job.input)))
    return found


def is_asked() -> bool:
    """Whether `asked` started this Snakemake, so that it should `answer`."""
    return TELL in os.environ


def answer(told: Mapping[str, Told]) -> None:
    """Writes down what `asked` reads."""
    Path(os.environ[TELL]).write_text(json.dumps(told), encoding="utf-8")


def asked(root: Path, config: Sequence[str]) -> dict[str, Told]:
    """What the rules in `root` tell each job, with these `--config` values. Raises UserError where they cannot say.

    Snakemake reads them in a folder of its own without results/, so that it writes nothing in `root`.
    """
    if not (root / "Snakefile").is_file():
        raise UserError("there is no Snakefile beside results/")
    if find_spec("snakemake") is None:
        raise UserError("Snakemake is not installed")
    with TemporaryDirectory(prefix="chord-rules-") as name:
        folder = Path(name)
        for part in root.resolve().iterdir():
            if part.name not in ("results", ".snakemake"):
                (folder / part.name).symlink_to(part)
        told = folder / "told.json"
        options = ["--list-rules", "--profile", "none", "--workflow-profile", "none"]
        options += ["--config", *config] if config else []
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *options],
            cwd=folder,
            # chord/ is a link, so what it compiles would be stored in `root`.
            env=os.environ | {TELL: str(told), "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not told.is_file():
            lines = (done.stderr or done.stdout).replace(f"{folder}/", "").splitlines()
            said = [line for line in lines if line.strip()]
            raise UserError(f"Snakemake cannot read the rules: {' '.join(said[-3:]) or 'it said nothing'}")
        return {key: Told(shell, tuple(reads)) for key, (shell, reads) in json.loads(told.read_bytes()).items()}
