"""The name of a timm model in, the network with random weights and a small example image out.

One small model of every module of timm that defines any: its families.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

MODELS = """
    beit_base_patch16_224 halonet_h1 repvgg_a0 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
    convnext_zepto_rms cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny
    deepseek_vit_412m deit_tiny_patch16_224 densenet121 dla34 dpn48b edgenext_xx_small efficientformer_l1
    efficientformerv2_s0 efficientnet_b0 efficientvim_m1 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224
    fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m ghostnet_050 hardcorenas_b hgnetv2_b0
    hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3
    inception_v4 lcnetv2_small levit_128s lowformer_b0 mambaout_femto coatnet_pico_rw_224 poolformer_s12 mixer_s32_224
    mobilenetv3_small_050 mobilenetv5_base mobilevit_xxs mvitv2_small naflexvit_base_patch16_gap nasnetalarge
    jx_nest_tiny nextvit_small eca_nfnet_l0 pit_ti_224 pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002
    repghostnet_050 repvit_m0_9 res2net50_14w_8s resnest14d resnet10t resnetv2_18 rexnet_100 selecsls42b
    legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
    swinv2_tiny_window8_256 swinv2_cr_tiny_ns_224 tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m twins_svt_small vgg11
    visformer_tiny vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vit_relpos_small_patch16_224 samvit_base_patch16
    vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41 xcit_nano_12_p16_224
""".split()  # noqa: SIM905
"""In the order of the modules that define them."""

IMAGE = {
    "halonet_h1": 256,
    "deepseek_vit_412m": 56,
    "efficientformer_l1": 224,
    "inception_resnet_v2": 96,
    "inception_v3": 96,
    "inception_v4": 96,
}
"""Height and width of the images, pixels, of models that take no 64."""

SIZED = """
    repvgg_a0 cait_xxs24_224 coat_tiny convit_tiny deit_tiny_patch16_224 efficientformerv2_s0 efficientvit_m0
    eva02_tiny_patch14_224 gcvit_xxtiny hiera_tiny_224 levit_128s coatnet_pico_rw_224 mixer_s32_224 mobilevit_xxs
    mvitv2_small jx_nest_tiny pit_ti_224 repvit_m0_9 sequencer2d_s swiftformer_xs swin_tiny_patch4_window7_224
    swinv2_tiny_window8_256 swinv2_cr_tiny_ns_224 tnt_s_patch16_224 twins_svt_small visformer_tiny
    vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vit_relpos_small_patch16_224 vitamin_small_224 volo_d1_224
    xcit_nano_12_p16_224
""".split()  # noqa: SIM905
"""Models that are built for one size of image."""

SHALLOW: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {"img_size": 64, "depth": 2},
    "deepseek_vit_412m": {"depth": 2},
    "gemma4_vit_167m": {"img_size": 64, "depth": 2},
    "naflexvit_base_patch16_gap": {"img_size": 64, "depth": 2},
    "qwen3_vit_88m": {"img_size": 64, "depth": 2},
    "samvit_base_patch16": {"img_size": 64, "depth": 3, "global_attn_indexes": (1,)},
}
"""Options of models of which the smallest is large."""


def names() -> list[str]:
    """One model a family."""
    return list(MODELS)


def build(name: str) -> tuple[nn.Module, Any]:
    """The model in eval mode, with ten classes, and its example input."""
    size = IMAGE.get(name, 64)
    options = SHALLOW.get(name, {"img_size": size} if name in SIZED else {})
    model = timm.create_model(name, pretrained=False, num_classes=10, **options).eval()
    return model, torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
