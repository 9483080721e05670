"""Networks that take and give tensors in dictionaries, tuples and classes, and their data."""

import collections
import dataclasses

import torch
from torch import nn
from torch.utils import _pytree


class ModelOutput(collections.OrderedDict):
    """A library's output: a dictionary of a class of its own, which says itself how it is taken apart."""


_pytree.register_pytree_node(
    ModelOutput,
    lambda output: (list(output.values()), list(output)),
    lambda values, keys: ModelOutput(zip(keys, values, strict=True)),
    serialized_type_name="structured_networks.ModelOutput",
)


class Unknown(collections.OrderedDict):
    """A dictionary of a class that torch.export has never seen."""


@dataclasses.dataclass
class Detections:
    boxes: torch.Tensor
    scores: torch.Tensor | None
    levels: tuple[torch.Tensor, ...]


Pair = collections.namedtuple("Pair", "left right")


class Net(nn.Module):
    """Tokens with a mask by name, and pictures in a structure; a library's output with a tuple in it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.layer, self.head = nn.Embedding(20, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, tokens, features, mask=None):
        text = (self.table(tokens) * mask[..., None]).mean(1)
        image = torch.relu(self.layer(features["pixels"]) + features["parts"][1])
        logits = self.head(text + image)
        return ModelOutput(logits=logits, hidden_states=(text, image))


def example():
    features = {"pixels": torch.rand(1, 6), "parts": [torch.rand(1, 8), torch.rand(1, 8)]}
    return features, torch.zeros(1, 5, dtype=torch.int64), torch.ones(1, 5, dtype=torch.bool)


def by_name():
    """Give the arguments in another order than `forward` has them."""
    features, tokens, mask = example()
    return Net(), {"mask": mask, "tokens": tokens, "features": features}


def in_order():
    features, tokens, mask = example()
    return Net(), (tokens, features, mask)


def _samples():
    generator = torch.Generator().manual_seed(1)
    for index in range(17):
        pixels, first, second = (torch.rand(1, size, generator=generator) for size in (6, 8, 8))
        tokens = torch.randint(0, 20, (1, 5), generator=generator)
        yield tokens, pixels, (first, second), torch.arange(5)[None] <= index % 5


def named_samples():
    for tokens, pixels, parts, mask in _samples():
        yield {"mask": mask, "features": {"parts": parts, "pixels": pixels}, "tokens": tokens}, 2


def ordered_samples():
    for tokens, pixels, parts, mask in _samples():
        yield tokens, {"parts": list(parts), "pixels": pixels}, mask


def flat_samples():
    for tokens, pixels, (first, second), mask in _samples():
        yield tokens, pixels, first, second, mask


class Returns(nn.Module):
    """What `function` makes of the input."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor):
        return self.function(x)
