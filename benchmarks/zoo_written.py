"""The zoo's networks that no package has ready: `NETWORKS` has each with what it reads.

Each is one of a kind that people build: heads that find things in pictures, sounds, words, states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import zoo_written_pictures as pictures
import zoo_written_sequences as sequences
from torch import nn
from zoo_samples import textures, waves
from zoo_weights import settled

Sample = tuple[torch.Tensor, ...]


def model(name: str) -> tuple[nn.Module, Sample]:
    """Return a network in eval mode, with random weights, and an example of its inputs."""
    torch.manual_seed(0)
    make, reads = NETWORKS[name]
    return settled(make(), list(samples(name)), name), reads(torch.Generator().manual_seed(0))


def samples(name: str) -> Iterator[Sample]:
    """Yield four random samples of what a network reads."""
    generator = torch.Generator().manual_seed(1)
    _, reads = NETWORKS[name]
    for _ in range(4):
        yield reads(generator)


def picture(generator: torch.Generator) -> Sample:
    """Return a smooth picture (1, 3, 96, 96)."""
    return tuple(textures(1, (3, 96, 96), generator))


def line_of_text(generator: torch.Generator) -> Sample:
    """Return a gray picture of a line (1, 1, 32, 96)."""
    return tuple(textures(1, (1, 32, 96), generator))


def sound(generator: torch.Generator) -> Sample:
    """Return half a second of sound at 8 kHz (1, 1, 4000)."""
    return (waves(4000, generator)[:, None],)


def mel(generator: torch.Generator) -> Sample:
    """Return 48 frames of 40 mel bands (1, 40, 48)."""
    return (textures(1, (1, 40, 48), generator)[0][:, 0],)


def words(generator: torch.Generator) -> Sample:
    """Return 16 words of 500 (1, 16)."""
    return (torch.randint(0, 500, (1, 16), generator=generator),)


def frame_and_state(generator: torch.Generator) -> Sample:
    """Return a frame of 40 values (1, 40), and two layers' states of 64 (2, 1, 64)."""
    return torch.randn(1, 40, generator=generator), torch.randn(2, 1, 64, generator=generator).tanh()


def film(generator: torch.Generator) -> Sample:
    """Return four small pictures in a row (1, 4, 3, 24, 24)."""
    return (textures(1, (12, 24, 24), generator)[0].reshape(1, 4, 3, 24, 24),)


def two_pictures(generator: torch.Generator) -> Sample:
    """Return two pictures."""
    return (*picture(generator), *picture(generator))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[torch.Generator], Sample]]] = {
    "fcn": (pictures.Fcn, picture),
    "deeplab": (pictures.DeepLab, picture),
    "pyramid": (pictures.Pyramid, picture),
    "unet_transposed": (pictures.TransposedUNet, picture),
    "retinanet": (pictures.RetinaNet, picture),
    "fcos": (pictures.Fcos, picture),
    "yolo": (pictures.Yolo, picture),
    "centernet": (pictures.CenterNet, picture),
    "keypoints": (pictures.Keypoints, picture),
    "detr": (pictures.Detr, picture),
    "super_resolution": (pictures.SuperResolution, picture),
    "style": (pictures.Style, picture),
    "denoiser": (pictures.Denoiser, picture),
    "siamese": (pictures.Siamese, two_pictures),
    "conv_lstm": (pictures.Cells, film),
    "m5": (sequences.m5, sound),
    "ds_cnn": (sequences.Spectral, mel),
    "quartznet": (sequences.Separable, mel),
    "wavenet": (sequences.WaveNet, sound),
    "tasnet": (sequences.TasNet, sound),
    "vocoder": (sequences.Vocoder, mel),
    "conformer": (sequences.Conformer, mel),
    "demucs": (sequences.Demucs, sound),
    "gru": (lambda: sequences.Spotter(nn.GRU), mel),
    "lstm": (lambda: sequences.Spotter(nn.LSTM, num_layers=2), mel),
    "lstm_projected": (lambda: sequences.Spotter(nn.LSTM, 24, proj_size=24), mel),
    "lstm_both_ways": (lambda: sequences.Spotter(nn.LSTM, 96, bidirectional=True), mel),
    "rnn": (lambda: sequences.Spotter(nn.RNN), mel),
    "rnn_relu": (lambda: sequences.Spotter(nn.RNN, nonlinearity="relu"), mel),
    "tagger": (sequences.Tagger, words),
    "text_cnn": (sequences.TextCnn, words),
    "bag_of_words": (sequences.BagOfWords, words),
    "streaming": (sequences.Streaming, frame_and_state),
    "reader": (sequences.Reader, line_of_text),
    "translator": (sequences.Translator, words),
}
