"""One target under atheris: `python -m tests.fuzz.engine TARGET [libFuzzer options]`.

The only module here that needs atheris. The library is instrumented, its tests are not:
what steers the search is the code that decodes.
"""

from __future__ import annotations

import sys

import atheris


def main(arguments: list[str]) -> None:
    name, *options = arguments
    with atheris.instrument_imports(include=["batpak", "batpak_cli"]):
        from tests.fuzz import target

        chosen = target.load()[name]
    atheris.Setup([name, f"-max_len={chosen.max_bytes}", *options], chosen.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
