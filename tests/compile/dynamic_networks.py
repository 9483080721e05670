"""Small networks that take inputs of several sizes, and their data."""

import math

import torch
from torch import nn
from torch.nn import functional

LENGTHS = ("--dynamic", "tokens:1=length:1..32", "--dynamic", "mask:1=length")
STEPS = ("--dynamic", "image:2=height:8..24:4", "--dynamic", "image:3=width:8..32:8")
PICTURES = ("--dynamic", "image:2=height:8..24", "--dynamic", "image:3=width:8..40")


class Encoder(nn.Module):
    """One block of a text encoder (Devlin et al. 2019) on (N, length) tokens with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.positions = nn.Embedding(50, 16), nn.Embedding(32, 16)
        self.norm, self.last = nn.LayerNorm(16), nn.LayerNorm(16)
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length = tokens.shape
        x = self.norm(self.words(tokens) + self.positions(torch.arange(length)))
        query, key, value = (
            layer(x).view(batch, length, 2, 8).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(8)
        scores = scores.masked_fill(~mask[:, None, None, :], -1e4)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(x.shape)
        x = self.last(x + self.out(mixed))
        return self.head(x.mean(1))


class Convolutions(nn.Module):
    """Convolutions alone on pictures of any height and width: a map, and classes after a global mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8),
            nn.ReLU(),
        )
        self.map, self.classes = nn.Conv2d(8, 4, 1), nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.body(image)
        return self.map(x), self.classes(x.mean([2, 3]))


def encoder():
    return Encoder(), (torch.zeros(1, 6, dtype=torch.int64), torch.ones(1, 6, dtype=torch.bool))


def convolutions():
    return Convolutions(), (torch.rand(1, 3, 16, 24),)


def text(length: int, seed: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and their mask, whose last tokens are padding."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, length, dtype=torch.bool)
    mask[:, length - length // 4 :] = False
    return torch.randint(0, 50, (batch, length), generator=generator), mask


def picture(height: int, width: int, seed: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def texts():
    for seed in range(17):
        yield text(1 + seed * 5 % 32, seed)


def pictures():
    for seed in range(17):
        yield picture(8 + seed * 3 % 17, 8 + seed * 7 % 33, seed)


def pictures_of_one_size():
    for seed in range(17):
        yield picture(8, 8, seed)


def pictures_too_large():
    yield picture(8, 41, 0)


def texts_that_do_not_fit_their_masks():
    yield text(5, 0)[0], text(6, 0)[1]


class Halved(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(functional.max_pool2d(x, 2), scale_factor=2) + x


def halved():
    return Halved(), (torch.rand(1, 3, 8, 8),)


class Reshaped(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(1, 12) * 2


def reshaped():
    return Reshaped(), (torch.rand(1, 4, 3),)


class UNet(nn.Module):
    """Two levels of a U-Net (Ronneberger et al. 2015), for heights and widths that 4 divides."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.deepest = nn.Conv2d(16, 16, 3, padding=1)
        self.up, self.last_up = nn.ConvTranspose2d(16, 16, 2, 2), nn.ConvTranspose2d(8, 8, 2, 2)
        self.join, self.last = nn.Conv2d(32, 8, 3, padding=1), nn.Conv2d(16, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        wide = self.first(image).relu()
        half = self.second(functional.max_pool2d(wide, 2)).relu()
        quarter = self.deepest(functional.max_pool2d(half, 2)).relu()
        joined = self.join(torch.cat([self.up(quarter), half], 1)).relu()
        return self.last(torch.cat([self.last_up(joined), wide], 1))


def unet():
    return UNet(), (torch.rand(1, 3, 16, 8),)


def pictures_in_steps():
    for seed in range(17):
        yield picture(8 + 4 * (seed % 5), 8 + 8 * (seed % 4), seed)
