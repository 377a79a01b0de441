"""Evolve a network with neat-python, take it into PyTorch, and train what evolution found.

NEAT invents the wiring and finds rough weights on XOR; gradient descent then finishes the job on
the same neurons and connections. Settings: evolve_xor.ini beside this file.
"""

from pathlib import Path
from typing import Any

import neat
import torch

import graphnn

CASES = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
WANTED = torch.tensor([[0.0], [1.0], [1.0], [0.0]], dtype=torch.float64)
NAMES = {-1: "a", -2: "b", 0: "a xor b"}


def outputs_in_neat(genome: Any, config: neat.Config) -> torch.Tensor:
    """What neat-python itself computes."""
    evolved = neat.nn.FeedForwardNetwork.create(genome, config)
    return torch.tensor([evolved.activate(case) for case in CASES.tolist()], dtype=torch.float64)


def fitness(outputs: torch.Tensor) -> float:
    """4 for a perfect answer, less by the squared errors."""
    return 4.0 - (outputs - WANTED).square().sum().item()


def evaluate(genomes: list[tuple[int, Any]], config: neat.Config) -> None:
    for _, genome in genomes:
        genome.fitness = fitness(outputs_in_neat(genome, config))


def evolve() -> tuple[Any, neat.Config]:
    config = neat.Config(
        neat.DefaultGenome,
        neat.DefaultReproduction,
        neat.DefaultSpeciesSet,
        neat.DefaultStagnation,
        Path(__file__).with_suffix(".ini"),
    )
    population = neat.Population(config, seed=3)
    winner: Any = population.run(evaluate, 300)
    print(f"evolved for {population.generation} generations: fitness {winner.fitness:.4f}")
    return winner, config


winner, config = evolve()
net = graphnn.from_neat(winner, config, node_names=NAMES, dtype=torch.float64)
print(net)

# The same function, to the last digits of float64.
torch.testing.assert_close(net(CASES), outputs_in_neat(winner, config), rtol=1e-12, atol=1e-12)
before = fitness(net(CASES))

# Fine-tuning keeps the evolved wiring: every connection is one weight.
optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
for _ in range(300):
    loss = (net(CASES) - WANTED).square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
after = fitness(net(CASES))
print(f"300 steps of gradient descent: fitness {before:.4f} -> {after:.4f} of 4")
assert after > before

for (a, b), answer in zip(CASES.tolist(), net(CASES).flatten().tolist(), strict=True):
    print(f"  {a:.0f} xor {b:.0f} = {answer:.4f}")
