"""Heads that find things in pictures, and what paints: written for the zoo, in reduced size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from zoo_layers import conv


class Stages(nn.Module):
    """A backbone: pictures to features at 1/4, 1/8 and 1/16 of the size."""

    def __init__(self, act: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, 3, 2, act=act()), conv(16, 24, 3, 2, act=act()))
        self.second = nn.Sequential(conv(24, 48, 3, 2, act=act()), conv(48, 48, act=act()))
        self.third = nn.Sequential(conv(48, 96, 3, 2, act=act()), conv(96, 96, act=act()))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        fine = self.stem(x)
        middle = self.second(fine)
        return fine, middle, self.third(middle)


class Fcn(nn.Module):
    """Segmentation by a convolution on the last features, upsampled (Long et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = Stages()
        self.head = nn.Sequential(conv(96, 32), nn.Dropout(0.1), nn.Conv2d(32, 5, 1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.head(self.stages(x)[-1])
        return {"out": F.interpolate(scores, x.shape[-2:], mode="bilinear", align_corners=False)}


class DeepLab(nn.Module):
    """Segmentation with dilated convolutions and the picture's mean (Chen et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = Stages()
        self.branches = nn.ModuleList(
            [conv(96, 32, 1), *(conv(96, 32, 3, dilation=rate, padding=rate) for rate in (2, 4, 6))]
        )
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(96, 32, 1))
        self.head = nn.Sequential(conv(160, 32), nn.Conv2d(32, 5, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.stages(x)[-1]
        size = features.shape[-2:]
        mean = F.interpolate(self.pooled(features), size, mode="bilinear", align_corners=False)
        scores = self.head(torch.cat([*(branch(features) for branch in self.branches), mean], 1))
        return F.interpolate(scores, x.shape[-2:], mode="bilinear", align_corners=False)


class Pyramid(nn.Module):
    """Segmentation with the means of squares of several sizes (Zhao et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = Stages()
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), conv(96, 24, 1)) for size in (1, 2, 3, 6)
        )
        self.head = nn.Sequential(conv(192, 32), nn.Conv2d(32, 5, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.stages(x)[-1]
        size = features.shape[-2:]
        pools = [F.interpolate(pool(features), size, mode="bilinear") for pool in self.pools]
        return F.interpolate(self.head(torch.cat([features, *pools], 1)), scale_factor=16, mode="nearest")


class TransposedUNet(nn.Module):
    """Segmentation that goes down by pooling and up by transposed convolutions (Ronneberger et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = conv(3, 16), conv(16, 32), conv(32, 64)
        self.up = nn.ConvTranspose2d(64, 32, 2, 2)
        self.upper = nn.ConvTranspose2d(32, 16, 2, 2)
        self.joined, self.upmost = conv(64, 32), conv(32, 16)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        second = self.second(F.max_pool2d(first, 2))
        third = self.third(F.max_pool2d(second, 2))
        joined = self.joined(torch.cat([second, self.up(third)], 1))
        return self.head(self.upmost(torch.cat([first, self.upper(joined)], 1))).sigmoid()


class RetinaNet(nn.Module):
    """A feature pyramid with shared heads for classes and boxes (Lin et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = Stages()
        self.lateral = nn.ModuleList(nn.Conv2d(width, 32, 1) for width in (24, 48, 96))
        self.smooth = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(3))
        self.classes = nn.Sequential(conv(32, 32), conv(32, 32), nn.Conv2d(32, 9 * 4, 3, padding=1))
        self.boxes = nn.Sequential(conv(32, 32), conv(32, 32), nn.Conv2d(32, 9 * 4, 3, padding=1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = [layer(item) for layer, item in zip(self.lateral, self.stages(x), strict=True)]
        for lower, upper in ((1, 2), (0, 1)):
            up = F.interpolate(rows[upper], rows[lower].shape[-2:], mode="nearest")
            rows[lower] = rows[lower] + up
        rows = [layer(item) for layer, item in zip(self.smooth, rows, strict=True)]
        classes = [self._anchors(self.classes(item)) for item in rows]
        boxes = [self._anchors(self.boxes(item)) for item in rows]
        return {"cls_logits": torch.cat(classes, 1), "bbox_regression": torch.cat(boxes, 1)}

    def _anchors(self, x: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = x.shape
        return x.view(batch, 9, 4, height, width).permute(0, 3, 4, 1, 2).reshape(batch, -1, 4)


class Fcos(nn.Module):
    """Boxes by their distances from each place, with group norms (Tian et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = Stages()
        self.tower = nn.Sequential(nn.Conv2d(96, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU())
        self.classes = nn.Conv2d(32, 5, 3, padding=1)
        self.distances = nn.Conv2d(32, 4, 3, padding=1)
        self.centers = nn.Conv2d(32, 1, 3, padding=1)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tower = self.tower(self.stages(x)[-1])
        return self.classes(tower), F.relu(self.scale * self.distances(tower)), self.centers(tower)


class Yolo(nn.Module):
    """A cell a place, its boxes decoded, SiLU, a pooling pyramid and slices that focus (Jocher 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.focus = conv(12, 24, act=nn.SiLU())
        self.down = nn.ModuleList(
            conv(inputs, outputs, 3, 2, act=nn.SiLU()) for inputs, outputs in ((24, 48), (48, 96))
        )
        self.inner = conv(48, 48, act=nn.SiLU())
        self.pyramid = nn.ModuleList([conv(96, 48, 1, act=nn.SiLU()), conv(192, 48, 1, act=nn.SiLU())])
        self.joined = conv(96, 48, act=nn.SiLU())
        self.heads = nn.ModuleList([nn.Conv2d(48, 27, 1), nn.Conv2d(48, 27, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corners = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        fine = self.down[0](self.focus(torch.cat(corners, 1)))
        left, right = fine.chunk(2, 1)
        fine = torch.cat([left + self.inner(torch.cat([left, right], 1))[:, :24], right], 1)
        pooled = [self.pyramid[0](self.down[1](fine))]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], 5, 1, 2))
        coarse = self.pyramid[1](torch.cat(pooled, 1))
        up = self.joined(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0, mode="nearest")], 1))
        return torch.cat([self._decoded(self.heads[0](up), 4), self._decoded(self.heads[1](coarse), 8)], 1)

    def _decoded(self, x: torch.Tensor, stride: int) -> torch.Tensor:
        batch, _, height, width = x.shape
        x = x.view(batch, 3, 9, height, width).permute(0, 1, 3, 4, 2).sigmoid()
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack([columns, rows], -1).float()
        center = (x[..., 0:2] * 2 - 0.5 + grid) * stride
        size = (x[..., 2:4] * 2) ** 2 * (4.0 * stride)
        return torch.cat([center, size, x[..., 4:]], -1).view(batch, -1, 9)


class CenterNet(nn.Module):
    """Heat maps whose peaks are kept, sizes and offsets (Zhou et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = Stages()
        self.up = nn.Sequential(
            nn.ConvTranspose2d(96, 48, 4, 2, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU(),
            nn.ConvTranspose2d(48, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        )  # fmt: skip
        self.heat, self.sizes, self.offsets = (nn.Conv2d(32, count, 1) for count in (5, 2, 2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.up(self.stages(x)[-1])
        heat = self.heat(features).sigmoid()
        peaks = (F.max_pool2d(heat, 3, 1, 1) == heat).float()
        return heat * peaks, self.sizes(features).exp(), self.offsets(features)


class Keypoints(nn.Module):
    """Heat maps of joints, and where each is: the mean place under a softmax (Sun et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = Stages(nn.Hardswish)
        self.heat = nn.Sequential(nn.ConvTranspose2d(96, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 7, 1))
        self.register_buffer("places", torch.linspace(0, 1, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heat = self.heat(self.stages(x)[-1])
        chances = heat.flatten(2).softmax(-1).view_as(heat)
        across = (chances.sum(2) * self.places).sum(-1)
        down = (chances.sum(3) * self.places).sum(-1)
        return torch.stack([across, down], -1)


class Detr(nn.Module):
    """Boxes from learnt queries that attend to the features (Carion et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = Stages()
        self.project = nn.Conv2d(96, 32, 1)
        self.transformer = nn.Transformer(32, 4, 1, 1, 64, batch_first=True)
        self.queries = nn.Parameter(torch.randn(10, 32))
        self.places = nn.Parameter(torch.randn(36, 32))
        self.classes, self.boxes = (
            nn.Linear(32, 6),
            nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)),
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens = self.project(self.stages(x)[-1]).flatten(2).permute(0, 2, 1) + self.places
        found = self.transformer(tokens, self.queries.unsqueeze(0).expand(x.shape[0], -1, -1))
        return {"pred_logits": self.classes(found), "pred_boxes": self.boxes(found).sigmoid()}


class SuperResolution(nn.Module):
    """Twice the size, by a shuffle of channels into pixels (Shi et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 5, padding=2), nn.PReLU(32), nn.Conv2d(32, 16, 3, padding=1), nn.PReLU(),
            nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + F.interpolate(x, scale_factor=2, mode="bicubic")


class Style(nn.Module):
    """Another picture of the same size: reflected borders, instance norms, tanh (Johnson et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(4), nn.Conv2d(3, 16, 9), nn.InstanceNorm2d(16, affine=True), nn.ReLU(),
            nn.ReflectionPad2d(1), nn.Conv2d(16, 32, 3, 2), nn.InstanceNorm2d(32, affine=True), nn.ReLU(),
            nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(32, 16, 3), nn.LeakyReLU(0.2),
            nn.ReflectionPad2d(4), nn.Conv2d(16, 3, 9), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Denoiser(nn.Module):
    """Pictures squeezed to a code and painted again, with the code's mean and deviation (Kingma 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = Stages(nn.LeakyReLU)
        self.code = nn.Linear(96, 2 * 24)
        self.wide = nn.Linear(24, 96 * 36)
        self.paint = nn.Sequential(
            nn.ConvTranspose2d(96, 32, 4, 4), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(32, 16, 3, padding=1), nn.ELU(), nn.ConvTranspose2d(16, 3, 2, 2), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, spread = self.code(self.stages(x)[-1].mean((2, 3))).chunk(2, -1)
        return self.paint(self.wide(mean).view(-1, 96, 6, 6)), mean, (0.5 * spread).exp()


class Siamese(nn.Module):
    """How alike two pictures are: the cosine of their codes."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = Stages()
        self.code = nn.Linear(96, 32)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        codes = [F.normalize(self.code(self.stages(x)[-1].mean((2, 3))), dim=-1) for x in (first, second)]
        return (codes[0] * codes[1]).sum(-1)


class Cells(nn.Module):
    """Convolutions over a film whose gates are convolutions (Shi et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Conv2d(3 + 16, 64, 3, padding=1)
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = x.new_zeros(x.shape[0], 16, *x.shape[-2:])
        kept = torch.zeros_like(state)
        for picture in x.unbind(1):
            into, forget, give, new = self.gates(torch.cat([picture, state], 1)).chunk(4, 1)
            kept = forget.sigmoid() * kept + into.sigmoid() * new.tanh()
            state = give.sigmoid() * kept.tanh()
        return self.head(state)
