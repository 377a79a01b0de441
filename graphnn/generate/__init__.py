"""Wirings by rule: each function returns a `NeuronGraph` and draws from a `torch.Generator`.

Neurons are numbered inputs first, outputs last, and a source has a lower id than its target. Edges
are sorted by target, then source. Hidden neurons are relu and outputs identity unless told.
"""

from graphnn.generate.dags import erdos_renyi as erdos_renyi
from graphnn.generate.dags import random_dag as random_dag
from graphnn.generate.dags import scale_free as scale_free
from graphnn.generate.radix import radixnet as radixnet
from graphnn.generate.radix import radixnet_parameters as radixnet_parameters
from graphnn.generate.stacks import block_diagonal as block_diagonal
from graphnn.generate.stacks import layered as layered
from graphnn.generate.stacks import local as local
from graphnn.generate.stacks import random_sparse as random_sparse
from graphnn.generate.stacks import small_world as small_world
