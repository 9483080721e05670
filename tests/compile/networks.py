"""Small networks and their data, as a user would hand them to the command line."""

import sys
import time

import torch
from torch import nn
from torch.nn import functional


class Small(nn.Module):
    """Asymmetric padding, conv, batch norm, relu6, depthwise, residual add, mean, linear."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)
        for norm in (self.stem_norm, self.depthwise_norm):
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.1, 0.5)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(picture, (0, 1, 0, 1))
        features = functional.relu6(self.stem_norm(self.stem(padded)))
        deeper = functional.relu6(self.depthwise_norm(self.depthwise(features)))
        return self.head((features + self.project(deeper)).mean([2, 3]))


class Several(nn.Module):
    """Two float inputs and integer tokens in; a dictionary with a tuple in it out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.left, self.right = nn.Linear(6, 8), nn.Linear(4, 8)
        self.table = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, first: torch.Tensor, second: torch.Tensor, tokens: torch.Tensor):
        joined = functional.relu(self.left(first)) + self.right(second) + self.table(tokens).mean(1)
        low, high = joined.chunk(2, dim=1)
        return {"scores": self.head(joined), "halves": (low * high, joined)}


class Block(nn.Module):
    """A transformer encoder block on (N, 12, 64) with query, key and value apart, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(2))
        self.query, self.key, self.value, self.join = (nn.Linear(64, 64) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(64, 256), nn.Linear(256, 64), nn.Linear(64, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.norms[0](tokens)
        query, key, value = (
            layer(x).unflatten(-1, (4, 16)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = tokens + self.join(attended)
        x = x + self.down(functional.gelu(self.up(self.norms[1](x))))
        return self.head(x.mean(1))


class Sums(nn.Module):
    """Running sums between linear layers, and a power of many factors: outside the delegate."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.first, self.second, self.last = nn.Linear(96, 64), nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.first(rows)).cumsum(1)
        x = functional.relu(self.second(x)).cumsum(1)
        return self.last((x * 0.01 + 1).pow(9))


class Outlier(nn.Module):
    """Two multiplications that make a large value huge, between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem, self.head = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 2, 1)
        nn.init.ones_(self.stem.weight)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        squares = self.stem(picture)
        squares = squares * squares
        return self.head(squares * squares)


class Sleepy(nn.Module):
    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        _sleep()
        return picture


def small():
    return Small().eval(), (torch.rand(1, 3, 16, 16),)


def other():
    return Small(seed=7).eval(), (torch.rand(1, 3, 16, 16),)


def large():
    return Small().eval(), (torch.rand(1, 3, 512, 512),)


def several():
    return Several().eval(), (torch.rand(1, 6), torch.rand(1, 4), torch.randint(0, 10, (1, 5)))


def sums():
    return Sums().eval(), (torch.randn(4, 96),)


def mlp():
    torch.manual_seed(3)
    layers = (nn.Linear(96, 256), nn.ReLU(), nn.Linear(256, 256, bias=False), nn.ReLU(), nn.Linear(256, 10))
    return nn.Sequential(*layers).eval(), (torch.randn(4, 96),)


class Tied(nn.Module):
    """One linear layer, used three times with something the delegate may leave out between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.layer = nn.Linear(256, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = functional.layer_norm(torch.tanh(self.layer(x)), (256,))
        return x


def tied():
    return Tied().eval(), (torch.randn(4, 256),)


def convolution():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (torch.randn(1, 3, 8, 8),)


def block():
    return Block().eval(), (torch.randn(1, 12, 64),)


def token_rows():
    generator = torch.Generator().manual_seed(1)
    for _ in range(16):
        yield torch.randn(1, 12, 64, generator=generator)


def tied_rows():
    generator = torch.Generator().manual_seed(1)
    for _ in range(16):
        yield torch.randn(4, 256, generator=generator)


def mlp_rows():
    generator = torch.Generator().manual_seed(1)
    for _ in range(16):
        yield torch.randn(4, 96, generator=generator)


def outlier():
    return Outlier().eval(), (torch.rand(1, 1, 128, 128),)


def spikes():
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        picture = torch.rand(1, 1, 128, 128, generator=generator)
        picture[0, 0, 3, 3] = 4
        yield picture


def sleepy_module():
    return Sleepy(), (torch.rand(1, 3, 16, 16),)


def sleepy_function():
    _sleep()


def pictures(count: int = 12, side: int = 16):
    generator = torch.Generator().manual_seed(1)
    for index in range(count):
        yield torch.rand(1, 3, side, side, generator=generator), index % 5


def large_pictures():
    yield from pictures(8, 512)


def wrong_pictures():
    yield from pictures(1, 15)


def no_pictures():
    return []


def several_inputs():
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        tokens = torch.randint(0, 10, (1, 5), generator=generator)
        yield torch.rand(1, 6, generator=generator), torch.rand(1, 4, generator=generator), tokens


def _sleep() -> None:
    sys.stderr.write("asleep\n")
    sys.stderr.flush()
    time.sleep(60)


class Uneven(nn.Module):
    """Built to break naive quantization: depthwise channels of 100 to 1, hard-swish, squeeze-and-excite."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.expand = nn.Sequential(nn.Conv2d(16, 48, 1, bias=False), nn.BatchNorm2d(48), nn.Hardswish())
        self.depthwise = nn.Sequential(
            nn.Conv2d(48, 48, 3, 1, 1, groups=48, bias=False), nn.BatchNorm2d(48), nn.Hardswish()
        )
        self.squeeze, self.excite = nn.Conv2d(48, 12, 1), nn.Conv2d(12, 48, 1)
        self.project = nn.Sequential(nn.Conv2d(48, 24, 1, bias=False), nn.BatchNorm2d(24))
        self.head = nn.Linear(24, 10)
        spread = torch.logspace(-1, 1, 48)[torch.randperm(48)]
        with torch.no_grad():
            norm = self.depthwise[1]
            norm.weight.copy_(spread)
            norm.bias.copy_(spread * torch.randn(48) / 2)
            self.project[0].weight.div_(spread.reshape(1, -1, 1, 1))
            self.train()  # the norms' statistics are those of data
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = None
            self(torch.cat([inputs[0] for inputs in textures()]))
            self.eval()

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        features = self.depthwise(self.expand(self.stem(picture)))
        gate = self.excite(functional.relu(self.squeeze(features.mean([2, 3], keepdim=True))))
        return self.head(self.project(features * functional.hardsigmoid(gate)).mean([2, 3]))


def textures(seed: int = 0):
    """Pictures of smooth patches with some noise."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(48):
        patches = torch.randn(1, 3, 6, 6, generator=generator)
        smooth = functional.interpolate(patches, size=(32, 32), mode="bilinear")
        yield (smooth + 0.1 * torch.randn(1, 3, 32, 32, generator=generator),)


def other_textures():
    yield from textures(seed=1)


def uneven() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    return Uneven(), (torch.zeros(1, 3, 32, 32),)


def labelled_textures():
    """Other pictures, each with the class that the network itself gives it in float."""
    network, _ = uneven()
    with torch.no_grad():
        for (picture,) in textures(seed=1):
            yield (picture,), int(network(picture).argmax())


class Prunable(nn.Module):
    """A residual block with a depthwise convolution in it, wide enough for multiples of eight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
        self.expand = nn.Sequential(nn.Conv2d(32, 96, 1, bias=False), nn.BatchNorm2d(96), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(96, 96, 3, 1, 1, groups=96, bias=False), nn.BatchNorm2d(96), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(96, 32, 1, bias=False), nn.BatchNorm2d(32))
        self.last = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(64, 10)
        for norm in (module for module in self.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.1, 0.5)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        x = self.stem(picture)
        x = x + self.project(self.depthwise(self.expand(x)))
        return self.head(self.last(x).mean([2, 3]))


def prunable():
    return Prunable().eval(), (torch.rand(1, 3, 32, 32),)


def nothing_to_prune():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval(), (torch.rand(1, 3, 32, 32),)
