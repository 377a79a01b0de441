"""What graphnn is raced against, by name, each written as well as its library allows.

A contender is a class that is made of a `Problem` in a process of its own. It has

- ``unsupported(problem, mode, samples)``, a class method: why it is not run, or None;
- ``most_samples(problem)``, a class method: how many samples it can take at once;
- ``arranged(x)``: (B, n) inputs, or gradients by outputs, as it likes them, for free;
- ``forward(x)`` and ``gradients(x, seed)``: what is timed;
- ``outputs(found)`` and ``in_graph_order(gradients)``: the same as (B, n_out), and as (E,) and
  (K,), for the check.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any


@dataclass(frozen=True)
class Entry:
    """Where a contender is found.

    Args:
        place: "module:class" within this package.
        packages: What it needs beside torch and numpy.
        patience: Seconds that it may take for any one step, its own compiling included.
    """

    place: str
    packages: tuple[str, ...] = ()
    patience: float = 120

    def missing(self) -> str | None:
        """The first package that is not installed, or None."""
        return next((name for name in self.packages if find_spec(name) is None), None)

    def load(self) -> Any:
        """The class."""
        module, _, name = self.place.partition(":")
        return getattr(import_module(f"{__name__}.{module}"), name)


OWN = "graphnn"
REFERENCE = "graphnn reference"
CONTENDERS = {
    OWN: Entry("own:Auto", patience=400),
    "graphnn scatter": Entry("own:Scatter", ("torch_geometric",)),
    REFERENCE: Entry("own:Reference", patience=400),
    "to_module": Entry("own:ToModule"),
    "torch.compile": Entry("own:Compiled", patience=60),
    "nn.Sequential": Entry("dense:Sequential"),
    "masked Linear": Entry("dense:MaskedLinear"),
    "torch CSR": Entry("csr:TorchCsr"),
    "torch CSR, cached transpose": Entry("csr:CachedTranspose"),
    "eager scatter": Entry("messages:EagerScatter"),
    "torch-scatter": Entry("messages:TorchScatter", ("torch_scatter",)),
    "PyG": Entry("messages:Pyg", ("torch_geometric",)),
    "connex": Entry("connex:Connex", ("connex", "jax", "equinox"), patience=180),
    "neat-python": Entry("neat:NeatPython", ("neat",)),
    "GraphBLAS": Entry("matrices:GraphBlas", ("graphblas",)),
    "scipy": Entry("matrices:Scipy", ("scipy",)),
}
