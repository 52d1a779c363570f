"""What the rules of workflow/ tell each job today, beside what it was told when it ran. Knows no Snakemake.

The command of a verb and the files in it are in its manifest. Compared are the verb, its flags and their values, in any
order of the flags; files by where they lie in the study. Words that say how a machine is used are left out, and so is
all that stands around the verb: what launches it, variables, redirects. A file that a verb finds by itself, as a table
finds its scores, is no word of a command: code and settings decide it.
"""

import re
import shlex
from collections.abc import Mapping
from functools import cache
from os.path import isabs, join, normpath
from pathlib import Path
from typing import Any, NamedTuple

from chord.provenance.environment import REMOVED, scrubbed_command
from chord.provenance.freshness import Change, read

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
