"""The command `graphnn`: look at a network, draw it, convert it, read its triplets."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

import graphnn
from graphnn import demo
from graphnn.cli import convert, draw, info, triplets
from graphnn.cli.files import read_columns
from graphnn.cli.messages import one_line

_FILE_HELP = "a network: .graphml, .safetensors, .onnx, or an edge list .csv or .tsv"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Ends with one line, where argparse would print the usage first."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The arguments, without the program's name; default: the process's own.

    Returns:
        The exit status: 0, or 2 after an error, which is one line on standard error.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        # Names may hold what the terminal cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
        # Written here, so that a closed pipe is met inside the try.
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough (`graphnn triplets ... | head`). What is left goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("graphnn: interrupted", file=sys.stderr)
        return 130
    except (graphnn.GraphNNError, OSError, ImportError) as error:
        print(f"graphnn: error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="graphnn",
        description="Neural networks as graphs: neurons are nodes, every edge owns one weight.",
        epilog="Try 'graphnn demo' first, then 'graphnn info demo_output/digits.graphml'.",
    )
    parser.add_argument("--version", action="version", version=f"graphnn {version('graphnn')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    info_command = commands.add_parser(
        "info",
        help="describe a network",
        description="Describe a network: neurons, edges, levels, groups, activations and memory.",
        epilog="Example: graphnn info edges.csv --activation tanh",
    )
    _add_file(info_command)
    info_command.set_defaults(run=info.run)

    convert_command = commands.add_parser(
        "convert",
        help="write a network in another format",
        description="Read a network and write it in the format that the second name's ending says.",
        epilog="GraphML, safetensors and ONNX hold everything. An edge list holds source, target "
        "and weight; what is lost is said. Example: graphnn convert edges.csv net.graphml",
    )
    _add_file(convert_command, "IN")
    convert_command.add_argument(
        "out",
        metavar="OUT",
        type=Path,
        help="the file to write, of such a kind; replaced if it exists",
    )
    convert_command.set_defaults(run=convert.run)

    draw_command = commands.add_parser(
        "draw",
        help="draw a network as a page for the browser",
        description="Draw a network as one HTML file that opens without a network connection: the "
        "strongest edges, blue positive and orange negative, with numbers under the pointer.",
    )
    _add_file(draw_command)
    draw_command.add_argument(
        "-o", "--output", metavar="OUT.html", type=Path, required=True, help="the page to write"
    )
    draw_command.add_argument(
        "--input", metavar="X.csv", type=Path,
        help="samples, as for 'graphnn triplets': edges are then drawn by weight * source value",
    )  # fmt: skip
    draw_command.add_argument(
        "--sample", type=int, default=0, help="the sample to show first (default: 0)"
    )
    draw_command.add_argument(
        "--max-edges", type=int, default=2_000, help="how many edges at most (default: 2000)"
    )
    draw_command.set_defaults(run=draw.run)

    triplets_command = commands.add_parser(
        "triplets",
        help="list source value, edge weight and target value of every edge",
        description="Run a network on the samples of a table and list, for every sample and edge, "
        "the source neuron's value, the edge's weight and the target neuron's value.",
        epilog="Example: graphnn triplets net.graphml --input X.csv -o triplets.csv",
    )
    _add_file(triplets_command)
    triplets_command.add_argument(
        "--input", metavar="X.csv", type=Path, required=True,
        help="the samples, .csv or .tsv: a row each, a column for each input neuron in the order "
        "of the groups; if a first row names the inputs, columns are matched by name",
    )  # fmt: skip
    triplets_command.add_argument(
        "-o", "--output", metavar="OUT.csv", type=Path,
        help="the table to write, .csv or .tsv (default: standard output)",
    )  # fmt: skip
    triplets_command.add_argument(
        "--target", choices=("value", "preactivation"), default="value",
        help="which number of the target neuron to list (default: value)",
    )  # fmt: skip
    triplets_command.set_defaults(run=triplets.run)

    demo_command = commands.add_parser(
        "demo",
        help="train, convert and take apart a small network",
        description="Train an nn.Sequential on scikit-learn's handwritten digits, convert it to a "
        "graph, compare the outputs, extract triplets and write files. Takes under a minute.",
    )
    demo_command.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("demo_output"),
        help="the folder for the files (default: demo_output)",
    )  # fmt: skip
    demo_command.add_argument(
        "--epochs", type=int, default=30, help="passes over the training images (default: 30)"
    )
    demo_command.set_defaults(run=lambda given: demo.run(given.output, given.epochs))
    return parser


def _add_file(command: argparse.ArgumentParser, metavar: str = "FILE") -> None:
    command.add_argument("file", metavar=metavar, type=Path, help=_FILE_HELP)
    # None where nothing is said, so that what does not go with a file can be refused.
    only = command.add_argument_group(
        "edge lists",
        "An edge list is a table whose first row names source, target and, optionally, weight.",
    )
    only.add_argument(
        "--columns", metavar="SOURCE,TARGET[,WEIGHT]", type=read_columns,
        help="the columns that hold these: their names, such as 'from,to', or, in a table without "
        "a row of names, their places counted from 0, such as 0,1",
    )  # fmt: skip
    only.add_argument(
        "--activation", metavar="NAME",
        help="of the hidden neurons, such as tanh or 'leaky_relu(0.2)' (default: relu)",
    )  # fmt: skip
    only.add_argument(
        "--output-activation", metavar="NAME",
        help="of the output neurons (default: identity)",
    )  # fmt: skip
    only.add_argument(
        "--coalesce",
        choices=("sum",),
        help="make one edge of those that occur several times, with the sum of their weights",
    )
    only.add_argument(
        "--seed", metavar="N", type=int, help="draws the weights of a list without any (default: 0)"
    )
