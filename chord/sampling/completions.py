"""Many questions to served replicas: each is asked once, of whichever replica is free, and answered under its seed.

Prompts go as tokens, so that no text is read as a special token on the way. A refusal, or a server that is gone, ends
everything with a reason; what may be a moment's trouble is tried again.
"""

import http.client
import json
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from chord.provenance.files import UserError
from chord.sampling.protocol import Request
from chord.sampling.server import NAME, Server, ServerError

SEEDS = 2**63  # vLLM takes seeds from 0 to below this one
TRIES = 3
PAUSE_SECONDS = 1.0


class Completion(NamedTuple):
    """The tokens of a response; with `finish` "stop" the last one is an end token."""

    ids: list[int]
    finish: str  # "stop" or "length"


@dataclass(frozen=True)
class Wish:
    """How every response is sampled. `end_ids` alone end one; `at_once` questions wait at each replica."""

    max_tokens: int
    temperature: float
    top_p: float
    end_ids: tuple[int, ...]
    at_once: int
    seconds: float = 3600.0


class Malformed(Exception):
    """An answer that is none: an error of the server, or content that is not what was asked for."""


def context_of(server: Server) -> int:
    """How many tokens of prompt and response together the server takes."""
    status, said = server.ask("GET", "/v1/models", seconds=60.0)
    try:
        return int(json.loads(said)["data"][0]["max_model_len"])
    except (ValueError, KeyError, IndexError, TypeError):
        raise ServerError(f"{server.log}: found {status} {said[:200]!r}, expected a model with its length") from None


def complete(servers: Sequence[Server], requests: Sequence[Request], wish: Wish) -> list[Completion]:
    """One completion for each request, in order. Raises UserError for what a server refuses, ServerError for its end.

    Threads do the waiting; they are not waited for when something ends this, for instance SIGTERM.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Completion | Exception]] = queue.SimpleQueue()
    for index in range(len(requests)):
        waiting.put(index)
    ended = threading.Event()

    def work(server: Server) -> None:
        while not ended.is_set():
            try:
                index = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((index, _answered(server, requests[index], wish, ended)))
            except (UserError, OSError) as error:
                done.put((index, error))
                return

    for server in servers:
        for _ in range(min(wish.at_once, len(requests))):
            threading.Thread(target=work, args=(server,), daemon=True).start()
    results: dict[int, Completion] = {}
    try:
        while len(results) < len(requests):
            index, result = done.get()
            if isinstance(result, Exception):
                raise result
            results[index] = result
    finally:
        ended.set()
    return [results[index] for index in range(len(requests))]


def _answered(server: Server, request: Request, wish: Wish, ended: threading.Event) -> Completion:
    """The answer to one request, tried again where an answer is late, lost or malformed."""
    trouble = ""
    for tried in range(TRIES):
        if tried and ended.wait(PAUSE_SECONDS * 2**tried):
            break
        try:
            status, said = server.ask("POST", "/v1/completions", _body(request, wish), wish.seconds)
            if 400 <= status < 500:
                raise UserError(f"{request.id}: vLLM refuses it ({status}: {said[:500].decode(errors='replace')})")
            return _read(status, said, wish.end_ids)
        except (OSError, http.client.HTTPException, Malformed) as error:
            trouble = f"{type(error).__name__}: {error}"
            time.sleep(PAUSE_SECONDS)  # so that the end of a server that dies is seen as that
            server.check()
    raise ServerError(
        f"{server.log}: found no answer to {request.id} in {TRIES} tries ({trouble}), expected one; {server.told()}"
    )


def _body(request: Request, wish: Wish) -> dict[str, Any]:
    return {
        "model": NAME,
        "prompt": list(request.prompt_ids),
        "max_tokens": wish.max_tokens,
        "temperature": wish.temperature,
        "top_p": wish.top_p,
        "seed": request.seed % SEEDS,
        "stop_token_ids": list(wish.end_ids),
        "ignore_eos": True,
        "return_token_ids": True,
    }


def _read(status: int, said: bytes, end_ids: Sequence[int]) -> Completion:
    """The one completion in an answer. Raises Malformed for anything else."""
    if status != 200:
        raise Malformed(f"status {status}, {said[:200]!r}")
    try:
        choice = json.loads(said)["choices"][0]
        ids, finish = [int(token) for token in choice["token_ids"]], choice["finish_reason"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Malformed(f"{type(error).__name__} in {said[:200]!r}") from None
    if finish not in ("stop", "length") or (finish == "stop" and (not ids or ids[-1] not in end_ids)):
        raise Malformed(f"a response that ended by '{finish}' with token {ids[-1:]}")
    return Completion(ids, finish)
