"""Print what the project needs, one requirement per line: for a layer or folder that outlives changes of the source.

``python scripts/requirements.py EXTRA ...`` prints the dependencies of pyproject.toml and those of the extras;
``--build`` adds what builds the package itself.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path


def main() -> None:
    """Read pyproject.toml of the current folder and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*", help="names in [project.optional-dependencies]")
    parser.add_argument("--build", action="store_true", help="also [build-system] requires")
    options = parser.parse_args()
    pyproject = tomllib.loads(Path("pyproject.toml").read_text())
    lines = list(pyproject["project"]["dependencies"])
    for extra in options.extras:
        lines += pyproject["project"]["optional-dependencies"][extra]
    if options.build:
        lines += pyproject["build-system"]["requires"]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
