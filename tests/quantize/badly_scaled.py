"""Networks that one scale suits badly, and their data, as a user would hand them to the command line."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)


class Branches(nn.Module):
    """A wide branch between narrow ones, whose clamps let no factor through, read by two layers."""

    def __init__(self, ratio=100.0):
        super().__init__()
        torch.manual_seed(0)
        self.ratio = ratio
        self.left, self.middle, self.right = (
            nn.Conv2d(4, 8, 3, padding=1),
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 8, 1),
        )
        self.first, self.second = nn.Conv2d(20, 8, 3, padding=1), nn.Conv2d(20, 8, 1, bias=False)
        self.last = nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.middle.weight.mul_(ratio)
            for reader in (self.first, self.second):
                reader.weight[:, 8:12].div_(ratio)

    def forward(self, x):
        left, right = F.hardtanh(self.left(x)), F.hardtanh(self.right(x))
        joined = torch.cat([left, F.hardtanh(self.middle(x), -self.ratio, self.ratio), right], 1)
        return self.last(F.relu(self.first(joined)) + F.relu(self.second(joined)))


class Outliers(nn.Module):
    """Two channels that always reach the clip, so that no factor helps, are read with too large weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.depthwise = nn.Conv2d(16, 128, 1), nn.Conv2d(128, 128, 3, groups=128, padding=1)
        self.wide, self.last = nn.Conv2d(128, 32, 1), nn.Conv2d(32, 10, 1)
        with torch.no_grad():
            self.depthwise.weight.mul_(3)
            self.depthwise.bias[[5, 40]] = 20
            self.wide.bias.sub_(15)  # most of what the two add
            self.wide.weight[:16, 5] = self.wide.weight[16:, 40] = 3  # all others are below 0.09

    def forward(self, x):
        x = F.relu6(self.depthwise(F.relu6(self.first(x))))
        return self.last(F.relu(self.wide(x)))


def branches():
    return Branches().eval(), (torch.zeros(1, 4, 8, 8),)


def branches_data():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(1, 4, 8, 8, generator=generator),) for _ in range(24)]


def outliers():
    return Outliers().eval(), (torch.zeros(1, 16, 8, 8),)


def outliers_data():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(1, 16, 8, 8, generator=generator),) for _ in range(24)]
