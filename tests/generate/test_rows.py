"""Properties that every generator has."""

from typing import Any, cast

import numpy as np
import pytest
import torch

from graphnn import GraphError, Network, NeuronGraph, generate

CALLS = {
    "layered": lambda **k: generate.layered([5, 7, 3], **k),
    "random_sparse, density": lambda **k: generate.random_sparse([20, 30, 10], density=0.3, **k),
    "random_sparse, fan_in": lambda **k: generate.random_sparse([20, 30, 10], fan_in=6, **k),
    "block_diagonal": lambda **k: generate.block_diagonal([6, 9, 4], 3, **k),
    "local": lambda **k: generate.local([9, 6, 12], 3, **k),
    "small_world": lambda **k: generate.small_world([20] * 4, 5, 0.4, **k),
    "random_dag": lambda **k: generate.random_dag(5, 40, 3, fan_in=4, depth=6, **k),
    "erdos_renyi": lambda **k: generate.erdos_renyi(5, 40, 3, 0.2, **k),
    "scale_free": lambda **k: generate.scale_free(5, 40, 3, 4, **k),
    "radixnet": lambda **k: generate.radixnet(64, 5, **k),
}
DRAWN = [name for name in CALLS if name not in ("layered", "block_diagonal", "local")]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", CALLS)
def test_neurons_and_edges_are_in_order(name):
    graph = CALLS[name](generator=seeded(1))
    assert isinstance(graph, NeuronGraph)
    source, target = graph.edge_index.numpy()
    assert (source < target).all()
    assert (np.diff(target * graph.num_neurons + source) > 0).all()
    num_inputs, num_outputs = graph.input_ids.numel(), graph.output_ids.numel()
    assert graph.input_ids.tolist() == list(range(num_inputs))
    assert graph.output_ids.tolist() == list(
        range(graph.num_neurons - num_outputs, graph.num_neurons)
    )


@pytest.mark.parametrize("name", CALLS)
def test_activations_and_bias_as_told(name):
    graph = CALLS[name](
        generator=seeded(1), activation="tanh", output_activation="sigmoid", bias=False
    )
    num_inputs, num_outputs = graph.input_ids.numel(), graph.output_ids.numel()
    hidden = graph.num_neurons - num_inputs - num_outputs
    expected = ("identity",) * num_inputs + ("tanh",) * hidden + ("sigmoid",) * num_outputs
    assert graph.activation == expected
    assert graph.bias_neurons.numel() == 0


@pytest.mark.parametrize("name", [name for name in CALLS if name != "radixnet"])
def test_hidden_neurons_are_relu_and_outputs_identity_unless_told(name):
    graph = CALLS[name](generator=seeded(1))
    num_inputs, num_outputs = graph.input_ids.numel(), graph.output_ids.numel()
    assert set(graph.activation[num_inputs:-num_outputs]) == {"relu"}
    assert set(graph.activation[-num_outputs:]) == {"identity"}
    assert graph.bias_neurons.tolist() == list(range(num_inputs, graph.num_neurons))


@pytest.mark.parametrize("name", CALLS)
def test_a_seed_gives_one_graph(name):
    assert CALLS[name](generator=seeded(7)) == CALLS[name](generator=seeded(7))


@pytest.mark.parametrize("name", DRAWN)
def test_other_seeds_and_the_generators_next_draw_give_others(name):
    generator = seeded(7)
    first = CALLS[name](generator=generator)
    assert first != CALLS[name](generator=generator)
    assert first != CALLS[name](generator=seeded(8))


@pytest.mark.parametrize("name", CALLS)
def test_a_generator_leaves_torchs_global_state_alone(name):
    before = torch.get_rng_state()
    CALLS[name](generator=seeded(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_torchs_global_one_draws():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        one = generate.random_sparse([20, 20], fan_in=3)
        other = generate.random_sparse([20, 20], fan_in=3)
        torch.manual_seed(5)
        again = generate.random_sparse([20, 20], fan_in=3)
    assert one == again
    assert one != other


def global_state() -> Any:
    return np.array(cast(Any, np.random.get_state())[1])


def test_numpys_global_state_is_left_alone():
    before = global_state()
    generate.scale_free(5, 20, 2, 3, generator=seeded(0))
    assert (global_state() == before).all()


@pytest.mark.parametrize("name", CALLS)
def test_what_is_generated_computes(name):
    net = Network(CALLS[name](generator=seeded(1)), generator=seeded(2))
    outputs = net(torch.ones(2, net.in_features))
    outputs.sum().backward()
    assert outputs.isfinite().all()


def test_a_generator_of_another_kind_is_refused():
    with pytest.raises(GraphError, match=r"generator must be a torch.Generator \(got Generator\)"):
        generate.random_sparse([4, 4], fan_in=2, generator=cast(Any, np.random.default_rng(0)))
    with pytest.raises(GraphError, match=r"generator must be a torch.Generator \(got int\)"):
        generate.erdos_renyi(4, 4, 2, 0.5, generator=cast(Any, 0))
