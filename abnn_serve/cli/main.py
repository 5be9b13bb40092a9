"""The `abnn` command: registers the subcommands and prints errors as one line on stderr."""

from __future__ import annotations

import sys

import typer

from abnn_serve.cli.average import average
from abnn_serve.cli.bench import bench
from abnn_serve.cli.calibrate import calibrate
from abnn_serve.cli.certify import certify
from abnn_serve.cli.compare import compare
from abnn_serve.cli.compare_traffic import compare_traffic
from abnn_serve.cli.doctor import doctor
from abnn_serve.cli.evaluate import evaluate
from abnn_serve.cli.export import export
from abnn_serve.cli.key import key
from abnn_serve.cli.mix import mix
from abnn_serve.cli.predict import predict
from abnn_serve.cli.report import report
from abnn_serve.cli.score import score
from abnn_serve.cli.serve import serve
from abnn_serve.cli.show import show, verify
from abnn_serve.cli.sign import sign
from abnn_serve.cli.terminal import echo
from abnn_serve.cli.train import train
from abnn_serve.errors import AbnnError, one_line
from abnn_serve.media.image import quiet_pillow

app = typer.Typer(
    help=(
        "Train, attack, export and serve image and video classifiers defended by ABNN, "
        "each bundle with its measured robustness."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (
    train,
    average,
    mix,
    evaluate,
    certify,
    report,
    compare,
    export,
    calibrate,
    sign,
    verify,
    show,
    predict,
    score,
    serve,
    compare_traffic,
    key,
    doctor,
):
    app.command()(_command)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(bench)


def main() -> None:
    """Run `abnn`; exits 0 on success, 1 on an error and 2 on wrong usage."""
    quiet_pillow()
    try:
        app()
    except (AbnnError, OSError) as error:
        echo(f"abnn: {one_line(error)}", err=True)
        sys.exit(1)
