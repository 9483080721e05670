"""Silero VAD: is there speech in these 32 ms? Convolutions and an LSTM cell, 0.31 M parameters, 16 kHz.

Weights: silero-vad 6.2.3. The network takes one window at a time and its own state, so the measure feeds
the artifact's state back to it: an error of one window acts on the next. The measure is the share of windows
that are told right, of spoken prompts with a second of faint noise before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pretrained_models.sources import package_file, safetensors, speech_clips

MEASURE = "windows right"
_WINDOW, _CONTEXT, _STATE = 512, 64, 128  # samples; elements of each half of the state
_PAUSE = 16000  # samples
_NOISE_DB, _SPEECH_DB = -40, -25  # against the clip's loudest window
_CALIBRATION, _EVALUATION = slice(0, None, 12), slice(6, None, 12)  # of the clips

Window = tuple[torch.Tensor, bool | None]  # (1, 576), and whether it is speech, where that is clear
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class SileroVad(nn.Module):
    """The network, with the names of the package's file."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, _STATE)
        self.final_conv = nn.Conv1d(_STATE, 1, 1)

    def forward(
        self, window: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, 576) sound and a state, twice (N, 128), to the likelihood of speech (N, 1) and a state."""
        x = self.stft_conv(functional.pad(window, (0, 64), mode="reflect")[:, None])
        x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = functional.relu(layer(x))
        hidden, cell = self.lstm_cell(x.squeeze(-1), (hidden, cell))
        speech = torch.sigmoid(self.final_conv(functional.relu(hidden)[..., None]))
        return speech.squeeze(-1), hidden, cell


def model() -> tuple[nn.Module, Inputs]:
    """The network in eval mode, with example inputs."""
    network = SileroVad()
    network.load_state_dict(safetensors(package_file("silero_vad/data/silero_vad_16k.safetensors")))
    return network.eval(), (torch.zeros(1, _CONTEXT + _WINDOW), *_silence())


def calibration() -> Iterator[Inputs]:
    """Windows with the state that the float network has there."""
    return _with_states(_CALIBRATION)


def evaluation() -> Iterator[Inputs]:
    """The same of other clips."""
    return _with_states(_EVALUATION)


def measure(run: Callable[..., tuple[torch.Tensor, ...]]) -> float:
    """The share of the clear windows that are told right, each clip from its start with its own state."""
    right = []
    for clip in speech_clips()[_EVALUATION]:
        state = _silence()
        for window, speech in _windows(clip):
            likelihood, *state = run(window, *state)
            if speech is not None:
                right.append((float(likelihood) > 0.5) == speech)
    return sum(right) / len(right)


def _silence() -> list[torch.Tensor]:
    return [torch.zeros(1, _STATE), torch.zeros(1, _STATE)]


def _with_states(clips: slice) -> Iterator[Inputs]:
    network, _ = model()
    for clip in speech_clips()[clips]:
        state = _silence()
        for index, (window, _) in enumerate(_windows(clip)):
            if index % 20 == 0:
                yield window, *state
            with torch.no_grad():
                _, *state = network(window, *state)


def _windows(clip: np.ndarray) -> Iterator[Window]:
    """The windows of a clip with a pause around it, each with the 64 samples before it."""
    loudest = max(_loudness(clip[at : at + _WINDOW]) for at in range(0, len(clip) - _WINDOW, _WINDOW))
    noise = np.random.default_rng(len(clip)).normal(size=len(clip) + 2 * _PAUSE) * loudest
    sound = np.pad(clip, _PAUSE) + noise.astype(np.float32) * 10 ** (_NOISE_DB / 20)
    quiet = (_PAUSE // 2, len(sound) - _PAUSE // 2)  # the network may linger for half a second
    for at in range(_CONTEXT, len(sound) - _WINDOW, _WINDOW):
        window = torch.from_numpy(sound[at - _CONTEXT : at + _WINDOW].astype(np.float32))[None]
        spoken = clip[max(at - _PAUSE, 0) : max(at + _WINDOW - _PAUSE, 0)]
        if len(spoken) == _WINDOW and _loudness(spoken) > loudest * 10 ** (_SPEECH_DB / 20):
            yield window, True
        else:
            yield window, False if at + _WINDOW < quiet[0] or at > quiet[1] else None


def _loudness(samples: np.ndarray) -> float:
    return float(np.sqrt((samples**2).mean()))
