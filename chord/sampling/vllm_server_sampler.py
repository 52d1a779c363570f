"""A sampler that asks vLLM servers: token ids over HTTP, weights through a folder that they can read.

Its promise is less than that of the engine in this process: requests arrive in whatever order the network gives them,
so that the rounding of probabilities, and rarely a token, may differ between two equal runs, unless the servers are
batch-invariant. Servers must have been started with `PolicyWeights` and vLLM's development routes (`NEEDED`).
"""

import http.client
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from chord.provenance.files import UserError
from chord.sampling.protocol import Request, Sampled, check_prompts
from chord.sampling.vllm_sampler import Held, read_held, sampling_settings

SECONDS = 3600.0  # for one answer; a server that is gone says so at once
NEEDED = {"VLLM_SERVER_DEV_MODE": "1"}  # else no route hands weights over


@dataclass(frozen=True)
class Place:
    """Where a server listens, and the secret that it wants to hear."""

    host: str
    port: int
    key: str

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of its answer. Raises UserError where there is none, or the server is not content."""
        method = "GET" if body is None else "POST"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=SECONDS)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise UserError(f"{self.host}:{self.port}{path}: found no vLLM server ({error}); see its log") from None
        finally:
            connection.close()
        if answer.status != 200:
            raise UserError(
                f"{self.host}:{self.port}{path}: found answer {answer.status}, {said[:300]!r}, expected 200"
            )
        return json.loads(said) if said else None


class ServerSampler:
    """Samples from servers that hold one policy; `take` weights before the first `sample`."""

    def __init__(
        self, places: Sequence[Place], end_ids: Sequence[int], context: int, rows: int, folder: Path | None
    ) -> None:
        """`rows` is how many requests each server has at one time.

        `folder` is where weights are written for the servers to read; none for a rank that only samples.
        """
        self.places, self.end_ids, self.context = list(places), list(end_ids), context
        self.name: str = self.places[0].ask("/v1/models")["data"][0]["id"]
        self.rows, self.folder = rows, folder
        self.end: Callable[[], None] = lambda: None

    def sample(self, requests: Sequence[Request], max_tokens: int, temperature: float) -> list[Sampled]:
        """One response for each request, in order. Raises PromptError for an empty or over-long prompt."""
        check_prompts(requests, max_tokens, self.context)
        told = sampling_settings(requests, self.end_ids, max_tokens, temperature)
        with ThreadPoolExecutor(self.rows * len(self.places)) as pool:
            answers = [
                pool.submit(self._answer, self.places[index % len(self.places)], request, settings)
                for index, (request, settings) in enumerate(zip(requests, told, strict=True))
            ]
            return [answer.result() for answer in answers]

    def take(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Writes the weights where the servers read them, and has each take them; a rank without a folder does not."""
        if self.folder is None:
            return
        here = self.folder / f"version-{version}"
        here.mkdir(parents=True, exist_ok=True)
        save_file({name: one.detach().cpu().contiguous() for name, one in weights}, here / "model.safetensors")
        asked = {"method": "take_policy", "kwargs": {"version": str(version), "folder": str(here.resolve())}}
        for place in self.places:
            place.ask("/collective_rpc", asked)
            if not place.ask("/reset_prefix_cache", {})["success"]:
                raise UserError(f"{place.host}:{place.port}: found requests of others, expected none between two steps")
        shutil.rmtree(here)

    def held(self) -> list[Held]:
        """What each server computes with now."""
        said = [place.ask("/collective_rpc", {"method": "policy_checksums"})["results"] for place in self.places]
        return [read_held(worker) for workers in said for worker in workers]

    def rest(self) -> None:
        """A server has devices of its own, so it need not make room."""

    def close(self) -> None:
        """Ends the servers, if they were started here."""
        self.end()

    def _answer(self, place: Place, request: Request, settings: dict[str, Any]) -> Sampled:
        body = settings | {"model": self.name, "prompt": list(request.prompt_ids), "return_token_ids": True}
        del body["detokenize"]
        choice = place.ask("/v1/completions", body | {"skip_special_tokens": False})["choices"][0]
        ids, logp = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        if choice["finish_reason"] not in ("stop", "length") or len(ids) != len(logp):
            raise UserError(
                f"{request.id}: found an answer that ended by {choice['finish_reason']}, expected a whole one"
            )
        return Sampled(ids, logp, choice["finish_reason"])
