"""lm-eval's own vLLM model, asked as we ask: our tokens, a seed for each answer, end tokens alone, answers as records.

What lm-eval's class does stays: it orders and batches the requests, sets the sampling parameters and runs the engine.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models import vllm_causallms

from chord.evaluation.lm_eval_models import Answering, Texts
from chord.records import Request, Sampled, check_prompts
from chord.sampling.vllm_sampler import as_sampled
from chord.sampling.vllm_server import SEEDS, refusals_of

LmEvalVllm: Any = vllm_causallms.VLLM  # its decorator tells type checkers less than it is


class VllmPolicyModel(Answering, LmEvalVllm):
    """Answers benchmarks with the model in a folder.

    Its engine lives in this process and ends with it. Call `chord.sampling.vllm_server.prepare_process` before this
    module is imported. Raises UserError where vLLM refuses the options.
    """

    batch_size: int | str

    def __init__(self, folder: Path, texts: Texts, options: Mapping[str, Any]) -> None:
        self.texts = texts
        self._sampled: dict[int, Sampled] = {}  # by the seed that vLLM was given
        with refusals_of(str(folder)):
            LmEvalVllm.__init__(self, str(folder), **options)

    @property
    def dtype(self) -> str:
        """In what the engine computes, whatever it was told: `bfloat16`, for one."""
        return str(self.model.llm_engine.model_config.dtype).removeprefix("torch.")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """A text for each request, in order. Raises PromptError for one that is empty or longer than the context."""
        generate = LmEvalVllm.generate_until

        def sample(wanted: list[Request], settings: Mapping[str, Any]) -> list[Sampled]:
            check_prompts(wanted, settings["max_gen_toks"], self.max_length)
            ours = {"stop_token_ids": list(self.texts.ends), "ignore_eos": True, "top_p": 1.0, "top_k": -1}
            told: list[Any] = [copy.copy(request) for request in requests]
            for request, one in zip(told, wanted, strict=True):
                own = {"detokenize": False, "seed": one.seed % SEEDS}
                request.arguments = (request.arguments[0], {**settings, **ours, **own})
            self._sampled = {}
            self.batch_size = len(told)  # vLLM batches; and its bar, shown for "auto", divides by zero without bars
            generate(self, told, disable_tqdm=disable_tqdm)
            return [self._sampled[one.seed % SEEDS] for one in wanted]

        return self.answered(requests, sample)

    def tok_encode(self, string: Any, add_special_tokens: Any = None, **kwargs: Any) -> Any:
        """The tokens of whole prompts: the chat template is ours, and text never becomes a special token."""
        encode = self.texts.encode
        return encode(string) if isinstance(string, str) else [encode(one) for one in string]

    @staticmethod
    def modify_gen_kwargs(
        gen_kwargs: dict[str, Any], eos: str | list[str] | None = None, default_max_gen_toks: int = 256
    ) -> tuple[dict[str, Any], list[str], int]:
        """As lm-eval has it, without texts that end a response: end tokens do."""
        told, _, most = LmEvalVllm.modify_gen_kwargs(gen_kwargs, eos, default_max_gen_toks)
        return told, [], most

    def _model_generate(self, requests: Any, generate: bool = False, sampling_params: Any = None) -> Any:
        results = LmEvalVllm._model_generate(self, requests, generate, sampling_params)
        for parameters, result in zip(sampling_params, results, strict=True):
            self._sampled[parameters.seed] = as_sampled(result.outputs[0])
        return results
