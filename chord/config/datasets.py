"""Datasets of a model hub, and which of their rows are problems of a task. Knows no study and no files."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from chord.config.base import Count, CountOrNone, Frozen

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
    revision: str
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    columns: dict[str, str]
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
    generation_tokens: Count | None = None
    overlap_words: Count | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.generation_tokens is not None and not self.generations:
            raise ValueError(
                "found `generation_tokens` without `generations`, expected how many of them a problem must have"
            )
        return self
