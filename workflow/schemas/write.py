"""Writes the JSON schemas beside this file from the typed records: `python workflow/schemas/write.py`, from the root.

They are for editors and other programs; the project itself checks with chord.config and, for manifests, with
chord.provenance.manifest. A test holds them in step.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from chord.config.benchmarks import BenchmarkTask  # noqa: E402  likewise
from chord.config.paper import Artefact, Choice, Claims  # noqa: E402  likewise
from chord.config.project import Run  # noqa: E402  likewise
from chord.config.recipe import Arm  # noqa: E402  likewise
from chord.config.study import Study  # noqa: E402  the path must be set first
from chord.provenance.manifest import Manifest  # noqa: E402  likewise

BUDGET = {"type": "string", "pattern": r"^budget\.\w+$", "description": "the study's value of this name in `budget`"}


def schemas() -> dict[str, str]:
    """The content of every schema file, by name."""
    found = {
        "config": ("config/config.yaml", _schema(Choice)),
        "arms": ("config/arms.yaml", _with_budget(_schema(dict[str, Arm]))),
        "study": ("config/studies/*.yaml", _with_budget(_schema(Study))),
        "experiment": ("config/experiments/*.yaml", _schema(Artefact)),
        "benchmark": ("config/benchmarks/*.yaml", _schema(BenchmarkTask)),
        "claims": ("config/claims.yaml", _schema(Claims)),
        "run": ("results/*/runs/*/*/run.json", _schema(Run)),
        "manifest": ("results/**/*.manifest.json", _schema(Manifest)),
    }
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {
        f"{name}.schema.json": json.dumps({"$schema": draft, **schema, "title": title}, indent=2) + "\n"
        for name, (title, schema) in found.items()
    }


def _schema(kind: Any) -> dict[str, Any]:
    return TypeAdapter(kind).json_schema()


def _with_budget(node: Any) -> Any:
    """The schema with `budget.KEY` allowed wherever a number is."""
    if isinstance(node, list):
        return [_with_budget(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") in ("number", "integer"):
        return {"anyOf": [node, BUDGET]}
    return {key: _with_budget(value) for key, value in node.items()}


if __name__ == "__main__":
    for name, text in schemas().items():
        (HERE / name).write_text(text, encoding="utf-8")
