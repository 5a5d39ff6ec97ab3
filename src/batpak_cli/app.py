"""The program `batpak`: its commands, and what becomes of errors and broken pipes.

Exit codes: 0 good, 1 a finding, 2 usage, 3 damaged, 4 locked, 5 refused, not found or
unavailable, 70 a fault of this program, 130 Ctrl-C, 141 the reader of the output left.
Commands load what they need when they run, so that `batpak --help` is quick.
"""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from batpak.errors import BatpakError
from batpak_cli import (
    checking,
    forgetting,
    keeping,
    proving,
    reading,
    shapes,
    streams,
    terminal,
    writing,
)
from batpak_cli.arguments import WANTS_JSON

__all__ = ["EXIT_CODES", "app", "main"]

EXIT_CODES = {
    0: "good",
    1: "a finding: the command worked, and what it checked is not in order",
    2: "usage: an option or argument is wrong",
    3: "damaged: stored bytes are not what was written",
    4: "locked: another process writes to the journal",
    5: "refused, not found or unavailable",
    70: "a fault of this program; the traceback says where",
    130: "interrupted with Ctrl-C",
    141: "the reader of the output went away, as in `batpak export … | head`",
}


class _Program(TyperGroup):
    """Turns errors into a line, or with --json into an object, and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                result = super().invoke(ctx)
            except typer.Exit:
                # At exit it would be too late to say that a finding could not be written.
                sys.stdout.flush()
                raise
            sys.stdout.flush()
        except typer.BadParameter as wrong:
            # The checks of typer speak of programs: "Value error, …", "Input should be …".
            wrong.message = wrong.message.removeprefix("Value error, ").replace(
                "Input should be", "it has to be", 1
            )
            raise
        except BatpakError as failure:
            with suppress(streams.OutputFailed, streams.ReaderLeft):
                sys.stdout.flush()
            _tell(failure, as_json=bool(ctx.meta.get(WANTS_JSON)))
            raise typer.Exit(failure.exit_code) from failure
        return result


def _tell(failure: BatpakError, *, as_json: bool) -> None:
    if as_json:
        print(shapes.line({"error": shapes.error(failure)}), file=sys.stderr)
    else:
        print(terminal.failure_line(failure), file=sys.stderr)


HELP = """Keep an append-only journal that proves what it holds.

JOURNAL is a directory. Reading works beside a live writer and changes nothing.

\b
Example:
  batpak init journal
  batpak append journal player:alice room:dungeon --json-payload '{"x": 10}'
  batpak log journal
  batpak verify journal

\b
Exit codes:
  """ + "\n  ".join(f"{code:>3}  {what}" for code, what in EXIT_CODES.items())

app = typer.Typer(
    cls=_Program,
    name="batpak",
    help=HELP,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_imports = typer.Typer(
    name="import",
    help="Add what a foreign source has and the journal has not.",
    rich_markup_mode=None,
)
_keys = typer.Typer(
    name="keys",
    help="Make keys to sign with, and say which of them count.",
    rich_markup_mode=None,
)
_keyring = typer.Typer(
    name="keyring",
    help="Make keyrings, whose keys encrypt payloads.",
    rich_markup_mode=None,
)
_witness = typer.Typer(
    name="witness",
    help="Ask witnesses to cosign checkpoints, or be one.",
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _program(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        import batpak

        print(f"batpak {batpak.__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise typer.Exit


def demo(
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Leave the journals in this new directory.", show_default=False
        ),
    ] = None,
) -> None:
    """Show it all: import, read, verify, kill, tamper, prove, erase.

    Takes some seconds and changes nothing outside of a directory of its own. Exits with
    1 when something that it set out to prove did not hold.

    \b
    Example:
      batpak demo
    """
    from batpak_cli.demo import run

    raise typer.Exit(run(keep=keep))


for _name, _command in (
    ("demo", demo),
    ("init", writing.init),
    ("append", writing.append),
    ("log", reading.log),
    ("show", reading.show),
    ("tail", reading.tail),
    ("query", reading.query),
    ("stats", reading.stats),
    ("checkpoint", proving.checkpoint),
    ("prove", proving.prove),
    ("verify", checking.verify),
    ("export", reading.export),
    ("erase", forgetting.erase),
    ("compact", forgetting.compact),
    ("shred", forgetting.shred),
    ("repair", checking.repair),
    ("doctor", checking.doctor),
    ("snapshot", keeping.snapshot),
    ("restore", keeping.restore),
    ("fork", keeping.fork),
):
    app.command(_name)(_command)
app.add_typer(_imports)
_imports.command("jsonl")(writing.import_jsonl)
_imports.command("csv")(writing.import_csv)
_imports.command("git")(writing.import_git)
app.add_typer(_keys)
for _name, _command in (
    ("new", proving.keys_new),
    ("show", proving.keys_show),
    ("add", proving.keys_add),
    ("list", proving.keys_list),
    ("retire", proving.keys_retire),
):
    _keys.command(_name)(_command)
app.add_typer(_keyring)
_keyring.command("new")(forgetting.keyring_new)
app.add_typer(_witness)
_witness.command("request")(proving.witness_request)
_witness.command("cosign")(proving.witness_cosign)


def main() -> None:
    """Run the program with the arguments of this process; never returns."""
    try:
        streams.claim()
        app(prog_name="batpak")
    except streams.ReaderLeft:
        sys.exit(141)
    except BatpakError as failure:  # of a help text: commands end in `invoke`
        _tell(failure, as_json=False)
        sys.exit(failure.exit_code)
    except Exception:  # noqa: BLE001  # Python's own code 1 would say that a check found something
        traceback.print_exc()
        sys.exit(70)
