"""PyTorch modules and models: one a row, each with its stated error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from tests.coverage import torch_models as models
from tests.coverage.run import marked

IMAGE = (3, 8, 8)
SERIES = (6, 8)
FLAT = (6,)


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


@dataclass(frozen=True)
class Case:
    """How to build a module, the shape of a row, the error relative to the output's spread.

    ``indices`` says that the inputs are token ids below this.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    error: float = 1e-3
    indices: int = 0
    note: str = ""
    approximated: bool = False

    def module(self) -> nn.Module:
        """Return the module with random weights, statistics included."""
        torch.manual_seed(5)
        module = self.make().eval()
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.4)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        return module

    def sample(self, rows: int) -> torch.Tensor:
        """Return random rows of the input."""
        generator = torch.Generator().manual_seed(3)
        if self.indices:
            return torch.randint(0, self.indices, (rows, *self.shape), generator=generator)
        return torch.randn((rows, *self.shape), generator=generator)


def _f(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], nn.Module]:
    return lambda: Function(function)


def _activation(make: Callable[[], nn.Module]) -> Case:
    return Case(lambda: nn.Sequential(nn.Linear(6, 8), make()), FLAT)


_SHAPED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(6, 3), FLAT),
    "Linear(no bias)": (lambda: nn.Linear(8, 3, bias=False), SERIES),
    "Conv1d": (lambda: nn.Conv1d(6, 4, 3), SERIES),
    "Conv2d": (lambda: nn.Conv2d(3, 4, 3), IMAGE),
    "Conv2d(same)": (lambda: nn.Conv2d(3, 4, 4, padding="same"), IMAGE),
    "Conv2d(stride, dilation)": (lambda: nn.Conv2d(3, 4, 3, 2, 2, dilation=2), IMAGE),
    "Conv2d(groups)": (lambda: nn.Conv2d(3, 6, 3, groups=3), IMAGE),
    "Conv2d(reflect)": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), IMAGE),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 4, 5, 3)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(6, 4, 3, 2), SERIES),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 4, 3, 2, 1, 1), IMAGE),
    "ConvTranspose2d(groups)": (lambda: nn.ConvTranspose2d(3, 6, 3, groups=3, dilation=2), IMAGE),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 3, 2, 2), (2, 2, 3, 2)),
    "MaxPool1d": (lambda: nn.MaxPool1d(2), SERIES),
    "MaxPool2d": (lambda: nn.MaxPool2d(3, 2, 1), IMAGE),
    "MaxPool2d(ceil)": (lambda: nn.MaxPool2d(3, 2, ceil_mode=True), IMAGE),
    "MaxPool3d": (lambda: nn.MaxPool3d(2), (2, 4, 4, 4)),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), SERIES),
    "AvgPool2d": (lambda: nn.AvgPool2d(2), IMAGE),
    "AvgPool2d(padding)": (lambda: nn.AvgPool2d(3, 2, 1), IMAGE),
    "AvgPool2d(padding not counted)": (
        lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGE
    ),
    "AvgPool2d(ceil)": (lambda: nn.AvgPool2d(3, 2, ceil_mode=True), IMAGE),
    "AvgPool3d": (lambda: nn.AvgPool3d(2), (2, 4, 4, 4)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((4, 2)), IMAGE),
    "AdaptiveAvgPool2d(uneven)": (lambda: nn.AdaptiveAvgPool2d((3, 5)), IMAGE),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(4), IMAGE),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(6), FLAT),
    "BatchNorm1d(series)": (lambda: nn.BatchNorm1d(6), SERIES),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), IMAGE),
    "LayerNorm": (lambda: nn.LayerNorm(8), SERIES),
    "RMSNorm": (lambda: nn.RMSNorm(8), SERIES),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), (6, 4, 4)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3, affine=True), IMAGE),
    "PReLU": (lambda: nn.PReLU(3), IMAGE),
    "Softmax": (lambda: nn.Softmax(-1), SERIES),
    "Softmin": (lambda: nn.Softmin(-1), SERIES),
    "LogSoftmax": (lambda: nn.LogSoftmax(-1), SERIES),
    "Softmax2d": (lambda: nn.Softmax2d(), IMAGE),
    "RNN": (lambda: models.Recurrent(nn.RNN(8, 5, batch_first=True), 5), SERIES),
    "LSTM": (lambda: models.Recurrent(nn.LSTM(8, 5, batch_first=True), 5), SERIES),
    "LSTM(2 layers, both ways)": (
        lambda: models.Recurrent(nn.LSTM(8, 4, 2, batch_first=True, bidirectional=True), 8), SERIES
    ),
    "GRU": (lambda: models.Recurrent(nn.GRU(8, 5, batch_first=True), 5), SERIES),
    "GRU(no bias)": (
        lambda: models.Recurrent(nn.GRU(8, 5, bias=False, batch_first=True), 5),
        SERIES,
    ),
    "MultiheadAttention": (models.SelfAttention, SERIES),
    "MultiheadAttention(mask)": (models.Masked, SERIES),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), SERIES
    ),
    "Dropout": (lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout()), FLAT),
    "Flatten": (nn.Flatten, IMAGE),
    "Unflatten": (lambda: nn.Unflatten(1, (2, 3)), FLAT),
    "ZeroPad2d": (lambda: nn.ZeroPad2d(1), IMAGE),
    "ReflectionPad2d": (lambda: nn.ReflectionPad2d((1, 2, 0, 1)), IMAGE),
    "ReplicationPad2d": (lambda: nn.ReplicationPad2d(2), IMAGE),
    "Upsample(nearest)": (lambda: nn.Upsample(scale_factor=2), IMAGE),
    "Upsample(nearest, uneven)": (lambda: nn.Upsample(size=(12, 10)), IMAGE),
    "Upsample(bilinear)": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), IMAGE),
    "Upsample(bilinear, corners)": (
        lambda: nn.Upsample(size=(13, 11), mode="bilinear", align_corners=True), IMAGE
    ),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), (4, 3, 3)),
    "PixelUnshuffle": (lambda: nn.PixelUnshuffle(2), (2, 4, 4)),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), (4, 3, 3)),
    "Bilinear": (lambda: _Bilinear(), FLAT),
    "CosineSimilarity": (lambda: _Cosine(), SERIES),
    "einsum": (_f(lambda x: torch.einsum("btd,bsd->bts", x, x)), SERIES),
    "torch.where": (_f(lambda x: torch.where(x > 0.3, x, -2 * x)), FLAT),
    "torch.clamp": (_f(lambda x: x.clamp(-0.5, 0.7)), FLAT),
    "torch.cumsum": (_f(lambda x: x.cumsum(1)), FLAT),
    "torch.sort": (_f(lambda x: x.sort(dim=1, descending=True).values), FLAT),
    "torch.argsort": (_f(lambda x: x.argsort(1)), FLAT),
    "torch.topk": (_f(lambda x: torch.cat(x.topk(3, 1), 1)), FLAT),
    "torch.argmax": (_f(lambda x: x.argmax(1)), SERIES),
    "torch.argmin": (_f(lambda x: x.argmin(-1)), SERIES),
    "torch.max(dim)": (_f(lambda x: x.max(dim=1).values), SERIES),
    "torch.std": (_f(lambda x: x.std(dim=1)), SERIES),
    "torch.norm": (_f(lambda x: x / x.norm(dim=-1, keepdim=True)), SERIES),
    "torch.logsumexp": (_f(lambda x: x.logsumexp(-1)), SERIES),
    "slices in place": (lambda: _Slices(), SERIES),
}  # fmt: skip


class _Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Bilinear(6, 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x, x)


class _Cosine(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.cosine_similarity(x[:, 0], x[:, 1])[:, None]


class _Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids).mean(1)


class _Slices(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        y[:, 1:3] += 1.0
        y[:, 0] = 0.5
        return y


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    name: getattr(nn, name)
    for name in (
        "ReLU", "ReLU6", "LeakyReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Sigmoid",
        "Tanh", "Softplus", "Softsign", "LogSigmoid", "Hardtanh", "Hardsigmoid", "Hardswish",
        "Hardshrink", "Softshrink", "Tanhshrink", "GLU",
    )
}  # fmt: skip
_ACTIVATIONS["GELU(tanh)"] = lambda: nn.GELU("tanh")
_ACTIVATIONS["Threshold"] = lambda: nn.Threshold(0.1, -0.2)

CASES: dict[str, Case] = {
    **{name: Case(make, shape) for name, (make, shape) in _SHAPED.items()},
    **{name: _activation(make) for name, make in _ACTIVATIONS.items()},
    "Embedding": Case(lambda: nn.Embedding(11, 4), FLAT, indices=11, note="secret index, one-hot"),
    "Embedding and mean": Case(_Bag, FLAT, indices=11),
    "Model: MLP": Case(models.mlp, (12,)),
    "Model: LeNet": Case(models.lenet, (1, 28, 28)),
    "Model: ResNet-18-like": Case(models.ResNet, (3, 32, 32), 1e-2),
    "Model: VGG-like": Case(models.vgg, (3, 16, 16), 1e-2),
    "Model: MobileNet-like": Case(models.mobilenet, (3, 16, 16), 1e-2),
    "Model: LSTM": Case(
        lambda: models.Recurrent(nn.LSTM(8, 12, 2, batch_first=True), 12), (10, 8), 1e-2
    ),
    "Model: GRU": Case(
        lambda: models.Recurrent(nn.GRU(8, 12, 2, batch_first=True), 12), (10, 8), 1e-2
    ),
    "Model: transformer encoder": Case(models.encoder, SERIES, 1e-2),
    "Model: BERT-like": Case(models.Bert, (8,), 1e-2, indices=50),
    "Model: GPT-like decoder": Case(models.Decoder, (6,), 1e-2, indices=20),
    "Model: autoencoder": Case(models.autoencoder, (1, 16, 16)),
}


_APPROXIMATED = (
    "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm", "Softm", "LogS", "RNN", "LSTM", "GRU",
    "Attention", "Transformer", "Model", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Sigmoid",
    "Tanh", "Softplus", "Softsign", "GLU", "Cosine", "std", "norm", "logsumexp",
)  # fmt: skip
_EXACT = ("ReLU", "Hard", "VGG", "ResNet", "MobileNet")
CASES = marked(CASES, _APPROXIMATED, _EXACT)
