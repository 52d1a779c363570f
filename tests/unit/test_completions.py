"""Asking served replicas: every question once, in order, under its seed; trouble is tried again, refusals are told."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chord.errors import UserError
from chord.sampling import vllm_server
from chord.sampling.protocol import Request
from chord.sampling.vllm_server import Completion, Server, ServerError, Wish, complete, context_of

END = 9
WISH = Wish(max_tokens=4, temperature=0.7, top_p=0.9, end_ids=(END,), at_once=3, seconds=1.0)
REQUESTS = [Request(f"p#{number}", (1, number), 2**63 + number) for number in range(12)]
Answerer = Callable[[dict[str, Any], int], tuple[int, Any]]


class Fake:
    """An HTTP server on loopback that says what it is told to; `asked` has every body, `tries` counts each prompt."""

    def __init__(self, log: Path, answer: Answerer) -> None:
        self.asked: list[dict[str, Any]] = []
        self.tries: Counter[tuple[int, ...]] = Counter()
        self.gone: int | None = None
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.asked.append(body)
                fake.tries[tuple(body["prompt"])] += 1
                status, said = answer(body, fake.tries[tuple(body["prompt"])])
                content = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                """Nothing on the terminal."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        guard: Any = SimpleNamespace(poll=lambda: self.gone)
        self.server = Server(self.http.server_address[1], "key", log, None, guard, 0, -1, None)


def good(body: dict[str, Any], tried: int) -> tuple[int, Any]:
    return 200, {"choices": [{"token_ids": [body["prompt"][1] % 7, END], "finish_reason": "stop"}]}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answerer], Fake]]:
    monkeypatch.setattr(vllm_server, "PAUSE_SECONDS", 0.01)
    made: list[Fake] = []

    def make(answer: Answerer) -> Fake:
        made.append(Fake(tmp_path / "vllm-0.log", answer))
        return made[-1]

    yield make
    for one in made:
        one.http.shutdown()


def test_each_question_is_asked_once_and_answered_in_its_place_by_whichever_replica_is_free(fake):
    one, two = fake(good), fake(good)
    got = complete([one.server, two.server], REQUESTS, WISH)
    assert got == [Completion([number % 7, END], "stop") for number in range(12)]
    assert sorted((one.tries + two.tries).items()) == [((1, number), 1) for number in range(12)]
    assert one.asked and two.asked
    body = next(body for body in one.asked + two.asked if body["prompt"] == [1, 5])
    assert (body["seed"], body["temperature"], body["top_p"], body["stop_token_ids"]) == (5, 0.7, 0.9, [END])


def test_a_slow_replica_does_not_hold_up_the_other(fake):
    def slow(body: dict[str, Any], tried: int) -> tuple[int, Any]:
        time.sleep(0.5)
        return good(body, tried)

    one, two = fake(slow), fake(good)
    complete([one.server, two.server], REQUESTS, WISH)
    assert len(one.asked) == 3 and len(two.asked) == 9  # those that were at the slow one at once, and the rest


@pytest.mark.parametrize(
    "trouble",
    [
        (500, b"out of sorts"),
        (503, b""),
        (200, b"not JSON"),
        (200, {"choices": []}),
        (200, {"choices": [{"token_ids": None, "finish_reason": "stop"}]}),
        (200, {"choices": [{"token_ids": [1], "finish_reason": "stop"}]}),
        (200, {"choices": [{"token_ids": [1], "finish_reason": "abort"}]}),
    ],
)
def test_trouble_is_tried_again_and_told_with_the_question_if_it_stays(fake, trouble):
    passing = fake(lambda body, tried: trouble if tried < 3 and body["prompt"] == [1, 4] else good(body, tried))
    assert len(complete([passing.server], REQUESTS, WISH)) == 12
    assert passing.tries[(1, 4)] == 3
    staying = fake(lambda body, tried: trouble if body["prompt"] == [1, 4] else good(body, tried))
    with pytest.raises(ServerError, match=r"vllm-0.log: found no answer to p#4 in 3 tries \(Malformed: "):
        complete([staying.server], REQUESTS, WISH)
    assert staying.tries[(1, 4)] == 3


def test_an_answer_that_does_not_come_is_given_up(fake):
    def late(body: dict[str, Any], tried: int) -> tuple[int, Any]:
        time.sleep(0.5)
        return good(body, tried)

    wish = Wish(4, 0.7, 1.0, (END,), at_once=12, seconds=0.1)
    with pytest.raises(ServerError, match="TimeoutError: timed out"):
        complete([fake(late).server], REQUESTS[:1], wish)


def test_a_refusal_ends_everything_at_once_with_vllms_words(fake):
    def refuse(body: dict[str, Any], tried: int) -> tuple[int, Any]:
        return (400, {"error": {"message": "prompt too long"}}) if body["prompt"] == [1, 4] else good(body, tried)

    refusing = fake(refuse)
    with pytest.raises(UserError, match=r"p#4: vLLM refuses it \(400: .*prompt too long"):
        complete([refusing.server], REQUESTS, WISH)
    assert refusing.tries[(1, 4)] == 1


def test_a_server_that_is_gone_is_told_with_the_end_of_its_log(fake, tmp_path):
    (tmp_path / "vllm-0.log").write_text("RuntimeError: out of memory\n")
    dying = fake(lambda body, tried: (500, b""))
    dying.gone = 1
    with pytest.raises(ServerError, match=r"the server ended \(exit code 1\); its log says:\nRuntimeError: out of mem"):
        complete([dying.server], REQUESTS, WISH)


def test_a_context_that_is_not_told_is_an_error(fake):
    with pytest.raises(ServerError, match=r"found 501 .*, expected a model with its length"):
        context_of(fake(good).server)
