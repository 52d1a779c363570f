"""What an experiment is: typed, frozen, unknown keys refused. Knows YAML; knows no torch and no results folder.

Every file under `config/` is read here and nowhere else. `load` checks all of them together and raises one
`ConfigError` that lists every problem as: file, key, what was found, what was expected.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")]


T = TypeVar("T")


class ConfigError(Exception):
    """One or more things in `config/` that cannot be run; the message lists all of them."""


class Frozen(BaseModel):
    """Base of every configuration record: immutable, strict about keys and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


# --- training recipe ---------------------------------------------------------------------------


class MuConstant(Frozen):
    """The same mu at every step; 0 is GRPO, 1 is SFT (arXiv:2508.11408, eq. 3)."""

    schedule: Literal["constant"] = "constant"
    value: Fraction


class MuDecay(Frozen):
    """Linear warm-up 0 -> peak, half cosine peak -> valley, then valley (arXiv:2508.11408, section 4.3)."""

    schedule: Literal["decay"]
    warmup_steps: CountOrNone = 0
    decay_steps: CountOrNone
    peak: Fraction
    valley: Fraction


class MuAdaptive(Frozen):
    """mu = max(0, threshold - mean reward of this step's rollouts) (arXiv:2508.11408, appendix B.1)."""

    schedule: Literal["adaptive"]
    threshold: Fraction


class MuGradientNorm(Frozen):
    """SASR: an SFT warm-up, then 0 or 1 per step, drawn from gradient norms (arXiv:2505.13026)."""

    schedule: Literal["gradient-norm"]
    warmup_steps: Count
    gamma: Positive


Mu = Annotated[MuConstant | MuDecay | MuAdaptive | MuGradientNorm, Field(discriminator="schedule")]


class WeightPlain(Frozen):
    """one: plain SFT. p: importance sampling / DFT (eq. 4). p(1-p): phi (eq. 5). entropy-norm: entropy / log V (B.2)."""

    weight: Literal["one", "p", "p(1-p)", "entropy-norm"]


class WeightEntropyTop(Frozen):
    """1 on the `share` most uncertain expert tokens of the global batch, else 0 (arXiv:2508.11408, B.2)."""

    weight: Literal["entropy-top"]
    share: Annotated[float, Field(gt=0, le=1)]


class WeightIsClip(Frozen):
    """p, and 0 where p exceeds `ceiling` (arXiv:2508.11408, B.2)."""

    weight: Literal["is-clip"]
    ceiling: Annotated[float, Field(gt=0, le=1)]


class WeightFocal(Frozen):
    """(1-p)^gamma (arXiv:2508.11408, B.2)."""

    weight: Literal["focal"]
    gamma: NotNegative


TokenWeight = Annotated[
    WeightPlain | WeightEntropyTop | WeightIsClip | WeightFocal, Field(discriminator="weight")
]


class Recipe(Frozen):
    """One arm that is trained: every value that decides its model and nothing else."""

    init: str
    method: Literal["chord", "luffy", "sasr"] = "chord"
    mu: Mu
    expert_tokens: TokenWeight = WeightPlain(weight="one")
    traces: Literal["expert", "aligned"] = "expert"
    steps: Count | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    learning_rate: Positive
    keep: Literal["best", "last"] = "best"
    reshape_gamma: Positive | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs` (epochs of the expert set)")
        if self.method == "luffy" and self.traces != "aligned":
            raise ValueError("method luffy needs `traces: aligned`: the expert answers the very prompts of the group")
        if (self.method == "luffy") != (self.reshape_gamma is not None):
            raise ValueError("`reshape_gamma` belongs to method luffy, and luffy needs it")
        if (self.method == "sasr") != (self.mu.schedule == "gradient-norm"):
            raise ValueError("method sasr and schedule gradient-norm belong together")
        if self.epochs is not None and not (isinstance(self.mu, MuConstant) and self.mu.value == 1):
            raise ValueError("`epochs` counts passes over the expert set, so it needs mu = 1; give `steps`")
        return self

    @property
    def needs_rollouts(self) -> bool:
        """Whether any step can sample from the policy."""
        return not (isinstance(self.mu, MuConstant) and self.mu.value == 1)

    @property
    def needs_experts(self) -> bool:
        """Whether any step can read expert traces."""
        return self.method == "luffy" or not (isinstance(self.mu, MuConstant) and self.mu.value == 0)


class Arm(Frozen):
    """One row of `config/arms.yaml`: a recipe, a choice between trained arms, or the untouched base model."""

    label: str
    note: str = ""
    recipe: Recipe | None = None
    choose: tuple[Name, ...] | None = None
    same_as: Literal["base"] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(part is not None for part in (self.recipe, self.choose, self.same_as)) != 1:
            raise ValueError("give exactly one of `recipe`, `choose` and `same_as`")
        return self


# --- study -------------------------------------------------------------------------------------


class Architecture(Frozen):
    """A Llama small enough to be trained by the study itself; field names are those of LlamaConfig."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    max_position_embeddings: Count


class Model(Frozen):
    """Where the base model comes from. `random` is trained by the DAG; `package` is unpacked from an installed wheel."""

    source: Literal["random", "package", "hub"]
    name: str
    revision: str | None = None
    architecture: Architecture | None = None
    alphabet: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.source == "random") != (self.architecture is not None and self.alphabet is not None):
            raise ValueError("source random needs `architecture` and `alphabet`; the other sources have neither")
        if self.source == "hub" and self.revision is None:
            raise ValueError("source hub needs `revision`, a full commit, so that the weights cannot change")
        return self


class Task(Frozen):
    """A generator of problems: a reasoning-gym dataset with its settings and the text that the policy is shown."""

    dataset: str
    settings: dict[str, int | float | str | bool | list[str]] = {}
    keep: Literal["all", "sums"] = "all"
    prompt: str


class Split(Frozen):
    """So many problems of one task."""

    task: Name
    size: Count


class Benchmark(Frozen):
    """A column of the tables: problems, the lm-eval task that asks them, and the paper's column beside it."""

    label: str
    problems: Split
    file: str
    paper_column: str | None = None


class CorpusPart(Frozen):
    """A share of the base model's training texts, in one style of answering."""

    task: Name
    style: Literal["terse", "worked", "checked"]
    share: Fraction


class BaseCorpus(Frozen):
    """What a `random` base model is trained on, and how; only studies whose model is trained by the DAG have one."""

    size: Count
    parts: tuple[CorpusPart, ...]
    recipe: Recipe
    rows_per_step: Count

    @model_validator(mode="after")
    def _shares(self) -> Self:
        total = sum(part.share for part in self.parts)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the shares of `parts` add up to {total:g}, expected 1")
        return self


class Expert(Frozen):
    """Who writes the expert traces. `scripted` is a written-out solver, named as such wherever it appears."""

    source: Literal["scripted"]
    name: str
    style: Literal["terse", "worked", "checked"]


class Data(Frozen):
    """Which problems the study uses; all splits and benchmarks are disjoint by prompt."""

    seed: int
    train: Split
    validation: Split
    expert: Split
    aligned_traces: bool


class Grading(Frozen):
    """How a text becomes an outcome and an outcome a reward; the same grader serves rewards, traces and scores."""

    grader: Literal["marked-text", "last-number", "math", "tool-call"]
    mark: str | None = None
    reward: Literal["paper-math", "shipped-math", "last-number-format", "binary"]

    @model_validator(mode="after")
    def _mark(self) -> Self:
        if (self.grader == "marked-text") != (self.mark is not None):
            raise ValueError("`mark` (the text before the final answer) belongs to grader marked-text, which needs it")
        return self


class Rollouts(Frozen):
    """One step's sampling."""

    prompts_per_step: Count
    per_prompt: Count
    max_response_tokens: Count
    max_prompt_tokens: Count
    temperature: Positive


class Optimiser(Frozen):
    """Adam; gradients are clipped by their global norm before the step."""

    beta1: Fraction
    beta2: Fraction
    epsilon: Positive
    weight_decay: NotNegative
    max_grad_norm: Positive
    warmup_steps: CountOrNone


class PolicyLoss(Frozen):
    """GRPO as in arXiv:2508.11408, eq. 2."""

    clip_low: Positive
    clip_high: Positive
    advantage_epsilon: Positive
    importance_cap: Positive | None = None


class Validation(Frozen):
    """Sampling on the validation set during training; it picks checkpoints, never the benchmarks."""

    every_steps: Count
    problems: Count
    samples_per_problem: Count


class Execution(Frozen):
    """How the machine is used. Values here may move the last bits of a result, never its definition."""

    compute_dtype: Literal["float32", "bfloat16", "float64"]
    cpu_threads: Count
    micro_batch_tokens: Count
    sampler_rows: Count
    logit_chunk_tokens: Count
    deterministic: bool
    checkpoint_every_steps: Count
    checkpoint_every_minutes: Positive


class Study(Frozen):
    """One place where every arm can run: a model, its data, its budgets, its benchmarks."""

    name: Name
    title: str
    seeds: tuple[CountOrNone, ...]
    model: Model
    tasks: dict[Name, Task]
    data: Data
    base_corpus: BaseCorpus | None = None
    expert: Expert
    grading: Grading
    rollouts: Rollouts
    expert_rows_per_step: Count
    optimiser: Optimiser
    policy_loss: PolicyLoss
    validation: Validation
    benchmarks: dict[Name, Benchmark]
    budget: dict[str, int | float]
    execution: Execution

    @model_validator(mode="after")
    def _refers_to_what_exists(self) -> Self:
        wanted = {f"data.{k}": getattr(self.data, k).task for k in ("train", "validation", "expert")}
        wanted |= {f"benchmarks.{k}.problems": b.problems.task for k, b in self.benchmarks.items()}
        if self.base_corpus:
            wanted |= {f"base_corpus.parts[{i}]": p.task for i, p in enumerate(self.base_corpus.parts)}
        for where, task in wanted.items():
            if task not in self.tasks:
                raise ValueError(f"{where}.task is '{task}', {_expected(task, self.tasks)}")
        if (self.model.source == "random") != (self.base_corpus is not None):
            raise ValueError("`base_corpus` belongs to model.source random, which needs it")
        if self.validation.problems > self.data.validation.size:
            raise ValueError(
                f"validation.problems is {self.validation.problems}, expected at most data.validation.size"
                f" = {self.data.validation.size}"
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds is {list(self.seeds)}, expected at least one and no repeats")
        return self


# --- artefacts ---------------------------------------------------------------------------------


class Paper(Frozen):
    """What the paper reports; a missing cell was not published or not found."""

    model: str
    cells: dict[str, dict[str, float]] = {}
    claim: str = ""


class Table(Frozen):
    """A table of the paper: rows are arms, columns are the study's benchmarks."""

    kind: Literal["table"]
    title: str
    arms: tuple[Name, ...]
    benchmarks: tuple[Name, ...] | None = None
    paper: Paper


class Panel(Frozen):
    """One set of axes. `metric` is a dotted key of metrics.jsonl; `smooth_steps` is a centred moving mean."""

    metric: str
    label: str
    smooth_steps: Count = 1
    share_of_one: bool = False


class Figure(Frozen):
    """A figure of the paper: one curve an arm, mean over seeds with a band."""

    kind: Literal["figure"]
    title: str
    arms: tuple[Name, ...]
    x: Literal["step", "epoch"]
    panels: tuple[Panel, ...]
    paper: Paper


Artefact = Annotated[Table | Figure, Field(discriminator="kind")]


class Choice(Frozen):
    """config/config.yaml: what to build, and nothing about how."""

    study: Name
    artefacts: tuple[Name, ...]
    seeds: tuple[CountOrNone, ...] | None = None


# --- what training is told ---------------------------------------------------------------------


class Run(Frozen):
    """run.json: all that training is told. Labels and the paper's numbers are not in it."""

    study: Name
    arm: Name
    seed: CountOrNone
    recipe: Recipe
    model: Model | None
    rollouts: Rollouts
    expert_rows_per_step: Count
    grading: Grading
    optimiser: Optimiser
    policy_loss: PolicyLoss
    validation: Validation
    execution: Execution

    @classmethod
    def read(cls, path: Path) -> Self:
        """The run in a run.json; raises ConfigError naming the file and every bad key."""
        return _validated(TypeAdapter(cls), _read_json(path), str(path))


class Project(Frozen):
    """Everything under config/, checked together, for one study."""

    study: Study
    arms: dict[Name, Arm]
    artefacts: dict[Name, Artefact]
    choice: Choice

    @property
    def seeds(self) -> tuple[int, ...]:
        """Training seeds: those of config.yaml if given, else the study's."""
        return self.choice.seeds or self.study.seeds

    def run(self, arm: str, seed: int) -> Run:
        """What training is told for `arm` and `seed`; `base` is the study's own base model."""
        study = self.study
        if arm == "base":
            assert study.base_corpus is not None, "only a random model is trained by the DAG"
            recipe, rows, model = study.base_corpus.recipe, study.base_corpus.rows_per_step, study.model
        else:
            found = self.arms[arm].recipe
            assert found is not None, f"{arm} is not trained"
            recipe, rows, model = found, study.expert_rows_per_step, None
        shared = ("rollouts", "grading", "optimiser", "policy_loss", "validation", "execution")
        return Run(
            study=study.name,
            arm=arm,
            seed=seed,
            recipe=recipe,
            model=model,
            expert_rows_per_step=rows,
            **{name: getattr(study, name) for name in shared},
        )


# --- reading -----------------------------------------------------------------------------------


def load(root: Path, study: str | None = None, seeds: tuple[int, ...] | None = None) -> Project:
    """All of `root`/config for one study (default: the one of config.yaml). Raises ConfigError; writes nothing."""
    folder = root / "config"
    problems: list[str] = []

    def read(adapter: TypeAdapter[T], raw: Any, where: str) -> T | None:
        try:
            return _validated(adapter, raw, where)
        except ConfigError as error:
            problems.append(str(error))
            return None

    choice_raw = _read_yaml(folder / "config.yaml")
    if isinstance(choice_raw, dict):
        choice_raw |= {"study": study} if study else {}
        choice_raw |= {"seeds": list(seeds)} if seeds else {}
    choice = _validated(TypeAdapter(Choice), choice_raw, "config/config.yaml")
    known = sorted(path.stem for path in (folder / "studies").glob("*.yaml"))
    if choice.study not in known:
        raise ConfigError(f"config/config.yaml: study is '{choice.study}', {_expected(choice.study, known)}")

    study_file = f"config/studies/{choice.study}.yaml"
    raw_study = _read_yaml(root / study_file)
    budget = raw_study.get("budget", {}) if isinstance(raw_study, dict) else {}
    try:
        resolved = _resolve_budget(raw_study, budget, study_file)
    except ConfigError as error:
        raise ConfigError(str(error)) from None
    loaded = read(TypeAdapter(Study), resolved, study_file)

    arms: dict[str, Arm] = {}
    raw_arms = _read_yaml(folder / "arms.yaml")
    if not isinstance(raw_arms, dict):
        raise ConfigError(f"config/arms.yaml: found {_kind(raw_arms)}, expected a mapping from arm to recipe")
    for name, raw in raw_arms.items():
        where = f"config/arms.yaml: {name}"
        try:
            arm = read(TypeAdapter(Arm), _resolve_budget(raw, budget, where), where)
        except ConfigError as error:
            problems.append(str(error))
            continue
        if arm is not None:
            arms[str(name)] = arm

    artefacts: dict[str, Artefact] = {}
    for path in sorted((folder / "experiments").glob("*.yaml")):
        where = f"config/experiments/{path.name}"
        artefact = read(TypeAdapter(Artefact), _read_yaml(path), where)
        if artefact is not None:
            artefacts[path.stem] = artefact

    if not problems and loaded is not None:
        problems += _crossed(loaded, arms, artefacts, choice, root)
    if problems or loaded is None:
        raise ConfigError("\n".join(problems))
    return Project(study=loaded, arms=arms, artefacts=artefacts, choice=choice)


def _crossed(
    study: Study, arms: Mapping[str, Arm], artefacts: Mapping[str, Artefact], choice: Choice, root: Path
) -> Iterator[str]:
    """Problems that no single file shows: names that do not exist, circles, methods without their data."""
    used = {name for key in choice.artefacts if key in artefacts for name in artefacts[key].arms}
    for name, arm in arms.items():
        where = f"config/arms.yaml: {name}"
        for chosen in arm.choose or ():
            if chosen not in arms or arms[chosen].recipe is None:
                trained = [key for key, other in arms.items() if other.recipe]
                yield f"{where}.choose names '{chosen}', {_expected(chosen, trained)}"
        if arm.recipe is None:
            continue
        if arm.recipe.init not in (*arms, "base"):
            yield f"{where}.recipe.init is '{arm.recipe.init}', {_expected(arm.recipe.init, ['base', *arms])}"
        elif circle := _circle(name, arms):
            yield f"{where}.recipe.init: {' -> '.join(circle)} starts from itself, expected a chain that ends at base"
        if arm.recipe.needs_rollouts and study.rollouts.per_prompt < 2:
            yield (
                f"config/studies/{study.name}.yaml: rollouts.per_prompt is {study.rollouts.per_prompt}, expected at"
                f" least 2: arm '{name}' compares the rollouts of one prompt with each other"
            )
        if arm.recipe.traces == "aligned" and not study.data.aligned_traces and name in used:
            yield (
                f"{where}.recipe.traces is 'aligned', but config/studies/{study.name}.yaml has data.aligned_traces:"
                " false; expected a study whose training prompts have expert traces of their own"
            )
    for key in choice.artefacts:
        if key not in artefacts:
            yield f"config/config.yaml: artefacts names '{key}', {_expected(key, artefacts)}"
    for key, artefact in artefacts.items():
        where = f"config/experiments/{key}.yaml"
        for name in artefact.arms:
            if name not in arms:
                yield f"{where}: arms names '{name}', {_expected(name, arms)}"
        for name in (artefact.benchmarks or ()) if isinstance(artefact, Table) else ():
            if name not in study.benchmarks:
                yield f"{where}: benchmarks names '{name}', {_expected(name, study.benchmarks)}"
    for name, benchmark in study.benchmarks.items():
        if not (root / "config" / "benchmarks" / benchmark.file).is_file():
            have = [path.name for path in (root / "config" / "benchmarks").glob("*.yaml")]
            yield (
                f"config/studies/{study.name}.yaml: benchmarks.{name}.file is '{benchmark.file}',"
                f" {_expected(benchmark.file, have)}"
            )


def _circle(start: str, arms: Mapping[str, Arm]) -> list[str] | None:
    """The chain of starting models from `start` if it comes back to an arm already on it."""
    open_ends: list[list[str]] = [[start]]
    while open_ends:
        chain = open_ends.pop()
        arm = arms.get(chain[-1])
        if arm is None:
            continue
        for following in arm.choose or ((arm.recipe.init,) if arm.recipe else ()):
            if following in chain:
                return [*chain, following]
            open_ends.append([*chain, following])
    return None


def _resolve_budget(raw: Any, budget: Mapping[str, Any], where: str) -> Any:
    """`raw` with every string `budget.KEY` replaced by the study's value for KEY."""
    if isinstance(raw, dict):
        return {key: _resolve_budget(value, budget, f"{where}.{key}") for key, value in raw.items()}
    if isinstance(raw, list):
        return [_resolve_budget(value, budget, where) for value in raw]
    if isinstance(raw, str) and (match := re.fullmatch(r"budget\.(\w+)", raw)):
        if match[1] not in budget:
            raise ConfigError(f"{where} is '{raw}', but the study's budget has no '{match[1]}', {_expected(match[1], budget)}")
        return budget[match[1]]
    return raw


def _validated(adapter: TypeAdapter[T], raw: Any, where: str) -> T:
    """`raw` as a typed record, or a ConfigError with one line a problem."""
    try:
        return adapter.validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(_explained(item, adapter, where) for item in error.errors())) from None
    except TypeError as error:
        raise ConfigError(f"{where}: found a value that JSON cannot hold ({error}), expected text, numbers, lists") from None


def _explained(item: Any, adapter: TypeAdapter[Any], where: str) -> str:
    """One pydantic error in our words: place, what was found, what was expected."""
    tags = {"table", "figure", "constant", "decay", "adaptive", "gradient-norm"}
    weights = {tag for part in get_args(get_args(TokenWeight)[0]) for tag in get_args(part.model_fields["weight"].annotation)}
    key = ".".join(str(part) for part in item["loc"] if part not in tags | weights)
    found = item["input"]
    if item["type"] == "extra_forbidden":
        name = str(item["loc"][-1])
        return f"{where}: {key} is not a key here, {_expected(name, _known_keys(adapter, item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"{where}: {key} is missing, expected a value"
    shown = json.dumps(found, ensure_ascii=False, default=str)
    shown = shown if len(shown) < 120 else shown[:117] + "..."
    message = item["msg"].removeprefix("Value error, ")
    return f"{where}: {key + ' is ' if key else ''}{shown if key else ''}{', expected: ' if key else ''}{message}"


def _known_keys(adapter: TypeAdapter[Any], loc: tuple[Any, ...]) -> list[str]:
    """The keys that the record at `loc` accepts, read from the JSON schema."""
    schema = adapter.json_schema()
    definitions = schema.get("$defs", {})

    def follow(node: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in node:
            return follow(definitions[node["$ref"].rsplit("/", 1)[1]])
        options = [*node.get("anyOf", []), *node.get("oneOf", [])]
        return [leaf for option in options for leaf in follow(option)] if options else [node]

    nodes = follow(schema)
    for part in loc:
        below: list[dict[str, Any]] = []
        for node in nodes:
            if isinstance(part, str) and part in node.get("properties", {}):
                below += follow(node["properties"][part])
            elif isinstance(part, str) and isinstance(node.get("additionalProperties"), dict):
                below += follow(node["additionalProperties"])
            elif isinstance(part, int) and isinstance(node.get("items"), dict):
                below += follow(node["items"])
            elif any(values.get("const") == part or part in values.get("enum", []) for values in node.get("properties", {}).values()):
                below.append(node)
        nodes = below or nodes
    return sorted({name for node in nodes for name in node.get("properties", {})})


def _expected(found: str, known: Any) -> str:
    """'did you mean' for a name, with the whole list when it is short."""
    names = [str(name) for name in known]
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    listed = ", ".join(names) if len(names) <= 30 else f"one of {len(names)}"
    return f"expected {('`' + near[0] + '` (nearest) or ') if near else ''}one of: {listed or 'nothing, none is defined'}"


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _read_yaml(path: Path) -> Any:
    shown = f"{path.parent.parent.name}/{path.parent.name}/{path.name}" if path.parent.name != "config" else f"config/{path.name}"
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except FileNotFoundError:
        raise ConfigError(f"{shown}: found no such file, expected a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown}: found text that is not YAML, expected YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{shown}: found {_kind(value)}, expected a mapping of keys to values")
    return value


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: found no such file, expected a run.json") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: found text that is not JSON ({error}), expected a whole run.json") from None


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice, and reads 1e-6 as the number it looks like."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)
