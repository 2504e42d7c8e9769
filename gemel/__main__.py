"""The `gemel` command: what gemel.console offers, and `demo` above it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from gemel.console.command import app as console
from gemel.errors import GemelError

CANNOT = 2  # exit status: what was asked for cannot be done


class _Gemel(TyperGroup):
    """Says what we raise on purpose in one line, where anything else is a defect and shows its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """As click's, with our errors turned into exit status 2."""
        try:
            return super().invoke(ctx)
        except GemelError as error:
            typer.echo(f"gemel: {error}", err=True)
            raise typer.Exit(CANNOT) from error


app = typer.Typer(
    cls=_Gemel,
    help="Digital twins that learn together, encrypted, and decided on chain.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(console)

# The demo's options are its own: they are handed on as they stand, and it is imported only when it runs.
_HANDED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("demo", context_settings=_HANDED_ON, add_help_option=False)
def demo(context: typer.Context) -> None:
    """Run the demo plant: real data, real processes, three deployed rounds and a refused one (demo --help)."""
    runner = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    runner.command("demo")(import_module("gemel.demo.command").demo)
    runner(args=context.args, prog_name="gemel demo")


if __name__ == "__main__":
    app()
