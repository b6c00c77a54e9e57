"""Write the table of exit codes into README.md, between ``<!-- exit codes -->`` and ``<!-- /exit codes -->``.

Without arguments it prints the table; with ``--write`` it replaces the one in README.md.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from lepton_p2p.cli.exit_codes import table

README = Path(__file__).parent.parent / "README.md"
MARKED = re.compile(r"(<!-- exit codes -->\n).*?(\n<!-- /exit codes -->)", re.DOTALL)


def main() -> int:
    if sys.argv[1:] != ["--write"]:
        print(table())
        return 0
    text, count = MARKED.subn(lambda found: found[1] + table() + found[2], README.read_text())
    if count != 1:
        print("README.md has no pair of lines <!-- exit codes --> and <!-- /exit codes -->", file=sys.stderr)
        return 1
    README.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
