"""Tasks and datasets: where problems come from, which rows of a dataset are problems. Knows no study and no files."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from chord.settings import Count, CountOrNone, Frozen, Name, Number, Text, Tokens

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
