"""The words of Darknet's cfg language: kinds of section and the keys that each kind knows."""

from __future__ import annotations

from collections.abc import Mapping

ALIASES: Mapping[str, str] = {"network": "net", "conv": "convolutional", "max": "maxpool", "avg": "avgpool"}

VOCABULARY: Mapping[str, tuple[str, ...]] = {
    "net": (
        *("width", "height", "channels", "batch", "subdivisions", "momentum", "decay", "learning_rate", "policy"),
        *("steps", "scales", "step", "scale", "gamma", "burn_in", "max_batches", "time_steps", "inputs", "max_crop"),
        *("min_crop", "flip", "angle", "aspect", "saturation", "exposure", "hue", "blur", "mosaic", "mixup", "cutmix"),
        *("letter_box", "optimized_memory", "ema_alpha", "adam", "B1", "B2", "eps", "track", "center", "power"),
    ),
    "convolutional": (
        *("filters", "size", "stride", "stride_x", "stride_y", "pad", "padding", "dilation", "groups", "activation"),
        *("batch_normalize", "binary", "xnor", "antialiasing", "deform", "flipped", "stopbackward"),
    ),
    "upsample": ("stride", "scale"),
    "reorg": ("stride", "reverse", "flatten", "extra"),
    "route": ("layers", "groups", "group_id"),
    "shortcut": ("from", "activation", "weights_type", "weights_normalization"),
    "maxpool": (
        *("size", "stride", "stride_x", "stride_y", "padding", "maxpool_depth", "out_channels", "antialiasing"),
    ),
    "avgpool": (),
    "dropout": ("probability", "dropblock", "dropblock_size_abs", "dropblock_size_rel"),
    "yolo": (
        *("mask", "anchors", "classes", "num", "ignore_thresh", "truth_thresh", "scale_x_y", "jitter", "random", "max"),
        *("iou_thresh", "iou_loss", "iou_normalizer", "cls_normalizer", "obj_normalizer", "delta_normalizer"),
        *("nms_kind", "beta_nms", "focal_loss", "label_smooth_eps", "objectness_smooth", "max_delta", "new_coords"),
        *("counters_per_class", "resize", "iou_thresh_kind", "embedding_layer", "map"),
    ),
}

PLAIN: Mapping[str, Mapping[str, str]] = {
    "convolutional": {"binary": "0", "xnor": "0", "antialiasing": "0", "deform": "0", "flipped": "0"},
    "upsample": {"scale": "1"},
    "reorg": {"reverse": "0", "flatten": "0", "extra": "0"},
    "shortcut": {"weights_type": "none"},
    "maxpool": {"maxpool_depth": "0", "antialiasing": "0"},
}
"""Keys that can ask a layer for what is not built here: kind -> key -> the one value that does not."""
