"""Print the reference page of a peer's options; with ``--write``, write it into docs/options.md."""

from __future__ import annotations

import sys
from pathlib import Path

from lepton_p2p.cli.reference import options_page

PAGE = Path(__file__).parent.parent / "docs" / "options.md"


def main() -> None:
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(options_page())
    else:
        print(options_page())


if __name__ == "__main__":
    main()
