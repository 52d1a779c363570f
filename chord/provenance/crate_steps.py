"""Which rule of the workflow ran a verb: read from the text of the rules, without Snakemake. Knows no study.

Read are the verb (`python -m chord VERB`), the manifest it is told to write, the environment file, the message. A rule
that runs no verb, or writes no manifest, leaves no record of its own and is no step here.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_RULE = re.compile(r"^(?:rule|checkpoint)\s+(\w+)\s*:", re.MULTILINE)
_INCLUDE = re.compile(r"^include:\s*\"([^\"]+)\"", re.MULTILINE)
_VERB = re.compile(r"-m\s+(chord\s+[a-z-]+)")
_MANIFEST = re.compile(r"\bmanifest=\"results/\{+study\}+/([^\"]+)\"")
# A file, or `environment("STEP")` of workflow/rules/common.smk: the step's, which has its pins.
_ENVIRONMENT = re.compile(r"^\s*conda:\s*(?:\"(?:\.\./)*envs/|environment\(\")(\w+)", re.MULTILINE)
_MESSAGE = re.compile(r"^\s*message:\s*\"([^\"]+)\"", re.MULTILINE)
_FLAG = re.compile(r"(?<=[\s\"])--[a-z-]+(?=[\s\"])")
_WILDCARD = re.compile(r"\{+\w+\}+")


@dataclass(frozen=True)
class Step:
    """One rule: `position` counts from 1 in the order of the rules, `manifest` is a pattern for paths in the study."""

    name: str
    position: int
    verb: str
    manifest: re.Pattern[str] | None
    environment: str | None
    message: str
    flags: frozenset[str] = frozenset()  # that its command always has


def steps_of(project: Path) -> list[Step]:
    """The rules that run a verb, in the order in which the Snakefile includes them."""
    snakefile = project / "Snakefile"
    texts = [(project / name).read_text("utf-8") for name in _INCLUDE.findall(snakefile.read_text("utf-8"))]
    rules = [rule for text in texts for rule in _rules(text)]
    return [step for position, (name, body) in enumerate(rules, start=1) for step in _step(name, body, position)]


def step_for(steps: list[Step], verb: str, manifest: str, command: Collection[str] = ()) -> Step:
    """The rule that has `verb` write `manifest` (a path in the study); one named after the verb where none does.

    Of several such rules it is the one that gives most of the command's flags, and fewest that the command lacks.
    """
    fitting = [one for one in steps if one.verb == verb and one.manifest and one.manifest.fullmatch(manifest)]
    if fitting:
        words = set(command)
        return max(fitting, key=lambda one: (one.flags <= words, len(one.flags & words), -len(one.flags - words)))
    same_verb = [step for step in steps if step.verb == verb]
    if len(same_verb) == 1:
        return same_verb[0]
    last = max((step.position for step in steps), default=0)
    return Step(f"{verb} without a rule", last + 1, verb, None, None, f"{verb}, started by hand")


def _rules(text: str) -> list[tuple[str, str]]:
    found = list(_RULE.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)]
    return [(match[1], text[match.end() : end]) for match, end in zip(found, ends, strict=False)]


def _step(name: str, body: str, position: int) -> list[Step]:
    verb, manifest = _VERB.search(body), _MANIFEST.search(body)
    if verb is None or manifest is None:
        return []
    environment, message = _ENVIRONMENT.search(body), _MESSAGE.search(body)
    said = re.sub(r"\{\w+\.(\w+)\}", r"{\1}", message[1]) if message else ""
    pattern = "[^/]+".join(map(re.escape, _WILDCARD.split(manifest[1])))
    found = f"envs/{environment[1]}.yaml" if environment else None
    return [Step(name, position, verb[1], re.compile(pattern), found, said, frozenset(_FLAG.findall(body)))]
