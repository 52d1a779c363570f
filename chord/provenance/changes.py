"""What decides a job, when it ran and today: its code, its settings, its pins, the command of its rule.

Commands are compared by what they mean: verb, flags and values, in any order of the flags; files by their place in the
study. Flags that only say how a machine is used do not count, nor does what launches the verb. A file that a verb finds
by itself, as a table finds its scores, is not in a command: code and settings decide it.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from os.path import isabs, join, normpath
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from chord.provenance import environment as env
from chord.provenance.digest import PROJECT, JobCode, contents, job_code
from chord.provenance.manifest import Code, JobSpec, Manifest, as_plain

SHOWN_CHARACTERS = 60


class Change(NamedTuple):
    """One thing that is not as it was. `what`: code, settings, pins, command, reads, input, output or manifest."""

    what: str
    where: str
    old: str
    new: str

    def __str__(self) -> str:
        """A clause, such as `settings task.repeats: 4 -> 8`."""
        return f"{self.what} {self.where}: {self.old} -> {self.new}"


class Told(NamedTuple):
    """What a rule gives one job: its shell command, and the files that it names as inputs."""

    shell: str
    reads: tuple[str, ...]


@dataclass(frozen=True)
class Today:
    """What the project says today of the jobs of a study, by manifest (or run.json) relative to the study.

    `root` holds chord/ and envs/. `kept`: see `package_of`.
    """

    specs: Mapping[str, JobSpec] = field(default_factory=dict[str, JobSpec])
    run_texts: Mapping[str, str] = field(default_factory=dict[str, str])
    told: Mapping[str, Told] = field(default_factory=dict[str, Told])
    root: Path = PROJECT
    kept: Path | None = None
    _pins: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])

    def text(self, key: str) -> str | None:
        """What a run.json should hold: what its rule prints where that is known."""
        printed = text_of(self.told[key]) if key in self.told else None
        return self.run_texts.get(key) if printed is None else printed

    def changes(self, key: str, manifest: Manifest, results: str) -> list[Change]:
        """What of code, settings, pins and command is not as the manifest recorded it; `results`: see `Told`."""
        spec, told = self.specs.get(key), self.told.get(key)
        found = [*self._spec_changes(manifest, spec)] if spec else []
        return found + ([*command_changes(manifest, told, results)] if told else [])

    def _spec_changes(self, manifest: Manifest, spec: JobSpec) -> Iterator[Change]:
        """What of code, settings and pins is not as the manifest recorded it."""
        if (manifest.verb, manifest.step) != (spec.verb, spec.step):
            yield Change("manifest", "verb", f"{manifest.verb} ({manifest.step})", f"{spec.verb} ({spec.step})")
            return
        yield from _code_changes(manifest.code, job_code(spec.verb, spec.uses, self.root, self.kept))
        yield from differences("settings", manifest.decided_by, as_plain(spec.decided_by))
        if spec.step not in self._pins:
            self._pins[spec.step] = env.pinned(self.root, spec.step)
        if manifest.installed.pinned != (pinned := self._pins[spec.step]):
            files = " or ".join(f"envs/{part}.txt" for part in spec.step.split("+"))
            yield from differences(f"pin in {files} of", manifest.installed.pinned, pinned)


# --- plain data ----------------------------------------------------------------------------------


class _Absent:
    """Stands where one side has no such key."""


ABSENT = _Absent()


Plain: TypeAlias = Mapping[Any, Any] | list[Any] | str | float | _Absent | None


def differences(what: str, old: Plain, new: Plain, where: str = "") -> list[Change]:
    """Every place where two pieces of plain data differ, as dotted keys."""
    if old == new and repr(old) == repr(new):  # alone, `==` takes 1 for True
        return []
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        parts = {key: (old.get(key, ABSENT), new.get(key, ABSENT)) for key in dict.fromkeys([*old, *new])}
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        parts = dict(enumerate(zip(old, new, strict=True)))
    elif old == new and isinstance(old, bool) is isinstance(new, bool):
        return []
    else:
        return [Change(what, where or "as a whole", _shown(old), _shown(new))]
    return [one for key, pair in parts.items() for one in differences(what, *pair, f"{where}.{key}".lstrip("."))]


def _shown(value: Any) -> str:
    if value is ABSENT:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


# --- code ----------------------------------------------------------------------------------------


def _code_changes(then: Code, now: JobCode) -> Iterator[Change]:
    if then.digest != now.digest:
        found = list(code_differences(then.definitions, now.definitions))
        yield from found or [Change("code", "which definition uses which", then.digest[:8], now.digest[:8])]


def code_differences(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Change]:
    """How the definitions of two `JobCode`s differ. One that was only moved to another module does not."""

    def moved(definition: tuple[str, str]) -> tuple[str, str]:
        return definition[0].rpartition(".")[2], definition[1]

    old, new = contents(then), contents(now)
    same = {moved(one) for one in old.items()} & {moved(one) for one in new.items()}
    old, new = ({name: one for name, one in some.items() if moved((name, one)) not in same} for some in (old, new))
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield Change("code", name, old.get(name, "nothing"), new.get(name, "nothing"))


# --- commands ------------------------------------------------------------------------------------

# Values of these flags decide no result.
HOW_NOT_WHAT = frozenset(
    {"--threads", "--checkpoint-every-steps", "--checkpoint-every-minutes", "--state", "--ahead", "--root"}
)
UNORDERED = frozenset({"--benchmarks", "--apart-from"})  # the same is asked of each of these files
LAUNCHES = "chord launch"  # the verb comes after it
QUOTED = "\0"  # stands for a quoted text
_BLANKS = re.compile(r"[ \t\r\n]+")
_SEPARATOR = re.compile(r"\|\|?|&&?|;")
_REDIRECT = re.compile(r"(?:\d*|&)(?:>>?|<)(.*)", re.DOTALL)


def text_of(told: Told) -> str | None:
    """What a rule prints into its output, as into run.json; None for a rule that runs a verb."""
    words = _commands(told.shell)[0]
    return words[2] if words[:2] == ["printf", r"%s\n"] and len(words) == 3 else None


def verb_of(shell: str) -> tuple[str | None, list[str]]:
    """The verb that a shell command runs and its words; None where it runs none of this project's."""
    for words in _commands(shell):
        for at in range(len(words) - 1, 0, -1):
            verb = " ".join(words[at : at + 2])
            if words[at - 1] == "-m" and words[at] == "chord" and verb != LAUNCHES:
                return verb, words[at + 2 :]
    return None, []


def command_changes(manifest: Manifest, told: Told, results: str) -> Iterator[Change]:
    """How the command of a rule differs from the recorded one; `results` is results/STUDY, as rules write it."""
    verb, words = verb_of(told.shell)
    if verb is None:
        return
    if verb != manifest.verb:
        yield Change("command", "verb", manifest.verb, verb)
        return
    was = _flags(manifest.command[4:], manifest.folder, results)
    if was == _flags(words, ".", results):
        return
    now = _flags(env.scrubbed_command(words), ".", results)
    reads = {_place(path, ".", results) for path in told.reads} | {one.path for one in manifest.inputs.values()}
    for flag in dict.fromkeys([*was, *now]):
        old, new = was.get(flag), now.get(flag)
        if not _same(flag, old, new):
            is_read = not reads.isdisjoint((*(old or ()), *(new or ())))
            what, where = ("reads", flag.removeprefix("--")) if is_read else ("command", flag or "words")
            # The values of one side alone; where only their order differs, all.
            gone, come = (
                [one for one in old or () if one not in (new or ())],
                [one for one in new or () if one not in (old or ())],
            )
            if old and new and not gone and not come:
                gone, come = [*old], [*new]
            yield Change(what, where, _said(old, gone), _said(new, come))


def _said(values: tuple[str, ...] | None, some: list[str]) -> str:
    return " ".join(some) or ("nothing" if values is None or values else "given")


@cache
def _commands(shell: str) -> tuple[list[str], ...]:
    """The simple commands of a shell text, word by word, without redirects; callers must not change them."""
    commands: list[list[str]] = [[]]
    waiting = iter(words_of(shell))
    for word in waiting:
        if _SEPARATOR.fullmatch(word):
            commands.append([])
        elif not (redirect := _REDIRECT.fullmatch(word)):
            commands[-1].append(word)
        elif not redirect[1]:
            next(waiting, None)
    return tuple(commands)


def words_of(shell: str) -> list[str]:
    """What `shlex.split` gives, in a thirtieth of the time where nothing but `'` quotes, as in what rules tell jobs."""
    outside, inside = shell.split("'")[::2], iter(shell.split("'")[1::2])
    text = QUOTED.join(outside)
    if shell.count("'") % 2 or text.count(QUOTED) >= len(outside) or any(one in text for one in '"\\'):
        return shlex.split(shell)
    return [re.sub(QUOTED, lambda _: next(inside), word) for word in _BLANKS.split(text) if word]


def _flags(words: tuple[str, ...] | list[str], folder: str, results: str) -> dict[str, tuple[str, ...]]:
    """All values by flag; what comes before the first flag is under ""."""
    found: dict[str, tuple[str, ...]] = {}
    flag = ""
    for word in words:
        value: str | None = word
        if word.startswith("--"):
            flag, given, value = word.partition("=")
            found.setdefault(flag, ())
            value = value if given else None
        if value is not None:
            found[flag] = (*found.get(flag, ()), _place(value, folder, results))
    return {flag: values for flag, values in found.items() if flag not in HOW_NOT_WHAT}


def _place(word: str, folder: str, results: str) -> str:
    """A path relative to the study, or to the working folder; any other word as it is."""
    if "/" not in word:
        return word
    path = normpath(join(folder, word))
    _, is_within, place = f"/{path}".rpartition(f"/{results}/")
    return place if is_within else path


def _same(flag: str, old: tuple[str, ...] | None, new: tuple[str, ...] | None) -> bool:
    """Whether two lists of values mean the same. A removed secret equals any; an absolute path may have moved."""
    if old is None or new is None or len(old) != len(new):
        return old is new
    pairs = zip(sorted(old), sorted(new), strict=True) if flag in UNORDERED else zip(old, new, strict=True)
    return all(a == b or env.REMOVED in a or (isabs(a) and a.endswith(f"/{b}")) for a, b in pairs)
