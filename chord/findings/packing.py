"""What the page carries with it: its own style and script, and data in compressed form. Knows no results."""

import base64
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

WEB = Path(__file__).with_name("web")
STYLE = "page.css"
SCRIPTS = ("data.js", "figures.js", "chain.js", "page.js")


def style() -> str:
    """The style sheet of the page."""
    return (WEB / STYLE).read_text(encoding="utf-8")


def script() -> str:
    """The whole script of the page; names that it gives are seen by nobody else."""
    parts = [(WEB / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


def digests(code: Path | None = None) -> dict[str, str]:
    """SHA-256 of style sheet and scripts, by name; `code` is the folder that holds another chord/ than this one."""
    folder = code / "chord" / "findings" / "web" if code else WEB
    files = (folder / name for name in (STYLE, *SCRIPTS))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}


def packed(name: str, value: Any) -> str:
    """The data as a script element with the id `name`: JSON, gzip, base64; so nothing in it can be taken for HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    content = gzip.compress(text.encode("utf-8", errors="replace"), compresslevel=9, mtime=0)
    return f'<script type="text/plain" id="{name}">{base64.b64encode(content).decode("ascii")}</script>'
