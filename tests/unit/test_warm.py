"""A command that `tests.warm` forks prints and ends as one that Python starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm

ENDS = {
    "by itself": "print('said', end=' and meant')",
    "with a number": "import sys; print('said'); sys.exit(75)",
    "with a number above a byte": "import sys; sys.exit(256 + 7)",
    "with a text": "import sys; sys.exit('found a, expected b')",
    "with nothing": "import sys; sys.exit()",
    "with a truth": "import sys; sys.exit(True)",
    "with an error": "raise ValueError('found a, expected b')",
    "with what was registered": "import atexit; atexit.register(print, 'at last'); print('first')",
    "with a finalizer": "import weakref; kept = {1}; weakref.finalize(kept, print, 'at last')",
    "with a thread": "import threading; threading.Timer(0.2, print, ['late']).start()",
    "by a signal": "import os, signal; print('said', flush=True); os.kill(os.getpid(), signal.SIGTERM)",
    "by Ctrl-C": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
}


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS.keys())
def test_it_ends_as_any_other_with_the_same_words(code: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", code]
    forked = warm.start(command, cwd=tmp_path)
    own = forked.communicate(60)
    fresh = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert forked.returncode == fresh.returncode
    assert own[0] == fresh.stdout
    assert own[1].splitlines()[-1:] == fresh.stderr.splitlines()[-1:]
