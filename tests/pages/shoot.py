"""Makes docs/report.png, the picture of the page in README.md: `python tests/pages/shoot.py results/demo/report.html`.

Needs Chromium. Any study's page can be given; say in the README which study and commit it was.
"""

import sys
from pathlib import Path

from tests.pages.browser import chromium

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "report.png"


def main() -> None:
    """Take the picture: the top of the page, 1100 pixels wide."""
    with chromium() as page:
        page.open(Path(sys.argv[1]), width=1100, height=940)
        page.picture(PICTURE)
    print(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
