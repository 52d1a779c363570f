"""Names that installed packages know, from known.json, which `python workflow/schemas/known.py` writes."""

import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("known.json")


@cache
def known(what: str) -> Any:
    """`lm_eval`: keys of a task. `generators`: by name, their `settings` (kind, default, least) and `facts`.

    `words`: how many words spell_backward has, by length. `bfcl`: items by category. `vllm`: its `version`
    and the `options` of its engine.
    """
    return json.loads(FILE.read_text(encoding="utf-8"))[what]
