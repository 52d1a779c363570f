"""A server for tests of starts and ends: it answers as vLLM does, with processes below it that do not want to end.

python stand_in_server.py PORT KIND: `answers`; `dies` with an error in its log; `silent`: never answers; `stubborn`:
neither it nor its child, which has a session of its own, ends on SIGTERM.
"""

import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

SLEEP = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


class Models(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.headers["Authorization"] == f"Bearer {os.environ['VLLM_API_KEY']}"
        said = b'{"data": [{"id": "served"}]}' if known else b"{}"
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


def main() -> None:
    port, kind = int(sys.argv[1]), sys.argv[2]
    subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=kind == "stubborn")
    if kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == "dies":
        print("WARNING: OSError: found nothing of interest", "\nValueError: found no such architecture", flush=True)
        print("\n".join(f"frame {number}" for number in range(100)), flush=True)
        sys.exit(3)
    if kind == "silent":
        time.sleep(600)
    HTTPServer(("127.0.0.1", port), Models).serve_forever()


if __name__ == "__main__":
    main()
