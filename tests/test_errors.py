"""The tree of errors: one exit code per class, and a README that says the same."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import lepton_p2p
from lepton_p2p import errors
from lepton_p2p.cli import exit_codes
from lepton_p2p.errors import LeptonError

README = Path(__file__).parent.parent / "README.md"


def every_error() -> set[type[LeptonError]]:
    """All subclasses that exist after importing the whole package."""
    for module in pkgutil.walk_packages(lepton_p2p.__path__, "lepton_p2p."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, new = set(), {LeptonError}
    while new:
        found |= new
        new = {sub for cls in new for sub in cls.__subclasses__() if sub.__module__.startswith("lepton_p2p")} - found
    return found


def test_no_two_classes_of_the_tree_share_an_exit_code() -> None:
    classes = exit_codes.error_classes()
    codes = [cls.exit_code for cls in classes]
    assert len(set(codes)) == len(codes) > 10
    assert all("exit_code" in vars(cls) for cls in classes)


def test_exit_codes_are_none_that_a_shell_or_the_command_line_itself_uses() -> None:
    reserved = {0, exit_codes.DEMO_FAILED, exit_codes.INTERRUPTED}
    for cls in exit_codes.error_classes():
        assert 1 <= cls.exit_code < 64, cls
        assert cls.exit_code not in reserved, cls


def test_errors_of_the_rooms_keep_the_code_of_the_class_that_they_specialise() -> None:
    tree = set(exit_codes.error_classes())
    for cls in every_error() - tree:
        parent = next(base for base in cls.__mro__ if base in tree)
        assert cls.exit_code == parent.exit_code, f"{cls.__module__}.{cls.__name__} belongs into errors.py"


def test_every_class_says_what_it_means() -> None:
    for cls in exit_codes.error_classes():
        assert cls.__doc__, cls
        assert cls.__doc__ != cls.__mro__[1].__doc__, cls


def test_a_wait_that_times_out_is_also_the_builtin_timeout() -> None:
    assert issubclass(errors.WaitTimeout, TimeoutError)


def test_readme_has_the_table_of_exit_codes() -> None:
    found = re.search(r"<!-- exit codes -->\n(.*?)\n<!-- /exit codes -->", README.read_text(), re.DOTALL)
    assert found is not None, "README.md has lost its table of exit codes"
    assert found[1] == exit_codes.table(), "run: make docs"
