"""The name of a Hugging Face network in, a small one built from its config and example inputs out, without weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn

TOKENS = 200
"""Size of the vocabularies."""

ENCODER = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}


def _tokens(batch: int, length: int) -> Tensor:
    return torch.randint(2, TOKENS, (batch, length), generator=torch.Generator().manual_seed(0))


def _image(size: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))}


def bert() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.BertConfig(vocab_size=TOKENS, num_labels=5, **ENCODER)
    inputs = {"input_ids": _tokens(2, 16), "attention_mask": torch.ones(2, 16, dtype=torch.long)}
    return transformers.BertForSequenceClassification(config), inputs


def vit() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=5, **ENCODER)
    return transformers.ViTForImageClassification(config), _image(32)


def swin() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.SwinConfig(
        image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=5
    )
    return transformers.SwinForImageClassification(config), _image(64)


def convnext() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.ConvNextConfig(hidden_sizes=[16, 32, 64, 96], depths=[1, 1, 2, 1], num_labels=5)
    return transformers.ConvNextForImageClassification(config), _image(64)


def detr() -> tuple[nn.Module, dict[str, Tensor]]:
    backbone = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone_config=backbone,
        backbone=None,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        num_queries=10,
        num_labels=5,
    )
    return transformers.DetrForObjectDetection(config), _image(96)


def segformer() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.SegformerConfig(
        hidden_sizes=[16, 32, 64, 96],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 4, 6],
        decoder_hidden_size=64,
        num_labels=5,
    )
    return transformers.SegformerForSemanticSegmentation(config), _image(64)


def clip() -> tuple[nn.Module, dict[str, Tensor]]:
    text = {**ENCODER, "vocab_size": TOKENS, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {**ENCODER, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    tokens = {"input_ids": _tokens(2, 16), "attention_mask": torch.ones(2, 16, dtype=torch.long)}
    return transformers.CLIPModel(config), {**tokens, **_image(32)}


def whisper() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.WhisperConfig(
        vocab_size=TOKENS,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=50,
        max_target_positions=32,
        num_mel_bins=20,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=1,
    )
    sound = torch.rand(1, 20, 100, generator=torch.Generator().manual_seed(0))
    return transformers.WhisperModel(config), {"input_features": sound, "decoder_input_ids": _tokens(1, 8)}


def gpt2() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.GPT2Config(vocab_size=TOKENS, n_embd=64, n_layer=3, n_head=4, n_positions=64)
    return transformers.GPT2LMHeadModel(config), {"input_ids": _tokens(2, 16)}


def llama() -> tuple[nn.Module, dict[str, Tensor]]:
    shape = {**ENCODER, "num_attention_heads": 8, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=TOKENS, **shape)
    return transformers.LlamaForCausalLM(config), {"input_ids": _tokens(2, 16)}


NETWORKS: Mapping[str, Callable[[], tuple[nn.Module, Any]]] = {
    "bert": bert,
    "vit": vit,
    "swin": swin,
    "convnext": convnext,
    "detr": detr,
    "segformer": segformer,
    "clip": clip,
    "whisper": whisper,
    "gpt2": gpt2,
    "llama": llama,
}


def names() -> list[str]:
    """Every network above."""
    return list(NETWORKS)


def build(name: str) -> tuple[nn.Module, Any]:
    """The network in eval mode, and its example inputs."""
    model, inputs = NETWORKS[name]()
    return model.eval(), inputs
