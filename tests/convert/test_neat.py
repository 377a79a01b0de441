"""Networks that neat-python evolved, against neat-python's own evaluation of them."""

import configparser
import math
import random
from pathlib import Path
from typing import Any

import neat
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neat.innovation import InnovationTracker

from graphnn import (
    ConversionError,
    GraphError,
    from_neat,
    load,
    parametrize,
    register_activation,
    save,
)

SETTINGS = Path(__file__).parents[2] / "examples" / "evolve_xor.ini"
TABLE = (
    "sigmoid", "tanh", "sin", "gauss", "relu", "elu", "lelu", "selu", "softplus", "identity",
    "clamped", "abs", "hat", "square",
)  # fmt: skip
WITHOUT = {"inv", "log", "exp", "cube"}


def configure(folder, num_inputs=2, num_outputs=1, **options) -> Any:
    """The example's settings, some of them changed."""
    parser = configparser.ConfigParser()
    parser.read(SETTINGS)
    options |= {"num_inputs": num_inputs, "num_outputs": num_outputs}
    parser["DefaultGenome"].update({name: str(value) for name, value in options.items()})
    path = folder / f"{abs(hash(tuple(options.items())))}.ini"
    with path.open("w") as file:
        parser.write(file)
    kinds = (neat.DefaultReproduction, neat.DefaultSpeciesSet, neat.DefaultStagnation)
    config: Any = neat.Config(neat.DefaultGenome, *kinds, path)
    config.genome_config.innovation_tracker = InnovationTracker()
    return config


@pytest.fixture
def config(tmp_path):
    return configure(tmp_path)


def genome_of(nodes, links) -> Any:
    """A genome from key -> (activation, bias[, response[, aggregation]]) and (from, to, weight).

    A weight of None is a disabled connection.
    """
    genome: Any = neat.DefaultGenome(7)
    for key, (activation, bias, *others) in nodes.items():
        gene: Any = neat.DefaultNodeGene(key)
        response, aggregation = (*others, 1.0, "sum")[:2] if len(others) != 1 else (*others, "sum")
        gene.activation, gene.bias = activation, bias
        gene.response, gene.aggregation = response, aggregation
        genome.nodes[key] = gene
    for innovation, (source, target, weight) in enumerate(links):
        link: Any = neat.DefaultConnectionGene((source, target), innovation=innovation)
        link.weight, link.enabled = weight or 0.0, weight is not None
        genome.connections[link.key] = link
    return genome


def evaluated(genome, config, x):
    network = neat.nn.FeedForwardNetwork.create(genome, config)
    return torch.tensor([network.activate(row) for row in x.tolist()], dtype=torch.float64)


def assert_equal(genome, config, x):
    expected = evaluated(genome, config, x)
    net = from_neat(genome, config, dtype=torch.float64)
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)
    return net


def wide(count, rng):
    """(200, count) samples, some of them far beyond where neat-python cuts its arguments."""
    x = torch.randn(200, count, generator=rng, dtype=torch.float64)
    return x * 10.0 ** torch.randint(-1, 3, (200, 1), generator=rng).double()


def mutated(config, seed, steps):
    """A genome after `steps` random mutations; neat-python draws from Python's `random` alone."""
    state = random.getstate()
    try:
        random.seed(seed)
        genome = neat.DefaultGenome(1)
        genome.configure_new(config.genome_config)
        for _ in range(steps):
            genome.mutate(config.genome_config)
    finally:
        random.setstate(state)
    return genome


@pytest.mark.parametrize("activation", TABLE)
@pytest.mark.parametrize("response", [1.0, -0.3])
def test_every_activation_is_neat_pythons(activation, response, config, rng):
    genome = genome_of(
        {0: ("identity", 0.25), 4: (activation, 0.1, response)},
        [(-1, 4, 1.3), (-2, 4, -0.7), (4, 0, 2.0)],
    )
    assert_equal(genome, config, wide(2, rng))


def test_the_table_is_all_that_neat_python_has_but_four(config):
    known = set(config.genome_config.activation_defs.functions)
    assert known == set(TABLE) | WITHOUT


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(0, 40), outputs=st.integers(1, 3))
def test_mutated_genomes_agree(tmp_path_factory, seed, steps, outputs):
    config = configure(
        tmp_path_factory.getbasetemp(),
        num_inputs=3,
        num_outputs=outputs,
        initial_connection="partial_direct 0.6",
        node_add_prob=0.6,
        node_delete_prob=0.05,
        conn_add_prob=0.9,
        conn_delete_prob=0.1,
        activation_default="random",
        activation_options=" ".join(name for name in TABLE if name != "square"),
        activation_mutate_rate=0.3,
        aggregation_options="sum mean",
        aggregation_mutate_rate=0.2,
        weight_max_value=3,
        weight_min_value=-3,
        response_max_value=2,
        response_min_value=-2,
        enabled_mutate_rate=0.1,
    )
    genome = mutated(config, seed, steps)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert_equal(genome, config, x)


def test_an_evolved_population_agrees(tmp_path):
    config = configure(tmp_path, num_hidden=2, initial_connection="full_direct")
    cases = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)

    def evaluate(genomes, config):
        for _, genome in genomes:
            outputs = evaluated(genome, config, cases).flatten()
            genome.fitness = -float((outputs - torch.tensor([0.0, 1.0, 1.0, 0.0])).square().sum())

    state = random.getstate()
    population = neat.Population(config, seed=1)
    population.run(evaluate, 4)
    random.setstate(state)
    assert len(population.population) > 100
    for genome in population.population.values():
        assert_equal(genome, config, cases)


def test_outputs_that_feed_others_and_nodes_without_use(tmp_path, rng):
    config = configure(tmp_path, num_inputs=3, num_outputs=2)
    genome = genome_of(
        {
            0: ("tanh", 0.1), 1: ("sigmoid", -0.2, 0.5), 16: ("relu", 0.3), 3: ("relu", 0.0),
            8: ("cube", 1.0, 1.0, "max"), 9: ("tanh", 2.0), 4: ("sigmoid", 0.7),
        },
        [
            (-1, 16, 1.0), (16, 0, -1.5), (0, 1, 2.0), (-2, 1, None), (4, 1, 0.25), (3, 0, 0.5),
            (-1, 8, 1.0), (8, 9, 1.0), (1, 8, 1.0),
        ],
    )  # fmt: skip
    net = assert_equal(genome, config, torch.randn(9, 3, generator=rng, dtype=torch.float64))
    # 8 and 9 lead to no output, so that their functions do not matter; 3 and 4 are constants.
    names = net.graph.names or ()
    assert names == (-1, -2, -3, 3, 4, 16, 0, 1)
    assert [names[i] for i in net.graph.output_ids.tolist()] == [0, 1]
    ends = [tuple(names[i] for i in edge) for edge in net.graph.edge_index.t().tolist()]
    assert ends == [(-1, 16), (16, 0), (0, 1), (4, 1), (3, 0)]


def test_an_output_without_connections_is_constant(config, rng):
    genome = genome_of({0: ("sigmoid", 0.3, 4.0, "mean")}, [(-1, 0, None)])
    net = assert_equal(genome, config, torch.randn(3, 2, generator=rng, dtype=torch.float64))
    assert net.graph.num_edges == 0
    assert net.in_features == 2


def test_weights_hold_response_scale_and_share(config):
    genome = genome_of(
        {0: ("sigmoid", 0.5, 3.0), 2: ("tanh", -1.0, 2.0, "mean")},
        [(2, 0, 0.25), (-1, 2, 1.0), (-2, 2, -4.0)],
    )
    net = from_neat(genome, config, dtype=torch.float64)
    assert net.weight.tolist() == [5 * 3 * 0.25, 2.5 * 2 * 1 / 2, 2.5 * 2 * -4 / 2]
    assert net.bias.tolist() == [2.5 * -1.0, 5 * 0.5]
    assert net.graph.activation[2:] == ("tanh", "sigmoid")


def test_softplus_is_flat_beyond_twelve(config):
    genome = genome_of({0: ("softplus", 0.0)}, [(-1, 0, 1.0)])
    x = torch.tensor([[11.9, 0.0], [12.0, 0.0], [40.0, 0.0], [1e6, 0.0]], dtype=torch.float64)
    net = assert_equal(genome, config, x)
    assert net(x)[2].item() == pytest.approx(12.0)


@pytest.mark.parametrize("activation", ["sin", "softplus", "hat"])
def test_what_joins_two_neurons_of_one_node_is_constant(activation, config, rng):
    genome = genome_of({0: (activation, 0.2)}, [(-1, 0, 0.3), (-2, 0, 0.4)])
    net = from_neat(genome, config, node_names={0: "y"}, dtype=torch.float64)
    assert net.graph.names is not None
    first = "abs" if activation == "hat" else "clamp"
    assert net.graph.names[2:] == (f"y:{first}", "y")
    held = parametrize.frozen_mask(net, "weight")
    assert held is not None
    assert held.tolist() == [False, False, True]
    before, constant = net.weight.detach().clone(), net.bias.detach()[1:].clone()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
    x = torch.rand(20, 2, generator=rng, dtype=torch.float64)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).sum().backward()
        optimizer.step()
    assert (net.weight[:2] != before[:2]).all()
    assert torch.equal(net.weight[2:], before[2:])
    assert torch.equal(net.bias[1:], constant)


def test_it_trains_and_is_saved(config, rng, tmp_path):
    genome = genome_of(
        {0: ("sigmoid", -0.5), 1: ("tanh", 0.1, 0.7), 2: ("gauss", 0.2)},
        [(-1, 1, 0.5), (-2, 1, 0.4), (1, 2, 1.0), (-1, 2, -0.3), (2, 0, 0.2), (1, 0, 0.3)],
    )
    net = from_neat(genome, config, node_names={-1: "a", -2: "b", 0: "y"})
    assert net.weight.dtype == torch.float32
    x = torch.rand(64, 2, generator=rng)
    wanted = x[:, :1] * x[:, 1:]
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = (net(x) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    save(net, tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors")
    assert again.graph == net.graph
    assert again.graph.names is not None
    assert again.graph.names[:2] == ("a", "b")
    assert torch.equal(again.weight, net.weight)


def test_own_activations_are_named(config, rng):
    def cubed(z):
        return z**3

    config.genome_config.add_activation("cubed", cubed)
    register_activation("cube_of_test_neat", lambda x: x**3)
    table = {"cubed": "cube_of_test_neat", "cube": "cube_of_test_neat"}
    x = torch.randn(5, 2, generator=rng, dtype=torch.float64)
    for name in table:
        genome = genome_of({0: (name, 0.1)}, [(-1, 0, 0.3), (-2, 0, 0.4)])
        net = from_neat(genome, config, activations=table, dtype=torch.float64)
        torch.testing.assert_close(net(x), evaluated(genome, config, x), rtol=1e-12, atol=1e-12)


def test_an_own_function_under_a_known_name_is_refused(config):
    def sigmoid(z):
        return 1 / (1 + math.exp(-z))

    config.genome_config.add_activation("sigmoid", sigmoid)
    genome = genome_of({0: ("sigmoid", 0.1)}, [(-1, 0, 0.3)])
    with pytest.raises(ConversionError, match=r"node 0 .* function of your own called 'sigmoid'"):
        from_neat(genome, config)


def test_an_own_aggregation_under_a_known_name_is_refused(config):
    config.genome_config.add_aggregation("sum", lambda values: max(values))
    genome = genome_of({0: ("relu", 0.1)}, [(-1, 0, 0.3)])
    with pytest.raises(ConversionError, match=r"node 0 .*function of your own called 'sum'"):
        from_neat(genome, config)


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_an_activation_without_a_graphnn_one_is_refused(name, config):
    genome = genome_of({0: ("relu", 0.0), 3: (name, 0.1)}, [(-1, 3, 0.3), (3, 0, 1.0)])
    with pytest.raises(ConversionError, match=rf"genome 7: node 3 must .*got '{name}'.*activation"):
        from_neat(genome, config)


@pytest.mark.parametrize("name", ["product", "max", "min", "maxabs", "median"])
def test_an_aggregation_that_is_no_sum_is_refused(name, config):
    genome = genome_of({0: ("relu", 0.0, 1.0, name)}, [(-1, 0, 0.3), (-2, 0, 1.0)])
    with pytest.raises(ConversionError, match=rf"genome 7: node 0 must .*got '{name}'"):
        from_neat(genome, config)


def test_a_recurrent_genome_is_refused(config):
    nodes = {0: ("tanh", 0.0), 1: ("tanh", 0.0)}
    genome = genome_of(nodes, [(-1, 0, 1.0), (0, 1, 1.0), (1, 0, 1.0)])
    with pytest.raises(ConversionError, match=r"genome 7 .*feed-forward.* cycle 1 -> 0 -> 1"):
        from_neat(genome, config)


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_numbers_must_be_finite(value, config):
    genome = genome_of({0: ("tanh", value)}, [(-1, 0, 1.0)])
    with pytest.raises(ConversionError, match="genome 7: the bias of node 0 must be a finite"):
        from_neat(genome, config)
    genome = genome_of({0: ("tanh", 0.0)}, [(-1, 0, math.nan)])
    with pytest.raises(ConversionError, match="the weight of -1 -> 0 must be a finite"):
        from_neat(genome, config)


def test_a_connection_from_a_node_without_a_gene_is_refused(config):
    genome = genome_of({0: ("tanh", 0.0)}, [(-1, 0, 1.0), (4, 0, 1.0)])
    with pytest.raises(ConversionError, match=r"genome 7: .* but node 4 has none"):
        from_neat(genome, config)


def test_names_must_be_of_nodes_and_differ(config):
    genome = genome_of({0: ("tanh", 0.0)}, [(-1, 0, 1.0)])
    with pytest.raises(GraphError, match=r"genome 7 has no node 3.*inputs are \[-1, -2\]"):
        from_neat(genome, config, node_names={3: "x"})
    with pytest.raises(ConversionError, match="'x'"):
        from_neat(genome, config, node_names={-1: "x", 0: "x"})


def test_other_arguments_are_refused(config):
    genome = genome_of({0: ("tanh", 0.0)}, [(-1, 0, 1.0)])
    network: Any = neat.nn.FeedForwardNetwork.create(genome, config)
    with pytest.raises(ConversionError, match=r"genome must be .*got FeedForwardNetwork"):
        from_neat(network, config)
    with pytest.raises(ConversionError, match=r"config must be the neat\.Config .*got NoneType"):
        from_neat(genome)
    with pytest.raises(ConversionError, match="config must be None for a file"):
        from_neat("evolved.json", config)


def test_backend_and_random_state(config):
    genome = genome_of({0: ("tanh", 0.0)}, [(-1, 0, 1.0)])
    before = torch.random.get_rng_state()
    assert from_neat(genome, config, backend="reference", device="cpu").backend == "reference"
    assert torch.equal(torch.random.get_rng_state(), before)
