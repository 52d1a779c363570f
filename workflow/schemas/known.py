"""Writes chord/config/known.json, what the installed packages know by name: `python workflow/schemas/known.py`.

Names in config/ are checked against it, so that Snakemake's own process, which has none of these packages, can tell a
misspelt one before any job. A test holds it in step with the packages that are installed.
"""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "chord" / "config" / "known.json"
sys.path.insert(0, str(ROOT))

KINDS = {int: "int", float: "float", bool: "bool", str: "str", list[str]: "list"}
OURS = ("seed", "size")  # settings of a generator that this project gives itself
ITEMS = 3  # of a generator that are looked at for the facts that all of its items have


def known() -> str:
    """The content of the file."""
    found = {"lm_eval": _lm_eval(), "generators": dict(_generators()), "words": _words(), "bfcl": _bfcl()}
    return json.dumps(found | {"vllm": _vllm()}, indent=1) + "\n"


def _lm_eval() -> list[str]:
    """The keys of a task."""
    from lm_eval.config.task import TaskConfig

    return [field.name for field in dataclasses.fields(TaskConfig)]


def _generators() -> Iterator[tuple[str, Any]]:
    """By name of a dataset of reasoning-gym: settings with kind, default and least value; facts of every item."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    for name, (_, config) in sorted(DATASETS.items()):
        fields = [field for field in dataclasses.fields(config) if field.name not in OURS]
        if name == "composite":
            continue  # its settings are other datasets, which no setting here can say
        settings = {field.name: [KINDS.get(field.type), _default(field), _least(config, field)] for field in fields}
        dataset = reasoning_gym.create_dataset(name, seed=1, size=ITEMS)
        facts = set.intersection(*({*dataset[place]["metadata"]} for place in range(ITEMS)))
        yield name, {"settings": settings, "facts": sorted({*facts, "question"})}


def _default(field: Any) -> Any:
    return field.default if isinstance(field.default, int | float | str | bool) else None


def _least(config: Any, field: Any) -> int | None:
    """The least of -1 to 3 that the dataset takes for a number; None if it takes all of them, or more decides it."""
    if field.type not in (int, float) or field.name.startswith("max_") or _default(field) is None:
        return None
    tried = [number for number in range(-1, 4) if number <= field.default and _takes(config, field.name, number)]
    return min(tried) if tried and min(tried) > -1 else None


def _takes(config: Any, name: str, value: float) -> bool:
    try:
        getattr(config(**{name: value}), "validate", bool)()  # a few datasets take everything
    except (AssertionError, ValueError, TypeError, ZeroDivisionError):
        return False
    return True


def _words() -> dict[str, int]:
    """By length: different words that the dataset spell_backward may ask for, in small letters."""
    import reasoning_gym

    words = reasoning_gym.create_dataset("spell_backward", min_word_len=1, max_word_len=100).words
    return {str(length): count for length, count in sorted(Counter(map(len, {word.lower() for word in words})).items())}


def _bfcl() -> dict[str, int]:
    """The items of each category."""
    from chord.grading.tool_calls import BFCL_CATEGORIES, bfcl_items

    return {category: sum(1 for _ in bfcl_items([category], "")) for category in BFCL_CATEGORIES}


def _vllm() -> dict[str, Any]:
    """The options of its engine; a build for CPUs has those of the release."""
    from chord.sampling.vllm_server import engine_options, vllm_version

    return {"version": vllm_version().partition("+")[0], "options": sorted(engine_options())}


if __name__ == "__main__":
    FILE.write_text(known(), encoding="utf-8")
