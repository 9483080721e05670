"""The transformers of the zoo: small configurations of `transformers`' architectures, with random weights.

The sizes are small; the structure is the library's own, as is what it returns. `NETWORKS` has them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn
from zoo_packages import importable
from zoo_samples import textures, waves
from zoo_weights import settled

Sample = dict[str, torch.Tensor]

# Names that most configurations have for the same things: those that a class does not know are left out.
_SMALL = {
    "vocab_size": 1000,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,  # for these widths; the published ones are wider
}
_LENGTH = 32
_PICTURE = (3, 64, 64)


def text(generator: torch.Generator) -> Sample:
    """Return a sentence of up to 32 tokens (1, 32), padded, and which of them are not padding."""
    length = int(torch.randint(_LENGTH // 2, _LENGTH + 1, (), generator=generator))
    tokens = torch.randint(3, _SMALL["vocab_size"], (1, _LENGTH), generator=generator)
    mask = torch.arange(_LENGTH)[None] < length
    return {"input_ids": torch.where(mask, tokens, 1), "attention_mask": mask.long()}


def prompt(generator: torch.Generator) -> Sample:
    """Return 32 tokens (1, 32) to go on from."""
    return {"input_ids": torch.randint(3, _SMALL["vocab_size"], (1, _LENGTH), generator=generator)}


def picture(generator: torch.Generator) -> Sample:
    """Return a smooth picture (1, 3, 64, 64)."""
    return {"pixel_values": textures(1, _PICTURE, generator)[0]}


def smaller_picture(generator: torch.Generator) -> Sample:
    """Return a smooth picture of four patches of 14 a side (1, 3, 56, 56)."""
    return {"pixel_values": textures(1, (3, 56, 56), generator)[0]}


def captioned(generator: torch.Generator) -> Sample:
    """Return a picture and a sentence."""
    return {**text(generator), **picture(generator)}


def sound(generator: torch.Generator) -> Sample:
    """Return two seconds of sound at 8 kHz (1, 16000)."""
    return {"input_values": waves(16000, generator)}


def wave(generator: torch.Generator) -> Sample:
    """Return a short sound with its channel (1, 1, 3200)."""
    return {"input_values": waves(3200, generator)[:, None]}


def mel(generator: torch.Generator) -> Sample:
    """Return a log-mel spectrogram as Whisper reads it, (1, 80, 100)."""
    return {"input_features": textures(1, (1, 80, 100), generator)[0][:, 0]}


def spectrogram(generator: torch.Generator) -> Sample:
    """Return a log-mel spectrogram, time before frequency, (1, 128, 64)."""
    return {"input_values": textures(1, (1, 128, 64), generator)[0][:, 0]}


def series(generator: torch.Generator) -> Sample:
    """Return three series of 64 values (1, 64, 3)."""
    return {"past_values": torch.randn(1, 64, 3, generator=generator).cumsum(1)}


class Network(NamedTuple):
    """An architecture: its classes, where its sizes are not `_SMALL`, and what it reads."""

    model: str
    config: str
    sizes: Mapping[str, Any] = MappingProxyType({})
    reads: Callable[[torch.Generator], Sample] = text


def _decoder(name: str, **sizes: Any) -> Network:
    """Return one that predicts the next word, without a cache of what it has read."""
    return Network(f"{name}ForCausalLM", f"{name}Config", {"use_cache": False} | sizes, prompt)


def _encoder(name: str, kind: str = "Model", **sizes: Any) -> Network:
    return Network(f"{name}{kind}", f"{name}Config", sizes)


def _picture(name: str, kind: str = "Model", **sizes: Any) -> Network:
    return Network(f"{name}{kind}", f"{name}Config", {"image_size": 64} | sizes, picture)


def _sound(name: str, kind: str = "Model", **sizes: Any) -> Network:
    small = {"conv_dim": [32] * 7, "num_conv_pos_embedding_groups": 4, "num_conv_pos_embeddings": 16}
    return Network(f"{name}{kind}", f"{name}Config", small | sizes, sound)


def _series(name: str, **sizes: Any) -> Network:
    small = {
        "num_input_channels": 3,
        "context_length": 64,
        "prediction_length": 16,
        "patch_length": 8,
        "patch_stride": 8,
    }
    return Network(f"{name}ForPrediction", f"{name}Config", small | sizes, series)


_TWO_KINDS = {
    "text_config": {**_SMALL, "projection_dim": 64},
    "vision_config": {**_SMALL, "image_size": 64, "patch_size": 16, "projection_dim": 64},
}
NETWORKS = {
    # Text to features.
    "albert": _encoder("Albert", embedding_size=64),
    "bert": _encoder("Bert"),
    "bert_tokens": _encoder("Bert", "ForTokenClassification"),
    "bert_answers": _encoder("Bert", "ForQuestionAnswering"),
    "camembert": _encoder("Camembert"),
    "convbert": _encoder("ConvBert", embedding_size=128),
    "deberta_v2": _encoder(
        "DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=16
    ),
    "distilbert": _encoder(
        "DistilBert", "ForSequenceClassification", dim=128, n_layers=2, n_heads=4, hidden_dim=256
    ),
    "electra": _encoder("Electra", embedding_size=64),
    "esm": _encoder("Esm", pad_token_id=1, position_embedding_type="rotary"),
    "fnet": _encoder("FNet")._replace(reads=prompt),
    "funnel": _encoder(
        "Funnel", "BaseModel", block_sizes=[1, 1], d_model=128, n_head=4, d_head=32, d_inner=256
    ),
    "layoutlm": _encoder("LayoutLM"),
    "mobilebert": _encoder("MobileBert", embedding_size=64, intra_bottleneck_size=64, true_hidden_size=64),
    "modernbert": _encoder(
        "ModernBert", pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
    ),
    "mpnet": _encoder("MPNet"),
    "nystromformer": _encoder("Nystromformer", segment_means_seq_len=32, num_landmarks=32),
    "roberta": _encoder("Roberta", "ForSequenceClassification"),
    "roformer": _encoder("RoFormer"),
    "squeezebert": _encoder("SqueezeBert", embedding_size=128),
    "xlm_roberta": _encoder("XLMRoberta"),
    "xlnet": _encoder("XLNet", d_model=128, n_layer=2, n_head=4, d_inner=256)._replace(reads=prompt),
    "t5_encoder": Network(
        "T5EncoderModel",
        "T5Config",
        {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4},
    ),
    # Text to the next word.
    "bloom": _decoder("Bloom", n_layer=2, n_head=4),
    "gemma": _decoder("Gemma", head_dim=32, num_key_value_heads=2),
    "gpt2": Network(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 128, "n_layer": 2, "n_head": 4, "use_cache": False},
        prompt,
    ),
    "gpt_neox": _decoder("GPTNeoX"),
    "llama": _decoder("Llama", num_key_value_heads=2),
    "mamba": _decoder("Mamba"),
    "mistral": _decoder("Mistral", num_key_value_heads=2),
    "opt": _decoder("OPT", ffn_dim=256, word_embed_proj_dim=128),
    "phi": _decoder("Phi"),
    "qwen2": _decoder("Qwen2", num_key_value_heads=2),
    "qwen3": _decoder("Qwen3", num_key_value_heads=2, head_dim=32),
    "smollm3": _decoder("SmolLM3", num_key_value_heads=2, pad_token_id=0),
    # Pictures.
    "beit": _picture("Beit", "ForImageClassification"),
    "cvt": _picture("Cvt", embed_dim=[32, 64, 128], num_heads=[1, 2, 4], depth=[1, 2, 4]),
    "deit": _picture("DeiT"),
    "depth_anything": _picture("DepthAnything", "ForDepthEstimation"),
    "dinov2": _picture("Dinov2", image_size=56, mlp_ratio=2)._replace(reads=smaller_picture),
    "dpt": _picture(
        "DPT",
        "ForDepthEstimation",
        num_hidden_layers=4,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[32, 32, 64, 64],
        fusion_hidden_size=32,
    ),
    "levit": _picture(
        "Levit",
        hidden_sizes=[64, 96, 128],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
        key_dim=[16, 16, 16],
    ),
    "mobilevit": _picture(
        "MobileViT",
        "ForSemanticSegmentation",
        hidden_sizes=[32, 48, 64],
        neck_hidden_sizes=[8, 16, 24, 32, 48, 64, 160],
    ),
    "poolformer": _picture("PoolFormer", depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 96]),
    "regnet": _picture(
        "RegNet",
        "ForImageClassification",
        embedding_size=16,
        hidden_sizes=[32, 64, 96, 128],
        depths=[1, 1, 1, 1],
        groups_width=16,
    ),
    "segformer": _picture(
        "Segformer",
        "ForSemanticSegmentation",
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=64,
    ),
    "swin": _picture("Swin", embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=4),
    "swin2sr": _picture(
        "Swin2SR", "ForImageSuperResolution", embed_dim=32, depths=[2, 2], num_heads=[2, 2], window_size=4
    ),
    "vit": _picture("ViT", "ForImageClassification"),
    "yolos": _picture("Yolos", "ForObjectDetection", image_size=[64, 64], num_detection_tokens=10),
    # Pictures and text.
    "clip": Network("CLIPModel", "CLIPConfig", {**_TWO_KINDS, "projection_dim": 64}, captioned),
    "siglip": Network(
        "SiglipModel",
        "SiglipConfig",
        {
            "text_config": {**_SMALL, "max_position_embeddings": 32, "projection_size": 128},
            "vision_config": {**_SMALL, "image_size": 64, "patch_size": 16},
        },
        captioned,
    ),
    # Sound.
    "ast": Network(
        "ASTForAudioClassification", "ASTConfig", {"max_length": 128, "num_mel_bins": 64}, spectrogram
    ),
    "data2vec_audio": _sound("Data2VecAudio", conv_pos_kernel_size=9),
    "encodec": Network(
        "EncodecModel", "EncodecConfig", {"num_filters": 8, "hidden_size": 32, "num_lstm_layers": 1}, wave
    ),
    "hubert": _sound("Hubert"),
    "sew": _sound("SEW", conv_dim=[32] * 13, squeeze_factor=2),
    "wav2vec2": _sound("Wav2Vec2", "ForCTC"),
    "wav2vec2_conformer": _sound("Wav2Vec2Conformer", position_embeddings_type="rotary"),
    "wavlm": _sound("WavLM"),
    "whisper_encoder": Network(
        "WhisperEncoder",
        "WhisperConfig",
        {
            "d_model": 128,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 256,
            "max_source_positions": 50,
        },
        mel,
    ),
    # Series.
    "patchtst": _series("PatchTST", d_model=64, ffn_dim=128),
    "patchtsmixer": _series("PatchTSMixer", d_model=32, num_layers=2),
}


def model(name: str) -> tuple[nn.Module, Sample]:
    """Return a network in eval mode, with random weights, and an example of its inputs by name."""
    row = NETWORKS[name]
    kind = _class(row.config)
    known = set(kind().to_dict())
    config = kind(**{key: size for key, size in _SMALL.items() if key in known} | dict(row.sizes))
    torch.manual_seed(0)
    found = list(samples(name))
    return settled(_class(row.model)(config), found, name), row.reads(torch.Generator().manual_seed(0))


def samples(name: str) -> Iterator[Sample]:
    """Yield four random samples of what a network reads."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        yield NETWORKS[name].reads(generator)


def _class(name: str) -> Any:
    if name == "WhisperEncoder":  # the library does not export it
        return importable("transformers.models.whisper.modeling_whisper").WhisperEncoder
    return getattr(importable("transformers"), name)
