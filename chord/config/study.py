"""A study: one model, its data, its budgets, its benchmarks; where models, problems and traces come from.

Knows no arms and no files.
"""

import re
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from chord.config.reading import entries_of, expected
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
    """A Llama that the study trains itself; keys are those of transformers' LlamaConfig."""

    hidden_size: Annotated[Width, Field(description="width of a token's state")]
    intermediate_size: Annotated[Width, Field(description="width inside the MLP of a layer")]
    num_hidden_layers: Annotated[int, Field(ge=1, le=1000, description="number of layers")]
    num_attention_heads: Annotated[Width, Field(description="attention heads of a layer")]
    num_key_value_heads: Annotated[Width, Field(description="of keys and values, a divisor of `num_attention_heads`")]
    max_position_embeddings: Annotated[Tokens, Field(description="tokens of the longest prompt and answer together")]

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
    """A language model, by where its weights come from.

    `random`: trained by the study itself. `package`: the GGUF file of an installed package. `hub`: fetched by `chord
    fetch` and pinned, commit and files, in `locks/STUDY.json`.
    """

    source: Annotated[Literal["random", "package", "hub"], Field(description="where its weights come from")]
    name: Annotated[Text, Field(description="of the model; of the package with `package` (paper: Qwen2.5-7B-Instruct)")]
    revision: Annotated[Text | None, Field(description="a commit, tag or branch; the version of a `package`")] = None
    architecture: Annotated[Architecture | None, Field(description="`random` only: its shape (ours)")] = None
    alphabet: Annotated[str | None, Field(description="`random` only: its characters, each one token (ours)")] = None

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
    """The vLLM that samples in training, and where it is.

    `colocated`: an engine in the process of each rank, on its device. `server`: engines in processes of their own,
    started for the run on its machine where no `address` is given. A server at an address has `VLLM_SERVER_DEV_MODE=1`,
    `--worker-extension-cls chord.sampling.vllm_sampler.PolicyWeights`, `--logprobs-mode processed_logprobs`, its key in
    `VLLM_API_KEY`, and the run's folder at the same path. `sleep` and `batch_invariant` are refused on a CPU.
    """

    placement: Annotated[
        Literal["colocated", "server"], Field(description="in each rank's process, or in processes of its own (ours)")
    ] = "colocated"
    address: Annotated[
        Annotated[str, Field(pattern=ADDRESS)] | None, Field(description="HOST:PORT of a `server` that runs already")
    ] = None
    replicas: Annotated[Count, Field(description="servers that are started, with `server` only (ours: 1)")] = 1
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, Field(description="of `compute_dtype` by default")
    ] = None
    memory_share: Annotated[Share | None, Field(description="of the device's memory; vLLM's own if left out")] = None
    cache_gb: Annotated[Positive | None, Field(description="gigabytes for keys and values; 1 on a CPU (ours)")] = None
    context_tokens: Annotated[
        Tokens | None, Field(description="of prompt and response together; the model's own if left out")
    ] = None
    enforce_eager: Annotated[bool, Field(description="compiles nothing: starts sooner, samples slower (ours)")] = True
    sleep: Annotated[bool, Field(description="gives its memory to the learner while it learns (ours)")] = False
    batch_invariant: Annotated[bool, Field(description="no bit depends on the rest of the batch (ours)")] = False
    options: dict[str, Number | str | bool | list[str]] = Field(
        default={}, description="more fields of vLLM's EngineArgs, by name; one that it lacks is refused"
    )

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
    """What ZeRO divides among ranks: 1 Adam's state, 2 gradients too, 3 weights too; moves last bits, makes anew."""

    stage: Annotated[Literal[0, 1, 2, 3], Field(description="what is divided; 0: nothing, by PyTorch alone")] = 0
    offload: Annotated[
        Literal["none", "optimiser"], Field(description="`optimiser`: Adam's state and step are on the CPU")
    ] = "none"

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

    `generations` and `verified`, lists of one length, are published traces. Where one that it `may_lack` is not there,
    `filters.generations` does not hold, and traces of these problems are refused. Columns that no prompt shows are in
    the `source` of each problem.
    """

    repository: Annotated[Repository, Field(description="OWNER/NAME on the hub")]
    revision: Annotated[Text, Field(description="commit, tag or branch, which the lock file of the study pins")]
    files: Annotated[tuple[str, ...], Field(min_length=1, description="names or patterns, like `data/train-*.parquet`")]
    columns: Annotated[
        dict[str, Text],
        Field(description="column by the name that prompts may have in braces; `question` and `answer` needed"),
    ]
    may_lack: tuple[Literal["generations", "verified"], ...] = Field(
        default=(), exclude_if=lambda v: not v, description="columns that the files need not have (ours)"
    )

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
    """Which rows of a dataset become problems (A.2); `data/problems/SET.json` counts what each one dropped.

    `integer`: only integers. `calls`: only JSON lists of tool calls. `generations` counts verified traces of at most
    `generation_tokens`.
    """

    script: Annotated[
        Literal["any", "no-cjk"], Field(description="`no-cjk`: no Chinese characters (the authors' data script)")
    ] = "any"
    answers: Annotated[Literal["any", "integer", "calls"], Field(description="which answers (A.2)")] = "any"
    generations: Annotated[
        CountOrNone, Field(description="verified traces of a row, at least (the authors' script: 1; 2 for RL)")
    ] = 0
    generation_tokens: Annotated[
        Tokens | None, Field(description="tokens of the policy; longer traces do not count (the authors' script: 8196)")
    ] = None
    overlap_words: Annotated[
        Count | None, Field(description="words in a row that no question may share with a benchmark's (ours)")
    ] = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.generation_tokens is not None and not self.generations:
            raise ValueError(
                "found `generation_tokens` without `generations`, expected how many of them a problem must have"
            )
        return self


class Task(Frozen):
    """Where problems come from, and the text that the policy is shown of each.

    `generator`: reasoning-gym. `hub`: rows of one of `datasets`. `package`: BFCL's items, out of bfcl-eval, for
    benchmarks alone; `settings.categories` are some of its eight single-turn ones, all if left out. A prompt may show
    what `chord/config/known.json` says of a generator, the names of `columns`, or `question` and `tools` of `bfcl`.
    """

    source: Annotated[Literal["generator", "hub", "package"], Field(description="where it takes them")] = "generator"
    dataset: Annotated[
        Text, Field(description="a generator of reasoning-gym; with `hub` a name in `datasets`; with `package` `bfcl`")
    ]
    settings: dict[str, Number | str | bool | list[str]] = Field(
        default={}, description="what the generator is told; of `bfcl` its `categories`"
    )
    keep: Annotated[Literal["all", "sums", "differences"], Field(description="which problems of a generator")] = "all"
    filters: Annotated[Filters | None, Field(description="`hub` only: which rows are problems (A.2)")] = None
    prompt: Annotated[Text, Field(description="what the policy is shown, at least one fact of the problem in braces")]

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
    """So many problems of one task."""

    task: Annotated[Name, Field(description="a name in `tasks`")]
    size: Annotated[Count, Field(description="number of problems")]
    or_fewer: Annotated[
        bool, Field(description="take fewer where the dataset has fewer, else that is an error; not with `generator`")
    ] = False


# --- experts -------------------------------------------------------------------------------------


class ExpertScripted(Frozen):
    """A written-out solver, see `chord/data/demonstrate.py`; `sentences` is for sums and differences in words."""

    source: Literal["scripted"]
    name: Annotated[Text, Field(description="stands in every trace")]
    style: Annotated[Literal["terse", "worked", "checked", "sentences"], Field(description="how it answers (ours)")]


class ExpertPublished(Frozen):
    """The dataset's own traces; of the verified ones of a problem one is drawn (the paper: DeepSeek-R1's)."""

    source: Literal["published"]
    name: Annotated[Text, Field(description="stands in every trace")]


class ExpertServed(Frozen):
    """A language model that vLLM serves; of its right answers that the policy can write, one is kept.

    `best`: the shortest, in tokens of the policy. `random`: one is drawn.
    """

    source: Literal["served"]
    name: Annotated[Text, Field(description="stands in every trace")]
    model: Annotated[Model, Field(description="`hub` or `package`: the model that is asked (the paper: DeepSeek-R1)")]
    system: Annotated[str | None, Field(description="the system's message; none if left out (ours)")] = None
    prompt: Annotated[
        str, Field(description="the user's message, with `{prompt}` where the problem's text goes (ours)")
    ] = "{prompt}"
    samples_per_problem: Annotated[Count, Field(description="answers to each problem, each under its own seed (ours)")]
    keep: Annotated[Literal["best", "random"], Field(description="the shortest right answer, or a drawn one (ours)")]
    temperature: Annotated[Temperature, Field(description="of its sampling (ours)")]
    top_p: Annotated[Share, Field(description="of its sampling (ours)")] = 1.0
    max_response_tokens: Annotated[Tokens, Field(description="of the expert, after which its answer is cut off (ours)")]
    tensor_parallel: Annotated[Count, Field(description="GPUs that hold one replica")] = 1
    options: dict[str, Number | str | bool | list[str]] = Field(
        default={}, description="fields of vLLM's EngineArgs by name; one that it lacks is refused"
    )
    replicas: Annotated[Count, Field(description="servers, each on GPUs of its own; makes nothing anew")] = 1
    shard_size: Annotated[Count, Field(description="problems that are saved together; makes nothing anew (ours)")] = 64
    requests_at_once: Annotated[Count, Field(description="that wait at each replica; makes nothing anew (ours)")] = 64
    start_minutes: Annotated[Minutes, Field(description="for a replica to be ready; makes nothing anew (ours)")] = 30.0

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

    grader: Annotated[GraderName, Field(description="which grader reads the answer")]
    mark: Annotated[Text | None, Field(description="text before the answer, of `marked-text` only")] = None

    @model_validator(mode="after")
    def _mark(self) -> Self:
        if (self.grader == "marked-text") != (self.mark is not None):
            found = "no `mark`" if self.mark is None else "a `mark`"
            raise ValueError(
                f"found {found} with grader {self.grader}, expected the text before the answer with marked-text"
            )
        return self


class Parts(Frozen):
    """Parts of a benchmark with columns of their own in tables of the paper, from the same answers."""

    by: Annotated[str, Field(description="a key of each problem's `source`")]
    columns: Annotated[dict[str, str], Field(min_length=1, description="the paper's column for each value (Table 1)")]


class Benchmark(Frozen):
    """A column of the tables: problems, and the lm-eval task that asks them.

    A sixteenth of a task's prompts is for its first benchmark in the file, half as many for each that follows.
    `categories` are `carries` of a sum, `letters` of a word, or a key of each problem's `source`, such as a column that
    no prompt shows.
    """

    label: Annotated[str, Field(description="heading of the column")]
    problems: Annotated[Split, Field(description="its problems; makes anew that benchmark")]
    file: Annotated[str, Field(description="a file in `benchmarks/`")]
    paper_column: Annotated[str | None, Field(description="the paper's column beside it (Table 1)")] = None
    grading: Annotated[AnswerForm | None, Field(description="where answers are read in another way")] = None
    other_paper_columns: Annotated[
        tuple[str, ...], Field(description="columns beside it in tables of the paper that lack `paper_column`")
    ] = ()
    categories: Annotated[str | None, Field(description="what its problems differ in (B.8)")] = None
    parts: Parts | None = Field(default=None, exclude_if=lambda v: v is None, description="shown beside it (Table 1)")

    @property
    def paper_columns(self) -> tuple[str, ...]:
        """The paper's columns that it may stand beside, the most fitting first."""
        return (*([self.paper_column] if self.paper_column else []), *self.other_paper_columns)


class CorpusPart(Frozen):
    """Texts of one task in one style of answering."""

    task: Annotated[Name, Field(description="a name in `tasks`")]
    style: Annotated[Literal["terse", "worked", "checked"], Field(description="how they are answered (ours)")]
    share: Annotated[Share, Field(description="of the texts; shares add up to 1 (ours)")]


class BaseCorpus(Frozen):
    """What the base model learns from: three eighths of a task's prompts, again and again where those are few."""

    size: Annotated[Count, Field(description="number of texts (ours)")]
    parts: Annotated[tuple[CorpusPart, ...], Field(min_length=1, description="what the texts are (ours)")]
    recipe: Annotated[Recipe, Field(description="as an arm's `recipe`, with `init: random` (ours)")]
    rows_per_step: Annotated[Count, Field(description="texts in each update of the base model (ours)")]

    @model_validator(mode="after")
    def _shares(self) -> Self:
        total = sum(part.share for part in self.parts)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"found shares of `parts` that add up to {total:g}, expected 1")
        return self


class OtherExpert(Frozen):
    """Another `expert`, or the study's own on more `problems`, which of a hub are what RL left."""

    expert: Annotated[Expert | None, Field(description="another one, on the problems of the expert set (D.3)")] = None
    problems: Annotated[Count | None, Field(description="so many; the first are the expert set's (B.3)")] = None


class OtherModel(Frozen):
    """Another `model`, which `chord fetch` brings too, or the study's own trained on another `base_corpus`."""

    model: Annotated[Model | None, Field(description="`random`, on the study's corpus, or `hub`")] = None
    base_corpus: Annotated[BaseCorpus | None, Field(description="another corpus for a `random` model")] = None

    @model_validator(mode="after")
    def _other(self) -> Self:
        if self.model is None and self.base_corpus is None:
            raise ValueError("found neither `model` nor `base_corpus`, expected what makes it another model")
        if self.model is not None and self.model.source == "package":
            raise ValueError("found source package, expected random or hub: only the study's own model is unpacked")
        return self


class Data(Frozen):
    """Which problems the study uses; sets are disjoint by the hash of the prompt, or out of a hub by what is left.

    `refused`: a benchmark is an error that shares a prompt or question with a set that is trained on, or chosen by; or,
    of texts, `filters.overlap_words` words in a row, 8 if left out. `allowed`: that is only counted.
    """

    seed: Annotated[Seed, Field(description="decides every problem, and the training of a `random` base model (ours)")]
    train: Annotated[Split, Field(description="for RL: of a quarter of a task's prompts (20k); makes anew that set")]
    validation: Annotated[Split, Field(description="of an eighth of a task's prompts; makes anew that set")]
    expert: Annotated[
        Split, Field(description="for traces: of an eighth of a task's prompts (5k); makes anew that set")
    ]
    aligned_traces: Annotated[bool, Field(description="whether the expert answers the training problems too")]
    overlap: Literal["refused", "allowed"] = Field(
        default="refused", exclude_if=lambda v: v == "refused", description="with benchmarks (ours)"
    )


class Grading(AnswerForm):
    """How an answer is read and paid; the same grader serves rewards and scores.

    `paper-math`: as the paper's table. `shipped-math`: as the authors' code.
    """

    reward: Annotated[RewardName, Field(description="what outcomes pay (A.2)")]

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

    max_response_tokens: Annotated[Tokens, Field(description="after which the answer is cut off and is too long (16k)")]
    temperature: Annotated[Temperature, Field(description="of sampling in training and validation (1.0)")]


class Groups(Frozen):
    """The rollouts of one step: so many prompts, each answered by a group that is compared with itself."""

    prompts_per_step: Annotated[Count, Field(description="prompts in each update (A.1: 32)")]
    per_prompt: Annotated[Count, Field(description="rollouts that are compared, at least 2 for RL (A.1: 8)")]


class Rollouts(Sampling, Groups):
    """One step's sampling, and the prompts that fit."""

    max_prompt_tokens: Annotated[Tokens, Field(description="tokens; longer problems are left out (ours)")]


class Optimiser(Frozen):
    """Gradients are clipped by their global norm before the step."""

    beta1: Annotated[Below1, Field(description="of AdamW (0.9)")]
    beta2: Annotated[Below1, Field(description="of AdamW (0.999)")]
    epsilon: Annotated[Small, Field(description="of AdamW (ours)")]
    weight_decay: Annotated[NotNegative, Field(description="of AdamW, at most 1 (ours)")]
    max_grad_norm: Annotated[Positive, Field(description="gradients are scaled down to it (the authors' file: 1.0)")]
    warmup_steps: Annotated[StepsOrNone, Field(description="steps in which the learning rate rises from 0 (ours)")]


class PolicyLoss(Frozen):
    """GRPO as in eq. 2."""

    clip_low: Annotated[Small, Field(description="the ratio is clipped below 1 - this (eq. 2: 0.2)")]
    clip_high: Annotated[Positive, Field(description="the ratio is clipped above 1 + this (eq. 2: 0.2)")]
    advantage_epsilon: Annotated[Small, Field(description="added to the deviation of a group's rewards (eq. 2)")]
    importance_cap: Annotated[
        Positive | None, Field(description="of the ratio of learner to sampler; none if left out (ours)")
    ] = None


class Validation(Frozen):
    """Sampling on the validation set during training; it picks checkpoints, never the benchmarks."""

    every_steps: Annotated[Steps, Field(description="steps between two validations (not said)")]
    problems: Annotated[Count, Field(description="the first so many of the validation set (not said)")]
    samples_per_problem: Annotated[Count, Field(description="answers to each of them (not said)")]


class Arithmetic(Frozen):
    """How sums are formed: may move the last bits of a result, never its definition."""

    compute_dtype: Annotated[Literal["float32", "bfloat16", "float64"], Field(description="of products, not weights")]
    micro_batch_tokens: Annotated[Count, Field(description="tokens of one forward pass; decides memory, not results")]
    sampler_rows: Annotated[Count, Field(description="rollouts sampled at one time; decides memory")]
    logit_chunk_tokens: Annotated[Count, Field(description="tokens whose logits are in memory at one time")]
    deterministic: Annotated[bool, Field(description="only kernels that repeat their bits")]
    recompute_activations: bool = Field(
        default=False, exclude_if=lambda v: not v, description="the backward pass makes inner states again (ours)"
    )
    sampler: Literal["transformers", "vllm"] = Field(
        default="transformers", exclude_if=lambda v: v == "transformers", description="of training (ours)"
    )
    vllm: Vllm | None = Field(
        default=None, exclude_if=lambda v: v is None, description="of `sampler: vllm` only"
    )  # left out, as above, of every run.json
    zero: Zero = Field(
        default=Zero(), exclude_if=lambda v: v == Zero(), description="of DeepSpeed; not with `float64`"
    )  # and so is this

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
    """How the machine is used. What is not `Arithmetic` makes nothing anew, but for answers.

    `sampler` is the model that learns, or vLLM with weights handed over after each step. `answers` are by transformers,
    or by lm-eval's own model for vLLM (`make install-engines`). Recomputing activations saves memory and costs a third
    more arithmetic. Answers that do not depend on the batch need NVIDIA GPUs from compute capability 8.0.
    """

    cpu_threads: Annotated[int, Field(ge=1, le=4096, description="of a job; makes nothing anew, but moves last bits")]
    checkpoint_every_steps: Annotated[Steps, Field(description="steps that a kill loses at most; makes nothing anew")]
    checkpoint_every_minutes: Annotated[Minutes, Field(description="minutes, if these end sooner; makes nothing anew")]
    answers: Literal["transformers", "vllm"] = Field(
        default="transformers", exclude_if=lambda v: v == "transformers", description="of benchmarks (ours)"
    )
    answers_batch_invariant: bool = Field(
        default=False, exclude_if=lambda v: not v, description="`vllm`: answers do not depend on the batch (ours)"
    )
    answers_options: dict[str, Number | str | bool | list[str]] = Field(
        default={},
        exclude_if=lambda v: not v,
        description="`vllm`: fields of its EngineArgs by name; others are refused (ours)",
    )

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

    A chat template that shows a day (`date_string`, as Llama 3.2's) is refused without a `prompt_date`, of the policy
    and of a served expert; another one makes anew all that renders prompts.
    """

    name: Annotated[Name, Field(description="that of the file; results are in `results/NAME/`")]
    title: Annotated[str, Field(description="how the page names the study")]
    seeds: Annotated[tuple[Seed, ...], Field(description="of trainings, where `config.yaml` gives none (ours)")]
    model: Annotated[Model, Field(description="the model that arms start from")]
    prompt_date: str | None = Field(
        default=None, exclude_if=lambda v: v is None, description="day, such as 26 Jul 2024, that prompts show"
    )
    datasets: dict[Name, Dataset] = Field(default={}, description="of a model hub; `chord fetch` brings and pins them")
    tasks: Annotated[dict[Name, Task], Field(description="where problems come from, by names of your own")]
    data: Annotated[Data, Field(description="which problems the study uses")]
    base_corpus: Annotated[BaseCorpus | None, Field(description="what a `random` model learns from (ours)")] = None
    other_models: dict[Name, OtherModel] = Field(
        default={}, description="models that arms start from as `base-NAME` (B.5, B.6, Figure 13)"
    )
    expert: Annotated[Expert, Field(description="who writes the expert traces (the paper: DeepSeek-R1's, published)")]
    other_experts: dict[Name, OtherExpert] = Field(default={}, description="traces for arms, `expert-NAME` (B.3, D.3)")
    grading: Annotated[Grading, Field(description="how answers are read and paid")]
    rollouts: Annotated[Rollouts, Field(description="what the policy samples in each step")]
    expert_rows_per_step: Annotated[Count, Field(description="traces in each update that imitates (A.1: 64)")]
    optimiser: Annotated[Optimiser, Field(description="AdamW")]
    policy_loss: Annotated[PolicyLoss, Field(description="of RL (eq. 2)")]
    validation: Annotated[Validation, Field(description="which picks checkpoints (A.2)")]
    benchmarks: Annotated[dict[Name, Benchmark], Field(min_length=1, description="columns of the tables, by name")]
    budget: Annotated[dict[str, Number], Field(description="numbers that recipes ask for as `budget.KEY`")]
    execution: Annotated[Execution, Field(description="how the machine is used")]

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
