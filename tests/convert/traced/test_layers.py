import pytest
import torch
from torch import nn

import graphnn

CONVOLUTIONS = [
    (nn.Conv1d(3, 4, 3, stride=2, padding=1), (3, 8)),
    (nn.Conv1d(4, 6, 2, dilation=3, groups=2, bias=False), (4, 9)),
    (nn.Conv1d(2, 2, 4, padding="same"), (2, 6)),
    (nn.Conv1d(2, 3, 3, padding="valid"), (2, 6)),
    (nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (2, 6)),
    (nn.Conv1d(2, 3, 5, padding=2, padding_mode="reflect"), (2, 6)),
    (nn.Conv1d(2, 3, 5, padding=2, padding_mode="replicate"), (2, 4)),
    (nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 7, 6)),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 5, 4)),
    (nn.Conv2d(4, 2, 1, groups=2), (4, 3, 3)),
    (nn.Conv2d(2, 2, (2, 3), padding="same", dilation=(2, 1)), (2, 5, 6)),
    (nn.Conv3d(1, 2, 2, stride=2, padding=1), (1, 3, 4, 3)),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS, ids=lambda v: str(v))
def test_convolutions_agree(agree, layer, shape):
    net = agree(nn.Sequential(layer), shape)
    # One parameter for each number of the kernel, none for the padding.
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in layer.parameters())


POOLS = [
    (nn.AvgPool1d(3), (2, 10)),
    (nn.AvgPool1d(3, stride=2, padding=1), (2, 7)),
    (nn.AvgPool1d(3, stride=2, padding=1, count_include_pad=False), (2, 7)),
    (nn.AvgPool1d(3, stride=2, ceil_mode=True), (1, 8)),
    (nn.AvgPool1d(2, stride=3, padding=1, ceil_mode=True), (1, 6)),
    (nn.AvgPool2d(2), (2, 4, 6)),
    (nn.AvgPool2d((3, 2), stride=2, padding=1, ceil_mode=True), (2, 6, 5)),
    (nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False), (2, 6, 5)),
    (nn.AvgPool2d(2, divisor_override=3), (1, 4, 4)),
    (nn.AvgPool3d(2, stride=1), (1, 3, 2, 3)),
    (nn.AdaptiveAvgPool1d(3), (2, 7)),
    (nn.AdaptiveAvgPool1d(5), (1, 3)),
    (nn.AdaptiveAvgPool2d((2, None)), (2, 5, 3)),
    (nn.AdaptiveAvgPool2d(1), (3, 4, 4)),
    (nn.AdaptiveAvgPool3d((1, 2, 2)), (1, 2, 3, 3)),
]


@pytest.mark.parametrize(("layer", "shape"), POOLS, ids=lambda v: str(v))
def test_average_pools_agree(agree, layer, shape):
    channels = shape[0]
    first = [nn.Conv1d, nn.Conv2d, nn.Conv3d][len(shape) - 2](channels, channels, 1)
    agree(nn.Sequential(first, layer), shape)


OTHERS = [
    (nn.Sequential(nn.Conv2d(4, 4, 1), nn.PixelShuffle(2), nn.Conv2d(1, 1, 2)), (4, 2, 3)),
    (nn.Sequential(nn.Conv2d(1, 1, 1), nn.PixelUnshuffle(2), nn.Conv2d(4, 1, 1)), (1, 2, 4)),
    (nn.Sequential(nn.Conv1d(4, 4, 1), nn.ChannelShuffle(2), nn.Conv1d(4, 1, 2)), (4, 3)),
    (nn.Sequential(nn.Linear(6, 6), nn.Unflatten(1, (2, 3)), nn.Linear(3, 2)), (6,)),
    (nn.Sequential(nn.Linear(3, 2), nn.Flatten(1, 2), nn.Linear(8, 1)), (4, 3)),
    (nn.Sequential(nn.Linear(3, 2), nn.Dropout(), nn.Hardtanh(-0.2, 0.2), nn.Identity()), (3,)),
    (nn.Sequential(nn.Linear(3, 3), graphnn.NeuronActivation(["relu", "sin", "gauss"])), (4, 3)),
]


@pytest.mark.parametrize(("model", "shape"), OTHERS, ids=range(len(OTHERS)))
def test_other_layers_agree(agree, model, shape):
    agree(model, shape)


NORMS = {
    "after a convolution": nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.ReLU()),
    "after a convolution without bias": nn.Sequential(
        nn.Conv1d(2, 3, 2, bias=False), nn.BatchNorm1d(3)
    ),
    "before a convolution": nn.Sequential(nn.BatchNorm1d(2), nn.Conv1d(2, 3, 3, padding=1)),
    "over flattened channels": nn.Sequential(
        nn.Conv1d(2, 3, 2), nn.Flatten(), nn.BatchNorm1d(15), nn.Linear(15, 2)
    ),
    "twice": nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(2), nn.BatchNorm1d(2)),
    "between activations": nn.Sequential(nn.Tanh(), nn.BatchNorm1d(2), nn.Tanh()),
    "of the inputs": nn.Sequential(nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(12, 3)),
}


@pytest.mark.parametrize("name", NORMS)
def test_batch_norms_agree(agree, name):
    agree(NORMS[name], (2, 6), folds=True)


def test_a_batch_norm_is_not_folded_into_what_others_read(agree):
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 4)
            self.norm = nn.BatchNorm1d(4)
            self.last = nn.Linear(4, 2)

        def forward(self, x):
            y = self.linear(x)
            z = self.norm(y)
            return self.last(z), z, y

    agree(Read(), (3,), folds=True)


def test_a_shared_layer_keeps_its_ties_under_two_batch_norms(agree, trained):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.norms = nn.ModuleList([nn.BatchNorm1d(3), nn.BatchNorm1d(3)])

        def forward(self, x):
            for norm in self.norms:
                x = torch.tanh(norm(self.linear(x)))
            return x

    net = agree(Shared(), (3,), folds=True)
    # The shared weight, and the scales of both norms.
    assert trained(net, "weight").numel() == 9 + 3 + 3


def refused(layer, x):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Sequential(nn.Identity(), layer)])

        def forward(self, x):
            return self.blocks[0](x)

    with pytest.raises(graphnn.ConversionError) as error:
        graphnn.from_module(Outer(), x)
    return str(error.value)


@pytest.mark.parametrize(
    ("layer", "shape", "text"),
    [
        (nn.MaxPool2d(2), (1, 4, 4), "largest"),
        (nn.AdaptiveMaxPool1d(2), (1, 4), "largest"),
        (nn.LayerNorm(4), (4,), "normalises"),
        (nn.GroupNorm(2, 4), (4, 2), "normalises"),
        (nn.Bilinear(4, 4, 2), (4,), "multiplies"),
        (nn.GLU(), (4,), "multiplies"),
        (nn.PReLU(), (4,), "cannot be read"),
        (nn.ConvTranspose1d(1, 1, 2), (1, 4), "cannot be read"),
        (nn.TransformerEncoderLayer(4, 2), (3, 4), "multiplies"),
        (nn.Linear(3, 2), (4,), "takes 3 values"),
        (nn.Conv1d(3, 2, 1), (4, 4), "takes 3 channels"),
        (nn.Conv2d(3, 2, 1), (3, 4), "3 dimensions"),
        (nn.AvgPool1d(2), (4,), "2 dimensions"),
        (nn.BatchNorm1d(3, track_running_stats=False), (3,), "running statistics"),
        (nn.BatchNorm2d(3), (3, 4), "(B, C, ...)"),
        (nn.BatchNorm1d(3), (4,), "3 channels"),
        (nn.Softmax(1), (3, 4), "over the features"),
        (nn.Linear(4, 2).double(), (4,), "torch.float32"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_layers_that_are_no_neurons_are_refused_by_their_path(layer, shape, text):
    if text == "torch.float32":
        layer = nn.Sequential(nn.Linear(4, 4), layer)
    message = refused(layer, torch.ones(2, *shape))
    assert text in message
    assert message.startswith("blocks.0.1")
    assert "return self.blocks[0](x)" in message
