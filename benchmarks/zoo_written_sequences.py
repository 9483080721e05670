"""What reads sounds, words and states: written for the zoo, in reduced size."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from zoo_layers import conv, conv1d


def m5() -> nn.Module:
    """Return a network on the wave itself (Dai et al. 2017)."""
    return nn.Sequential(
        conv1d(1, 16, 79, 4), nn.MaxPool1d(4), conv1d(16, 32), nn.MaxPool1d(4), conv1d(32, 64),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 10), nn.LogSoftmax(-1),
    )  # fmt: skip


class Spectral(nn.Module):
    """Separable convolutions over time and frequency: DS-CNN (Zhang et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [nn.Sequential(conv(32, 32, groups=32), conv(32, 32, 1)) for _ in range(3)]
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, (10, 4), (2, 2), (5, 1)), nn.BatchNorm2d(32), nn.ReLU(), *blocks
        )
        self.head = nn.Linear(32, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x.transpose(1, 2).unsqueeze(1)).mean((2, 3)))


class Separable(nn.Module):
    """Residual separable convolutions over time for speech (Kriman et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv1d(40, 48, 11, 2)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                conv1d(48, 48, 11, groups=48, act=nn.Identity()), conv1d(48, 48, 1, act=nn.Identity())
            )
            for _ in range(3)
        )
        self.head = nn.Conv1d(48, 29, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.head(x).transpose(1, 2).log_softmax(-1)


class WaveNet(nn.Module):
    """Causal dilated convolutions with gates, and the sum of what each skips (van den Oord et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 24, 1)
        self.gated = nn.ModuleList(nn.Conv1d(24, 48, 2, dilation=2**index) for index in range(4))
        self.mixed = nn.ModuleList(nn.Conv1d(24, 24, 1) for _ in range(4))
        self.skipped = nn.ModuleList(nn.Conv1d(24, 32, 1) for _ in range(4))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(32, 32, 1), nn.ReLU(), nn.Conv1d(32, 16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        total = 0
        for index, (gated, mixed, skipped) in enumerate(
            zip(self.gated, self.mixed, self.skipped, strict=True)
        ):
            signal, gate = gated(F.pad(x, (2**index, 0))).chunk(2, 1)
            inner = signal.tanh() * gate.sigmoid()
            total = total + skipped(inner)
            x = x + mixed(inner)
        return self.head(total)


class TasNet(nn.Module):
    """Two speakers from one sound: learnt frames, masks, frames added up again (Luo, Mesgarani 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Conv1d(1, 48, 16, 8, bias=False)
        self.norm = nn.GroupNorm(1, 48)
        self.narrow = nn.Conv1d(48, 24, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(24, 48, 1), nn.PReLU(), nn.GroupNorm(1, 48),
                nn.Conv1d(48, 48, 3, padding=2**index, dilation=2**index, groups=48), nn.PReLU(),
                nn.GroupNorm(1, 48), nn.Conv1d(48, 24, 1),
            )
            for index in range(3)
        )  # fmt: skip
        self.masks = nn.Sequential(nn.PReLU(), nn.Conv1d(24, 96, 1), nn.Sigmoid())
        self.decode = nn.ConvTranspose1d(48, 1, 16, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = F.relu(self.encode(x))
        inner = self.narrow(self.norm(frames))
        for block in self.blocks:
            inner = inner + block(inner)
        masks = self.masks(inner).view(x.shape[0], 2, 48, -1)
        parts = [self.decode(frames * masks[:, speaker]) for speaker in (0, 1)]
        return torch.cat(parts, 1)


class Vocoder(nn.Module):
    """Frames to sound by transposed convolutions and residual blocks (Kong et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(40, 48, 7, padding=3)
        self.up = nn.ModuleList([nn.ConvTranspose1d(48, 24, 16, 8, 4), nn.ConvTranspose1d(24, 12, 8, 4, 2)])
        self.inner = nn.ModuleList(
            nn.ModuleList(nn.Conv1d(width, width, 3, padding=rate, dilation=rate) for rate in (1, 3))
            for width in (24, 12)
        )
        self.last = nn.Conv1d(12, 1, 7, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for up, inner in zip(self.up, self.inner, strict=True):
            x = up(F.leaky_relu(x, 0.1))
            x = sum(layer(F.leaky_relu(x, 0.1)) for layer in inner) / 2 + x
        return self.last(F.leaky_relu(x)).tanh()


class Conformer(nn.Module):
    """Half feed forward, attention, gated convolution, half feed forward (Gulati et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(40, 48)
        self.feeds = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 96), nn.SiLU(), nn.Linear(96, 48)) for _ in range(2)
        )
        self.norm = nn.LayerNorm(48)
        self.attend = nn.MultiheadAttention(48, 4, batch_first=True)
        self.gated = nn.Sequential(nn.Conv1d(48, 96, 1), nn.GLU(1))
        self.local = conv1d(48, 48, 15, groups=48, act=nn.SiLU())
        self.mixed = nn.Conv1d(48, 48, 1)
        self.norms = nn.ModuleList([nn.LayerNorm(48), nn.LayerNorm(48)])
        self.head = nn.Linear(48, 29)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.transpose(1, 2))
        x = x + 0.5 * self.feeds[0](x)
        normed = self.norm(x)
        x = x + self.attend(normed, normed, normed, need_weights=False)[0]
        inner = self.gated(self.norms[0](x).transpose(1, 2))
        x = x + self.mixed(self.local(inner)).transpose(1, 2)
        return self.head(self.norms[1](x + 0.5 * self.feeds[1](x)))


class Demucs(nn.Module):
    """A U-Net over the wave with gates, and an LSTM where it is narrowest (Défossez et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 8, 16)
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv1d(a, b, 8, 4), nn.ReLU(), nn.Conv1d(b, 2 * b, 1), nn.GLU(1))
            for a, b in pairs
        )
        self.lstm = nn.LSTM(16, 16, bidirectional=True)
        self.linear = nn.Linear(32, 16)
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv1d(b, 2 * b, 3, padding=1), nn.GLU(1), nn.ConvTranspose1d(b, a, 8, 4))
            for a, b in reversed(pairs)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[..., :340]
        skips = []
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        x = self.linear(self.lstm(x.permute(2, 0, 1))[0]).permute(1, 2, 0)
        for index, layer in enumerate(self.up):
            x = layer(x + skips.pop(-1))
            x = F.relu(x) if index == 0 else x
        return x


class Spotter(nn.Module):
    """Words in frames of sound: a recurrent network's last state."""

    def __init__(self, make: Callable[..., nn.Module], width: int = 48, **options: Any) -> None:
        super().__init__()
        self.layers = make(40, 48, batch_first=True, **options)
        self.head = nn.Linear(width, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x.transpose(1, 2))[0][:, -1])


class Tagger(nn.Module):
    """A tag a word, from both sides (Huang et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(500, 48, padding_idx=0)
        self.lstm = nn.LSTM(48, 32, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 9)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0])


class TextCnn(nn.Module):
    """The largest answer of filters over words (Kim 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(500, 48)
        self.filters = nn.ModuleList(nn.Conv1d(48, 24, width) for width in (3, 4, 5))
        self.head = nn.Linear(72, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens).transpose(1, 2)
        return self.head(torch.cat([F.relu(layer(x)).amax(-1) for layer in self.filters], 1))


class BagOfWords(nn.Module):
    """The mean of a text's words (Joulin et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(500, 48)
        self.head = nn.Linear(48, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(tokens))


class Streaming(nn.Module):
    """A step of two GRU cells, whose states the caller keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.GRUCell(40, 64), nn.GRUCell(64, 64)])
        self.head = nn.Linear(64, 12)

    def forward(self, frame: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = self.cells[0](frame, state[0])
        second = self.cells[1](first, state[1])
        return self.head(second), torch.stack([first, second])


class Reader(nn.Module):
    """A line of text: convolutions, then an LSTM from left to right and back (Shi et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(1, 16), nn.MaxPool2d(2), conv(16, 32), nn.MaxPool2d(2), conv(32, 48), nn.MaxPool2d((2, 1)),
            conv(48, 48, (4, 1), padding=0),
        )  # fmt: skip
        self.lstm = nn.LSTM(48, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 37)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.layers(x).squeeze(2).transpose(1, 2))[0])


class Translator(nn.Module):
    """One step of a decoder that looks back at the encoder's states (Bahdanau et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(500, 48)
        self.encoder = nn.GRU(48, 32, batch_first=True, bidirectional=True)
        self.keys, self.query, self.energy = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 1)
        self.first = nn.Linear(64, 32)
        self.cell = nn.GRUCell(64, 32)
        self.head = nn.Linear(32, 500)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states, _ = self.encoder(self.embedding(tokens))
        hidden = self.first(states[:, 0]).tanh()
        energy = self.energy((self.keys(states) + self.query(hidden)[:, None]).tanh())
        looked = energy.softmax(1)
        context = (looked * states).sum(1)
        return self.head(self.cell(context, hidden)), looked.squeeze(-1)
