"""Asking served replicas: every question once, in order, under its seed; trouble is tried again, refusals are told."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chord.errors import UserError
from chord.records import Sampled
from chord.sampling import vllm_server
from chord.sampling.vllm_server import Endpoint, Server, ServerError, complete

END = 9
ASKED = [(f"p#{number}", {"prompt": [1, number], "stop_token_ids": [END]}) for number in range(12)]
Answerer = Callable[[dict[str, Any], int], tuple[int, Any]]


class Fake:
    """An HTTP server on loopback that says what it is told to; `asked` has every prompt, each time it was asked."""

    def __init__(self, log: Path, answer: Answerer) -> None:
        self.asked: list[tuple[int, ...]] = []
        self.gone: int | None = None
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.asked.append(tuple(body["prompt"]))
                status, said = answer(body, fake.asked.count(tuple(body["prompt"])))
                content = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                """Nothing on the terminal."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        rest: Any = {"guard": SimpleNamespace(poll=lambda: self.gone), "lifeline": None, "held": None}
        self.server = Server("127.0.0.1", self.http.server_address[1], "key", log, 0, None, **rest)


def good(body: dict[str, Any], tried: int = 1) -> tuple[int, Any]:
    return 200, {"choices": [{"token_ids": [body["prompt"][1] % 7, END], "finish_reason": "stop"}]}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answerer], Fake]]:
    monkeypatch.setattr(vllm_server, "PAUSE_SECONDS", 0.01)
    with ExitStack() as stack:

        def make(answer: Answerer) -> Fake:
            made = Fake(tmp_path / "vllm-0.log", answer)
            stack.callback(made.http.server_close)
            stack.callback(made.http.shutdown)
            return made

        yield make


def test_each_question_is_asked_once_of_whichever_replica_is_free_and_answered_in_its_place(fake):
    """One replica is kept busy until the other has answered all but the three that it was asked at once."""
    done = threading.Event()

    def slow(body: dict[str, Any], tried: int) -> tuple[int, Any]:
        assert done.wait(60)
        return good(body, tried)

    def fast(body: dict[str, Any], tried: int) -> tuple[int, Any]:
        if len(two.asked) == 9:
            done.set()
        return good(body, tried)

    one, two = fake(slow), fake(fast)
    got = complete([one.server, two.server], ASKED, 3)
    assert got == [Sampled([number % 7, END], [], "stop") for number in range(12)]
    assert sorted(one.asked + two.asked) == [(1, number) for number in range(12)]
    assert (len(one.asked), len(two.asked)) == (3, 9)


def choices(*found: dict[str, Any]) -> tuple[int, Any]:
    return 200, {"choices": list(found)}


@pytest.mark.parametrize(
    "trouble",
    [
        (500, b"out of sorts"),
        (503, b""),
        (200, b"not JSON"),
        choices(),
        choices({"token_ids": None, "finish_reason": "stop"}),
        choices({"token_ids": [1], "finish_reason": "stop"}),
        choices({"token_ids": [1], "finish_reason": "abort"}),
    ],
)
def test_trouble_is_tried_again_and_told_with_the_question_if_it_stays(fake, trouble):
    def until(tries: int) -> Answerer:
        return lambda body, tried: trouble if tried <= tries and body["prompt"] == [1, 4] else good(body)

    passing, staying = fake(until(2)), fake(until(99))
    assert len(complete([passing.server], ASKED, 3)) == 12
    with pytest.raises(ServerError, match=r"vllm-0.log: found no answer to p#4 in 3 tries \(Malformed: "):
        complete([staying.server], ASKED, 3)
    assert passing.asked.count((1, 4)) == staying.asked.count((1, 4)) == 3


def test_log_probabilities_that_are_asked_for_belong_to_all_tokens(fake):
    def answer(body: dict[str, Any], tried: int) -> tuple[int, Any]:
        status, said = good(body, tried)
        said["choices"][0]["logprobs"] = {"token_logprobs": [-0.5] * body["prompt"][1]}
        return status, said

    bodies = [(name, body | {"logprobs": 0}) for name, body in ASKED]
    server = fake(answer).server
    assert complete([server], bodies[2:3], 1) == [Sampled([2, END], [-0.5, -0.5], "stop")]
    with pytest.raises(ServerError, match="1 log-probabilities of 2 tokens"):
        complete([server], bodies[1:2], 1)


def test_an_answer_that_does_not_come_is_given_up(fake):
    never = threading.Event()

    def late(body: dict[str, Any], tried: int) -> tuple[int, Any]:
        never.wait(60)
        return good(body, tried)

    with pytest.raises(ServerError, match="TimeoutError: timed out"):
        complete([fake(late).server], ASKED[:1], 3, seconds=0.1)
    never.set()


def test_a_refusal_ends_everything_at_once_with_vllms_words(fake):
    refusal = 400, {"error": {"message": "prompt too long"}}
    refusing = fake(lambda body, tried: refusal if body["prompt"] == [1, 4] else good(body))
    with pytest.raises(UserError, match=r"p#4: vLLM refuses it \(400: .*prompt too long"):
        complete([refusing.server], ASKED, 3)
    assert refusing.asked.count((1, 4)) == 1


def test_a_server_that_is_gone_is_told_with_the_end_of_its_log(fake, tmp_path):
    (tmp_path / "vllm-0.log").write_text("RuntimeError: out of memory\n")
    dying = fake(lambda body, tried: (500, b""))
    dying.gone = 1
    with pytest.raises(ServerError, match=r"the server ended \(exit code 1\); its log says:\nRuntimeError: out of mem"):
        complete([dying.server], ASKED, 3)


def test_a_model_that_is_not_told_is_an_error(fake):
    server = fake(good).server
    with pytest.raises(ServerError, match=r"vllm-0.log: /v1/models: found answer 501, .*, expected 200"):
        server.model()
    with pytest.raises(ServerError, match=r"127.0.0.1:1: /v1/models: found no vLLM server \(.*refused\); see its log"):
        Endpoint("127.0.0.1", 1, "key").model()
