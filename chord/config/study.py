"""Arms with their recipes; studies, each one model with its data, budgets and benchmarks; inputs of `chord plan`."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from pydantic import Field, TypeAdapter

from chord.config.reading import entries_of, read_yaml, validated
from chord.errors import expected
from chord.objective import MU_SCHEDULES, TOKEN_WEIGHTS, MuSchedule, TokenWeight, WeightOne
from chord.reach import OneOf
from chord.settings import (
    Below1,
    Count,
    CountOrNone,
    Frozen,
    Minutes,
    Name,
    Names,
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
    default,
    quiet,
)

# --- recipes ------------------------------------------------------------------------------------

# Adam moves each weight by about the learning rate in a step; weights are far below 1.
HIGHEST_RATE = 1.0


Mu = Annotated[MuSchedule, OneOf(MU_SCHEDULES, "schedule")]
Traces = Annotated[str, Field(pattern=r"^(expert|aligned|expert-[a-z0-9.+-]+)$")]
ExpertWeight = Annotated[TokenWeight, OneOf(TOKEN_WEIGHTS, "weight")]


class Recipe(Frozen):
    """Every value that decides the model of an arm, and nothing else.

    `luffy`: expert traces join the rollouts of their prompt. `sasr`: see schedule `gradient-norm`. `expert` traces are
    the expert set, `aligned` ones answer each training prompt (luffy). `last`: the weights of the last step. `best`:
    those with the highest validation accuracy, not where µ is constant at 1. `every`: those of the last step and of
    every validation, to be chosen from later, only where µ is constant at 1.
    """

    init: str = Field(description="model to start from: `base`, `base-NAME` or an arm (section 4.1; B.5)")
    method: Literal["chord", "luffy", "sasr"] = default("chord", "how expert and rollouts are joined (section 4.1)")
    mu: Mu = Field(description="weight of the imitation loss: (1 - µ) · RL + µ · SFT (eq. 3)")
    expert_tokens: ExpertWeight = default(WeightOne(), "how much each expert token counts (eq. 4, 5, B.2)")
    traces: Traces = default("expert", "which expert traces (B.3, D.3)")
    steps: Steps | None = default(None, "updates; exactly one of it and `epochs` (A.1: 1500 at most)")
    epochs: Annotated[float, Field(gt=0, le=10000)] | None = default(None, "passes over the expert set (section 4.1)")
    # Its upper bound is in `unreasonable`.
    learning_rate: float = Field(gt=0, description="Adam's, at most 1 (searched in 1e-6, 5e-6, 1e-5)")
    cooldown_steps: StepsOrNone = quiet(0, "steps at the end in which it falls to 0 (the paper: constant)")
    keep: Literal["best", "last", "every"] = default("best", "which weights (A.2: `best`)")
    reshape_gamma: Positive | None = default(None, "`luffy`: p/(p + gamma) for p of expert tokens (arXiv:2504.14945)")

    def _wrong(self) -> Iterator[str]:
        if (self.steps is None) == (self.epochs is None):
            found = "neither `steps` nor `epochs`" if self.steps is None else "both `steps` and `epochs`"
            yield f"found {found}, expected exactly one (epochs of the expert set)"
        if self.epochs is not None and self.needs_rollouts:
            yield "found `epochs`, passes over the expert set, with a mu other than 1, expected `steps`"
        if self.needs_rollouts != (self.keep == "best") and self.keep != "last":
            kind, fitting = ("a mu other than 1", "best") if self.needs_rollouts else ("mu constant at 1", "every")
            why = "" if self.needs_rollouts else ": pure imitation grades nothing while it trains"
            yield f"found `keep: {self.keep}` with {kind}, expected `last` or `{fitting}`{why}"
        if self.method == "luffy" and self.traces != "aligned":
            yield f"found `traces: {self.traces}`, expected `aligned`: luffy needs experts for its own prompts"
        if (self.method == "luffy") != (self.reshape_gamma is not None):
            found = "no `reshape_gamma`" if self.method == "luffy" else f"`reshape_gamma` with method {self.method}"
            yield f"found {found}, expected both `method: luffy` and `reshape_gamma` or neither"
        if (self.method == "sasr") != (self.mu.name == "gradient-norm"):
            found = f"found method {self.method} with schedule {self.mu.name}"
            yield f"{found}, expected both `method: sasr` and `schedule: gradient-norm` or neither"

    def rate_at(self, step: int, steps: int, warmup_steps: int) -> float:
        """The learning rate of a step, from 0, of `steps` steps: it rises in the first ones, and falls in the last."""
        rising, falling = (step + 1) / max(1, warmup_steps), (steps - step) / max(1, self.cooldown_steps)
        return self.learning_rate * min(1.0, rising, falling)

    def unreasonable(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """What no training of config/ may have: the keys that it is about, and what is said of them.

        A run.json may: what it holds was checked when it was written.
        """
        if self.learning_rate > HIGHEST_RATE:
            yield ("learning_rate",), f"is {self.learning_rate:g}, expected at most {HIGHEST_RATE:g}"
        if self.steps is None:
            return
        spans = {key: value for key, value in self.mu.model_dump().items() if key.endswith("_steps")}
        if sum(spans.values()) > self.steps:
            kinds = {"warmup_steps": "a warm-up", "decay_steps": "a decay"}
            said = " and ".join(f"{kinds.get(key, key)} of {value}" for key, value in spans.items())
            keys = (*(f"mu.{key}" for key in spans), "steps")
            together = "together " if len(spans) > 1 else ""
            yield keys, f"found {said} steps in a training of {self.steps}, expected {together}at most that"

    @property
    def needs_rollouts(self) -> bool:
        """Whether any step can sample from the policy."""
        return not self.mu.is_always(1)

    @property
    def needs_experts(self) -> bool:
        """Whether any step can read expert traces."""
        return self.method == "luffy" or self.mixes_experts

    def rollouts_of(self, per_prompt: int) -> int:
        """How many of a group of this size the policy writes: in LUFFY's the expert's trace is one of them."""
        return per_prompt - 1 if self.method == "luffy" else per_prompt

    @property
    def mixes_experts(self) -> bool:
        """Whether any step can draw rows of its own from the expert traces."""
        return not self.mu.is_always(0)


class Arm(Frozen):
    """A name with exactly one of `recipe`, `choose`, `same_as`.

    Of the arms to `choose` from, which keep `every`, it has the weights with the best `validation` accuracy, seed by
    seed; with `test` the arm whose last weights score highest on the study's first benchmark, as the paper chose, to
    show the difference. `same_as` is `base`, or `base-NAME` of the study's `other_models`.
    """

    label: Text = Field(description="how readers see the arm; makes anew tables and figures only")
    note: str = default("", "said beside the label; makes anew tables and figures only")
    recipe: Recipe | None = default(None, "how the arm is trained")
    choose: Names | None = default(None, "arms: the best weights of all of them")
    choose_on: Literal["validation", "test"] = default("validation", "the paper chose on `test` (section 4.1)")
    same_as: Annotated[str, Field(pattern="^base(-[a-z0-9.+-]+)?$")] | None = default(None, "a start model (Table 1)")

    def _wrong(self) -> Iterator[str]:
        found = [name for name in ("recipe", "choose", "same_as") if getattr(self, name) is not None]
        if len(found) != 1:
            yield f"found {' and '.join(found) or 'none'} of `recipe`, `choose` and `same_as`, expected exactly one"
        if self.choose_on == "test" and not self.choose:
            yield "found `choose_on: test` without `choose`, expected the arms to choose between"

    @property
    def only_imitates(self) -> bool:
        """Whether the arm is trained and no step of it samples rollouts."""
        return self.recipe is not None and not self.recipe.needs_rollouts

    @property
    def samples_rollouts(self) -> bool:
        """Whether the arm is trained and a step of it can sample rollouts."""
        return self.recipe is not None and self.recipe.needs_rollouts


# --- models and engines --------------------------------------------------------------------------

ADDRESS = r"^[A-Za-z0-9.-]+:[0-9]{1,5}$"
REPOSITORY = r"^[\w.-]+/[\w.-]+$"
PLANNING = "config/planning.yaml"
Precision = Literal["float32", "bfloat16", "float64"]
Options = dict[str, Number | str | bool | list[str]]
Width = Annotated[int, Field(ge=1, le=10**5)]  # of a layer; the widest known are below 20,000


class Llama(Frozen):
    """The shape of a Llama-like model; keys are those of its config.json."""

    hidden_size: Width = Field(description="width of a token's state")
    intermediate_size: Width = Field(description="width inside the MLP of a layer, or that of one expert")
    num_hidden_layers: int = Field(ge=1, le=1000, description="number of layers")
    num_attention_heads: Width = Field(description="attention heads of a layer")
    num_key_value_heads: Width = Field(description="of keys and values, a divisor of `num_attention_heads`")

    def _wrong(self) -> Iterator[str]:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if heads % groups:
            yield f"found num_key_value_heads {groups} with num_attention_heads {heads}, expected a divisor of {heads}"


class Architecture(Llama):
    """A Llama that the study trains itself; keys are those of transformers' LlamaConfig."""

    max_position_embeddings: Tokens = Field(description="tokens of the longest prompt and answer together")

    def _wrong(self) -> Iterator[str]:
        yield from super()._wrong()
        heads = self.num_attention_heads
        if self.hidden_size % (2 * heads):  # rotary positions turn pairs of a head's numbers
            found = f"found hidden_size {self.hidden_size} with num_attention_heads {heads}"
            yield f"{found}, expected a multiple of {2 * heads}: each head has an even width"


class Model(Frozen):
    """A language model, by where its weights come from.

    `random`: trained by the study itself. `package`: the GGUF file of an installed package. `hub`: fetched by `chord
    fetch` and pinned, commit and files, in `locks/STUDY.json`.
    """

    source: Literal["random", "package", "hub"] = Field(description="where its weights come from")
    name: Text = Field(description="of the model; of the package with `package` (paper: Qwen2.5-7B-Instruct)")
    revision: Text | None = default(None, "a commit, tag or branch; the version of a `package`")
    architecture: Architecture | None = default(None, "`random` only: its shape (ours)")
    alphabet: str | None = default(None, "`random` only: its characters, each one token (ours)")

    def _wrong(self) -> Iterator[str]:
        if (self.source == "random") != (self.architecture is not None and self.alphabet is not None):
            yield f"found source {self.source}, expected `architecture` and `alphabet` with random, only there"
        if self.source == "hub" and not re.fullmatch(REPOSITORY, self.name, re.ASCII):
            yield f"found name '{self.name}' with source hub, expected OWNER/NAME"
        if self.alphabet is not None and (not self.alphabet or len(set(self.alphabet)) < len(self.alphabet)):
            twice = next((one for one in self.alphabet if self.alphabet.count(one) > 1), "nothing")
            yield f"found {twice!r} in `alphabet` more than once or nothing, expected each character once"
        if self.source != "random" and self.revision is None:
            wanted = "a commit, tag or branch" if self.source == "hub" else "the version of the package"
            yield f"found source {self.source} without `revision`, expected {wanted}: weights must not change"


class Vllm(Frozen):
    """The vLLM that samples in training, and where it is.

    `colocated`: an engine in the process of each rank, on its device. `server`: engines in processes of their own,
    started for the run on its machine where no `address` is given. A server at an address has `VLLM_SERVER_DEV_MODE=1`,
    `--worker-extension-cls chord.sampling.vllm_sampler.PolicyWeights`, `--logprobs-mode processed_logprobs`, its key in
    `VLLM_API_KEY`, and the run's folder at the same path. `sleep` and `batch_invariant` are refused on a CPU.
    """

    placement: Literal["colocated", "server"] = default("colocated", "in each rank's process, or in its own (ours)")
    address: Annotated[str, Field(pattern=ADDRESS)] | None = default(None, "HOST:PORT of a `server` that runs already")
    replicas: Count = default(1, "servers that are started, with `server` only (ours: 1)")
    dtype: Literal["float32", "bfloat16", "float16"] | None = default(None, "of `compute_dtype` by default")
    memory_share: Share | None = default(None, "of the device's memory; vLLM's own if left out")
    cache_gb: Positive | None = default(None, "gigabytes for keys and values; 1 on a CPU (ours)")
    context_tokens: Tokens | None = default(None, "of prompt and response together; the model's own if left out")
    enforce_eager: bool = default(True, "compiles nothing: starts sooner, samples slower (ours)")
    sleep: bool = default(False, "gives its memory to the learner while it learns (ours)")
    batch_invariant: bool = default(False, "no bit depends on the rest of the batch (ours)")
    options: Options = default({}, "more fields of vLLM's EngineArgs, by name; one that it lacks is refused")

    def _wrong(self) -> Iterator[str]:
        if self.placement == "colocated" and (self.address is not None or self.replicas != 1):
            want = "expected placement server: colocated, each rank has one engine of its own"
            yield f"found `address` or `replicas` with placement colocated, {want}"
        if self.placement == "server" and self.sleep:
            yield "found `sleep: true` with placement server, expected colocated: a server has its own GPUs"


class Zero(Frozen):
    """What ZeRO divides among ranks: 1 Adam's state, 2 gradients too, 3 weights too; moves last bits, makes anew."""

    stage: Literal[0, 1, 2, 3] = default(0, "what is divided; 0: nothing, by PyTorch alone")
    offload: Literal["none", "optimiser"] = default("none", "`optimiser`: Adam's state and step are on the CPU")

    def _wrong(self) -> Iterator[str]:
        if self.stage == 0 and self.offload != "none":
            yield f"found offload {self.offload} with stage 0, expected stage 1, 2 or 3: DeepSpeed does it"


# --- problems and experts ------------------------------------------------------------------------

NEEDED = ("question", "answer")
OF_GENERATIONS = ("generations", "verified")  # lists of one length: what the expert wrote, and which of it was right


class Dataset(Frozen):
    """Files of one repository, rows of Parquet or JSON lines, and what their columns are called here.

    `generations` and `verified`, lists of one length, are published traces. Where one that it `may_lack` is not there,
    `filters.generations` does not hold, and traces of these problems are refused. Columns that no prompt shows are in
    the `source` of each problem.
    """

    repository: str = Field(pattern=REPOSITORY, description="OWNER/NAME on the hub")
    revision: Text = Field(description="commit, tag or branch, which the lock file of the study pins")
    files: tuple[str, ...] = Field(min_length=1, description="names or patterns, like `data/train-*.parquet`")
    columns: dict[str, Text] = Field(
        description="column by its name in braces of prompts; `question` and `answer` needed"
    )
    may_lack: tuple[Literal["generations", "verified"], ...] = quiet((), "columns that the files need not have (ours)")

    def _wrong(self) -> Iterator[str]:
        if missing := [name for name in NEEDED if name not in self.columns]:
            yield f"found no `{missing[0]}` in `columns`, expected the columns of {' and '.join(NEEDED)}"
        if unnamed := [name for name in self.may_lack if name not in self.columns]:
            yield f"found `{unnamed[0]}` in `may_lack` and not in `columns`, expected the column that it is"
        if bad := [file for file in self.files if not file.endswith((".parquet", ".jsonl"))]:
            yield f"found '{bad[0]}' in `files`, expected names or patterns that end in .parquet or .jsonl"


class Filters(Frozen):
    """Which rows of a dataset become problems (A.2); `data/problems/SET.json` counts what each one dropped.

    `integer`: only integers. `calls`: only JSON lists of tool calls. `generations` counts verified traces of at most
    `generation_tokens`.
    """

    script: Literal["any", "no-cjk"] = default("any", "`no-cjk`: no Chinese characters (the authors' data script)")
    answers: Literal["any", "integer", "calls"] = default("any", "which answers (A.2)")
    generations: CountOrNone = default(0, "verified traces of a row, at least (the authors' script: 1; 2 for RL)")
    generation_tokens: Tokens | None = default(
        None, "of the policy; longer traces do not count (the authors' script: 8196)"
    )
    overlap_words: Count | None = default(None, "words in a row that no question may share with a benchmark's (ours)")

    def _wrong(self) -> Iterator[str]:
        if self.generation_tokens is not None and not self.generations:
            yield "found `generation_tokens` without `generations`, expected how many of them a problem must have"


class Task(Frozen):
    """Where problems come from, and the text that the policy is shown of each.

    `generator`: reasoning-gym. `hub`: rows of one of `datasets`. `package`: BFCL's items, out of bfcl-eval, for
    benchmarks alone; `settings.categories` are some of its eight single-turn ones, all if left out. A prompt may show
    what `chord/config/known.json` says of a generator, the names of `columns`, or `question` and `tools` of `bfcl`.
    """

    source: Literal["generator", "hub", "package"] = default("generator", "where it takes them")
    dataset: Text = Field(
        description="a generator of reasoning-gym; with `hub` one of `datasets`; with `package` `bfcl`"
    )
    settings: Options = default({}, "what the generator is told; of `bfcl` its `categories`")
    keep: Literal["all", "sums", "differences"] = default("all", "which problems of a generator")
    filters: Filters | None = default(None, "`hub` only: which rows are problems (A.2)")
    prompt: Text = Field(description="what the policy is shown, at least one fact of the problem in braces")

    def _wrong(self) -> Iterator[str]:
        if self.source == "generator" and self.filters is not None:
            yield "found `filters` with source generator, expected `keep`; filters are for rows of `hub`"
        if self.source == "package" and (self.filters is not None or self.keep != "all"):
            yield "found `filters` or `keep` with source package, expected `settings.categories` or nothing"
        if self.source == "package" and self.dataset != "bfcl":
            yield f"found dataset '{self.dataset}' with source package, expected `bfcl`, the only one"
        if self.source == "hub" and (self.settings or self.keep != "all"):
            yield "found `settings` or `keep` with source hub, expected `filters`"


class Split(Frozen):
    """So many problems of one task."""

    task: Name = Field(description="a name in `tasks`")
    size: Count = Field(description="number of problems")
    or_fewer: bool = default(False, "take fewer where there are fewer, else that is an error; not with `generator`")


class ExpertScripted(Frozen):
    """A written-out solver, see `chord/data/demonstrate.py`; `sentences` is for sums and differences in words."""

    source: Literal["scripted"]
    name: Text = Field(description="stands in every trace")
    style: Literal["terse", "worked", "checked", "sentences"] = Field(description="how it answers (ours)")


class ExpertPublished(Frozen):
    """The dataset's own traces; of the verified ones of a problem one is drawn (the paper: DeepSeek-R1's)."""

    source: Literal["published"]
    name: Text = Field(description="stands in every trace")


class ExpertServed(Frozen):
    """A language model that vLLM serves; of its right answers that the policy can write, one is kept.

    `best`: the shortest, in tokens of the policy. `random`: one is drawn.
    """

    source: Literal["served"]
    name: Text = Field(description="stands in every trace")
    model: Model = Field(description="`hub` or `package`: the model that is asked (the paper: DeepSeek-R1)")
    system: str | None = default(None, "the system's message; none if left out (ours)")
    prompt: str = default("{prompt}", "the user's message, with `{prompt}` where the problem's text goes (ours)")
    samples_per_problem: Count = Field(description="answers to each problem, each under its own seed (ours)")
    keep: Literal["best", "random"] = Field(description="the shortest right answer, or a drawn one (ours)")
    temperature: Temperature = Field(description="of its sampling (ours)")
    top_p: Share = default(1.0, "of its sampling (ours)")
    max_response_tokens: Tokens = Field(description="of the expert, after which its answer is cut off (ours)")
    tensor_parallel: Count = default(1, "GPUs that hold one replica")
    options: Options = default({}, "fields of vLLM's EngineArgs by name; one that it lacks is refused")
    replicas: Count = default(1, "servers, each on GPUs of its own; makes nothing anew")
    shard_size: Count = default(64, "problems that are saved together; makes nothing anew (ours)")
    requests_at_once: Count = default(64, "that wait at each replica; makes nothing anew (ours)")
    start_minutes: Minutes = default(30.0, "for a replica to be ready; makes nothing anew (ours)")

    def _wrong(self) -> Iterator[str]:
        if self.model.source == "random":
            yield "found expert.model.source random, expected hub or package: a model that can answer"
        if self.prompt.count("{prompt}") != 1:
            yield f"found expert.prompt '{self.prompt}', expected a text with {{prompt}} in it, once"


Expert = Annotated[ExpertScripted | ExpertPublished | ExpertServed, Field(discriminator="source")]


# --- study ---------------------------------------------------------------------------------------

MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
DAY = re.compile(rf"(0[1-9]|[12][0-9]|3[01]) ({MONTHS}) [0-9]{{4}}")


if TYPE_CHECKING:
    GraderName: TypeAlias = str
    RewardName: TypeAlias = str
else:  # the entries of two plug points, which stand in a module that this one must not load
    GraderName = Literal[entries_of("grading/graders.py", "GRADERS")]
    RewardName = Literal[entries_of("grading/graders.py", "REWARDS")]


class AnswerForm(Frozen):
    r"""How an answer is read.

    `marked-text`: the text after the last `mark`. `last-number`. `math`: the last `\boxed{}`, see below. `tool-call`:
    thoughts, then a JSON list of calls. `bfcl`: such a list by the checker of bfcl-eval, of benchmarks alone.
    """

    grader: GraderName = Field(description="which grader reads the answer")
    mark: Text | None = default(None, "text before the answer, of `marked-text` only")

    def _wrong(self) -> Iterator[str]:
        if (self.grader == "marked-text") != (self.mark is not None):
            found = "no `mark`" if self.mark is None else "a `mark`"
            yield f"found {found} with grader {self.grader}, expected the text before the answer with marked-text"


class Parts(Frozen):
    """Parts of a benchmark with columns of their own in tables of the paper, from the same answers."""

    by: str = Field(description="a key of each problem's `source`")
    columns: dict[str, str] = Field(min_length=1, description="the paper's column for each value (Table 1)")


class Benchmark(Frozen):
    """A column of the tables: problems, and the lm-eval task that asks them.

    A sixteenth of a task's prompts is for its first benchmark in the file, half as many for each that follows.
    `categories` are `carries` of a sum, `letters` of a word, or a key of each problem's `source`, such as a column that
    no prompt shows.
    """

    label: str = Field(description="heading of the column")
    problems: Split = Field(description="its problems; makes anew that benchmark")
    file: str = Field(description="a file in `benchmarks/`")
    paper_column: str | None = default(None, "the paper's column beside it (Table 1)")
    grading: AnswerForm | None = default(None, "where answers are read in another way")
    other_paper_columns: tuple[str, ...] = default((), "columns beside it in the paper's tables without `paper_column`")
    categories: str | None = default(None, "what its problems differ in (B.8)")
    parts: Parts | None = quiet(None, "shown beside it (Table 1)")

    @property
    def paper_columns(self) -> tuple[str, ...]:
        """The paper's columns that it may stand beside, the most fitting first."""
        return (*([self.paper_column] if self.paper_column else []), *self.other_paper_columns)


class CorpusPart(Frozen):
    """Texts of one task in one style of answering."""

    task: Name = Field(description="a name in `tasks`")
    style: Literal["terse", "worked", "checked"] = Field(description="how they are answered (ours)")
    share: Share = Field(description="of the texts; shares add up to 1 (ours)")
    slips: Annotated[float, Field(ge=0, le=1)] = quiet(0.0, "share of steps with a wrong result; not of `terse` (ours)")

    def _wrong(self) -> Iterator[str]:
        if self.slips and self.style == "terse":
            yield f"found slips {self.slips:g} with style terse, expected a style with steps"


class BaseCorpus(Frozen):
    """What the base model learns from: three eighths of a task's prompts, again and again where those are few."""

    size: Count = Field(description="number of texts (ours)")
    parts: tuple[CorpusPart, ...] = Field(min_length=1, description="what the texts are (ours)")
    recipe: Recipe = Field(description="as an arm's `recipe`, with `init: random` (ours)")
    rows_per_step: Count = Field(description="texts in each update of the base model (ours)")

    def _wrong(self) -> Iterator[str]:
        total = sum(part.share for part in self.parts)
        if abs(total - 1) > 1e-9:
            yield f"found shares of `parts` that add up to {total:g}, expected 1"


class OtherExpert(Frozen):
    """Another `expert`, or the study's own on more `problems`, which of a hub are what RL left."""

    expert: Expert | None = default(None, "another one, on the problems of the expert set (D.3)")
    problems: Count | None = default(None, "so many; the first are the expert set's (B.3)")


class OtherModel(Frozen):
    """Another `model`, which `chord fetch` brings too, or the study's own trained on another `base_corpus`."""

    model: Model | None = default(None, "`random`, on the study's corpus, or `hub`")
    base_corpus: BaseCorpus | None = default(None, "another corpus for a `random` model")

    def _wrong(self) -> Iterator[str]:
        if self.model is None and self.base_corpus is None:
            yield "found neither `model` nor `base_corpus`, expected what makes it another model"
        if self.model is not None and self.model.source == "package":
            yield "found source package, expected random or hub: only the study's own model is unpacked"


class Data(Frozen):
    """Which problems the study uses; sets are disjoint by the hash of the prompt, or out of a hub by what is left.

    `refused`: a benchmark is an error that shares a prompt or question with a set that is trained on, or chosen by; or,
    of texts, `filters.overlap_words` words in a row, 8 if left out. `allowed`: that is only counted.
    """

    seed: Seed = Field(description="decides every problem, and the training of a `random` base model (ours)")
    train: Split = Field(description="for RL: of a quarter of a task's prompts (20k); makes anew that set")
    validation: Split = Field(description="of an eighth of a task's prompts; makes anew that set")
    expert: Split = Field(description="for traces: of an eighth of a task's prompts (5k); makes anew that set")
    aligned_traces: bool = Field(description="whether the expert answers the training problems too")
    by_seed: bool = default(
        False, "whether a training seed is a whole replication: its own sets to learn from, its own `random` models"
    )
    overlap: Literal["refused", "allowed"] = quiet("refused", "with benchmarks (ours)")


class Grading(AnswerForm):
    """How an answer is read and paid; the same grader serves rewards and scores.

    `paper-math`: as the paper's table. `shipped-math`: as the authors' code.
    """

    reward: RewardName = Field(description="what outcomes pay (A.2)")

    def _wrong(self) -> Iterator[str]:
        yield from super()._wrong()
        if self.grader == "bfcl":
            yield "found grader bfcl, expected another: its answers are those of a benchmark, whose `grading` has it"

    @property
    def form(self) -> AnswerForm:
        """Without the reward, which decides training and no score."""
        return AnswerForm(grader=self.grader, mark=self.mark)


class Sampling(Frozen):
    """How the policy answers, in rollouts and in validation."""

    max_response_tokens: Tokens = Field(description="after which the answer is cut off and is too long (16k)")
    temperature: Temperature = Field(description="of sampling in training and validation (1.0)")


class Groups(Frozen):
    """The rollouts of one step: so many prompts, each answered by a group that is compared with itself."""

    prompts_per_step: Count = Field(description="prompts in each update (A.1: 32)")
    per_prompt: Count = Field(
        description="a group that is compared, at least 2 for RL; LUFFY's has a trace in it (A.1: 8)"
    )


class Rollouts(Sampling, Groups):
    """One step's sampling, and the prompts that fit."""

    max_prompt_tokens: Tokens = Field(description="tokens; longer problems are left out (ours)")


class Optimiser(Frozen):
    """Gradients are clipped by their global norm before the step."""

    beta1: Below1 = Field(description="of AdamW (0.9)")
    beta2: Below1 = Field(description="of AdamW (0.999)")
    epsilon: Small = Field(description="of AdamW (ours)")
    weight_decay: NotNegative = Field(description="of AdamW, at most 1 (ours)")
    max_grad_norm: Positive = Field(description="gradients are scaled down to it (the authors' file: 1.0)")
    warmup_steps: StepsOrNone = Field(description="steps in which the learning rate rises from 0 (ours)")


class PolicyLoss(Frozen):
    """GRPO as in eq. 2."""

    clip_low: Small = Field(description="the ratio is clipped below 1 - this (eq. 2: 0.2)")
    clip_high: Positive = Field(description="the ratio is clipped above 1 + this (eq. 2: 0.2)")
    advantage_epsilon: Small = Field(description="added to the deviation of a group's rewards (eq. 2)")
    importance_cap: Positive | None = default(None, "of the ratio of learner to sampler; none if left out (ours)")


class Thorough(Frozen):
    """Validations that count: the first and the last one, and those after `steps`, say where a curve turns."""

    steps: tuple[Steps, ...] = Field(description="after which steps, beside the first and the last validation (ours)")
    samples_per_problem: Count = Field(description="answers to each problem (ours)")


class Validation(Frozen):
    """Sampling on the validation set during training; it picks checkpoints, never the benchmarks."""

    every_steps: Steps = Field(description="steps between two validations (not said)")
    problems: Count = Field(description="the first so many of the validation set (not said)")
    samples_per_problem: Count = Field(description="answers to each of them (not said)")
    thorough: Thorough | None = quiet(None, "validations with more answers to each problem, for curves that are judged")

    def samples_at(self, step: int, steps: int) -> int:
        """Answers to each problem after `step` of the `steps` steps of a training; 0 where it is not validated."""
        if self.thorough and step in (0, steps, *self.thorough.steps):
            return self.thorough.samples_per_problem
        return self.samples_per_problem if step % self.every_steps == 0 or step == steps else 0

    def planned(self, steps: int) -> dict[int, int]:
        """Answers to each problem, by the step of a training of `steps` steps after which it is validated."""
        every = ((step, self.samples_at(step, steps)) for step in range(steps + 1))
        return {step: samples for step, samples in every if samples}


class Arithmetic(Frozen):
    """How sums are formed: may move the last bits of a result, never its definition."""

    compute_dtype: Precision = Field(description="of products, not weights")
    micro_batch_tokens: Count = Field(description="tokens of one forward pass; decides memory, not results")
    sampler_rows: Count = Field(description="rollouts sampled at one time; decides memory")
    logit_chunk_tokens: Count = Field(description="tokens whose logits are in memory at one time")
    deterministic: bool = Field(description="only kernels that repeat their bits")
    recompute_activations: bool = quiet(False, "the backward pass makes inner states again (ours)")
    sampler: Literal["transformers", "vllm"] = quiet("transformers", "of training (ours)")
    vllm: Vllm | None = quiet(None, "of `sampler: vllm` only")
    zero: Zero = quiet(Zero(), "of DeepSpeed; not with `float64`")

    def _wrong(self) -> Iterator[str]:
        if self.vllm is not None and self.sampler != "vllm":
            yield f"found `vllm` with sampler {self.sampler}, expected `sampler: vllm` or no such key"
        if self.sampler == "vllm" and self.compute_dtype == "float64" and (self.vllm is None or not self.vllm.dtype):
            yield "found sampler vllm with compute_dtype float64, which it lacks, expected a `vllm.dtype`"
        if self.zero.stage and self.compute_dtype == "float64":
            want = "expected float32 or bfloat16: DeepSpeed keeps the weights that it divides in float32"
            yield f"found zero.stage above 0 with compute_dtype float64, {want}"


class Execution(Arithmetic):
    """How the machine is used. What is not `Arithmetic` makes nothing anew, but for answers.

    `sampler` is the model that learns, or vLLM with weights handed over after each step. `answers` are by transformers,
    or by lm-eval's own model for vLLM (`make install-engines`). Recomputing activations saves memory and costs a third
    more arithmetic. Answers that do not depend on the batch need NVIDIA GPUs from compute capability 8.0.
    """

    cpu_threads: int = Field(ge=1, le=4096, description="of a job; makes nothing anew, but moves last bits")
    checkpoint_every_steps: Steps = Field(description="steps that a kill loses at most; makes nothing anew")
    checkpoint_every_minutes: Minutes = Field(description="minutes, if these end sooner; makes nothing anew")
    answers: Literal["transformers", "vllm"] = quiet("transformers", "of benchmarks (ours)")
    answers_batch_invariant: bool = quiet(False, "`vllm`: answers do not depend on the batch (ours)")
    answers_options: Options = quiet({}, "`vllm`: fields of its EngineArgs by name; others are refused (ours)")

    def _wrong(self) -> Iterator[str]:
        yield from super()._wrong()
        if self.answers == "transformers" and (self.answers_options or self.answers_batch_invariant):
            yield "found `answers_options` or `answers_batch_invariant` with answers transformers, expected vllm"
        if self.answers == "vllm" and self.compute_dtype == "float64" and "dtype" not in self.answers_options:
            yield "found answers vllm with compute_dtype float64, which it lacks, expected a dtype in answers_options"


class Study(Frozen):
    """One place where every arm can run: a model, its data, its budgets, its benchmarks.

    A chat template that shows a day (`date_string`, as Llama 3.2's) is refused without a `prompt_date`, of the policy
    and of a served expert; another one makes anew all that renders prompts.
    """

    name: Name = Field(description="that of the file; results are in `results/NAME/`")
    title: str = Field(description="how the page names the study")
    seeds: tuple[Seed, ...] = Field(description="of trainings, where `config.yaml` gives none (ours)")
    model: Model = Field(description="the model that arms start from")
    prompt_date: str | None = quiet(None, "day, such as 26 Jul 2024, that prompts show")
    datasets: dict[Name, Dataset] = default({}, "of a model hub; `chord fetch` brings and pins them")
    tasks: dict[Name, Task] = Field(description="where problems come from, by names of your own")
    data: Data = Field(description="which problems the study uses")
    base_corpus: BaseCorpus | None = default(None, "what a `random` model learns from (ours)")
    other_models: dict[Name, OtherModel] = default({}, "models that arms start from, `base-NAME` (B.5, B.6, Figure 13)")
    expert: Expert = Field(description="who writes the expert traces (the paper: DeepSeek-R1's, published)")
    other_experts: dict[Name, OtherExpert] = default({}, "traces for arms, `expert-NAME` (B.3, D.3)")
    grading: Grading = Field(description="how answers are read and paid")
    rollouts: Rollouts = Field(description="what the policy samples in each step")
    expert_rows_per_step: Count = Field(description="traces in each update that imitates (A.1: 64)")
    optimiser: Optimiser = Field(description="AdamW")
    policy_loss: PolicyLoss = Field(description="of RL (eq. 2)")
    validation: Validation = Field(description="which picks checkpoints (A.2)")
    benchmarks: dict[Name, Benchmark] = Field(min_length=1, description="columns of the tables, by name")
    learning_rates: dict[Name, Positive] = quiet(
        {}, "of arms for which a search found another than their recipe's (A.1)"
    )
    budget: dict[str, Number] = Field(description="numbers that recipes ask for as `budget.KEY`")
    execution: Execution = Field(description="how the machine is used")

    @property
    def corpora(self) -> dict[str, BaseCorpus]:
        """What base models learn from, by its key in the file."""
        others = {f"other_models.{name}.base_corpus": one.base_corpus for name, one in self.other_models.items()}
        return {key: one for key, one in ({"base_corpus": self.base_corpus} | others).items() if one}

    def form_of(self, benchmark: str) -> AnswerForm:
        """How answers to the benchmark are read."""
        return self.benchmarks[benchmark].grading or self.grading.form

    def _wrong(self) -> Iterator[str]:
        named = {f"data.{key}": getattr(self.data, key) for key in ("train", "validation", "expert")}
        named |= {f"benchmarks.{key}.problems": one.problems for key, one in self.benchmarks.items()}
        for where, corpus in self.corpora.items():
            named |= {f"{where}.parts[{place}]": part for place, part in enumerate(corpus.parts)}
        for where, one in named.items():
            if one.task not in self.tasks:
                yield f"{where}.task is '{one.task}', {expected(one.task, self.tasks)}"
        if (self.model.source == "random") != (self.base_corpus is not None):
            found = "a" if self.base_corpus else "no"
            yield f"found {found} base_corpus with model.source {self.model.source}, expected one with random"
        if self.validation.problems > self.data.validation.size:
            most = f"expected at most data.validation.size = {self.data.validation.size}"
            yield f"validation.problems is {self.validation.problems}, {most}"
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            yield f"seeds is {list(self.seeds)}, expected at least one and no repeats"
        if self.prompt_date is not None and not DAY.fullmatch(self.prompt_date):
            yield f"prompt_date is '{self.prompt_date}', expected a day as templates show it, such as 26 Jul 2024"


# --- planning ------------------------------------------------------------------------------------


class Machine(Frozen):
    """One device."""

    memory_gb: Positive = Field(description="memory of a device, in 10^9 bytes (data sheet)")
    tflops: dict[Precision, Positive] = Field(description="by dtype, at best (data sheet)")
    bandwidth_gb_s: Positive = Field(description="of its memory, in 10^9 bytes a second (data sheet)")
    trains_at: Share = Field(description="share of `tflops` that training reaches (ours)")
    decodes_at: Share = Field(description="share of `bandwidth_gb_s` that sampling has (ours)")
    layer_seconds: Positive = Field(description="that a layer takes at least, whatever it computes (ours)")
    start_seconds: Positive = Field(description="seconds until a job computes: imports, loading (ours)")
    base_gb: Positive = Field(description="of a process with its libraries alone, in 10^9 bytes (ours)")


class Dimensions(Llama):
    """A Llama-like model; keys are those of its config.json."""

    vocab_size: Count = Field(description="number of tokens that there are")
    tied: bool = Field(description="one matrix for embedding and output")
    attention_bias: bool = default(False, "whether queries, keys and values have a bias")
    head_dim: Count | None = default(None, "width of a head; `hidden_size` / heads if left out")
    num_experts: Count = default(1, "experts of a mixture of experts")
    experts_per_token: Count = default(1, "experts that each token goes through")

    def _wrong(self) -> Iterator[str]:
        yield from super()._wrong()
        heads = self.num_attention_heads
        if self.head_dim is None and self.hidden_size % heads:
            yield f"found hidden_size {self.hidden_size} with {heads} heads, expected a multiple or a head_dim"
        if self.experts_per_token > self.num_experts:
            yield f"found experts_per_token {self.experts_per_token}, expected at most {self.num_experts}"

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


class Lengths(Frozen):
    """Mean tokens; an arm like `weak-grpo` that is not named is reckoned like `grpo`."""

    prompt: Positive = Field(description="tokens of a prompt")
    expert: Positive = Field(description="tokens of an expert trace")
    base: Positive = Field(description="tokens of an answer of the base model")
    arms: dict[str, Positive] = Field(description="tokens of an answer of each arm")
    other_arms: Positive = Field(description="tokens of an answer of any other arm")

    def of(self, arm: str) -> float:
        """Mean tokens of an answer at the end of the arm's training."""
        return self.arms.get(arm) or self.arms.get(arm.partition("-")[2]) or self.other_arms


class Judge(Frozen):
    """A model that grades each answer."""

    model: str = Field(description="a name in `models`")
    prompt: Positive = Field(description="tokens that it reads beside the answer")
    verdict: Positive = Field(description="tokens that it writes")


class Unbuilt(Frozen):
    """A table or figure that no study builds, as the paper trained for it; the rest is as in `study`."""

    study: Name = Field(description="the study that the rest is as in")
    model: str = Field(description="a name in `models`")
    arms: Names = Field(description="arms that are trained for it")
    steps: Count = Field(description="updates of the arms that sample")
    prompts_per_step: Count = Field(description="prompts in each update")
    per_prompt: Count = Field(description="rollouts of a prompt")
    expert_rows_per_step: Count = Field(description="traces in each update that imitates")
    max_prompt_tokens: Count = Field(description="tokens of the longest prompt")
    max_response_tokens: Count = Field(description="tokens of the longest answer")
    lengths: Lengths = Field(description="mean tokens")
    answers: Count = Field(description="answers of one trained model to the benchmark")
    judge: Judge | None = default(None, "a model that grades each answer")


class Planning(Frozen):
    """config/planning.yaml: what `chord plan` reckons with. It decides no result and no job."""

    machines: dict[str, Machine] = Field(description="devices, by name")
    models: dict[str, Dimensions] = Field(description="sizes, as in config.json (the model's page)")
    lengths: dict[str, Lengths] = Field(description="mean tokens, by study (Table 2; ours where it has none)")
    unbuilt: dict[str, Unbuilt] = default({}, "what no study builds, as in the paper (B.4, B.6)")

    @classmethod
    def read(cls, root: Path) -> Self:
        """The file below `root`; raises ConfigError with every bad key."""
        return validated(TypeAdapter(cls), read_yaml(root / PLANNING, PLANNING), PLANNING)
