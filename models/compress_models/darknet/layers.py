"""One cfg section and the shapes that enter it in, a module and the shape that leaves it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress import CompressError, nearest

from .cfg import Section
from .vocabulary import PLAIN

Shape = tuple[int, int, int]
"""(channels, height, width) of one image's map."""

LARGEST = 2**28
"""The most weights that one convolution may have: 1 GB of them, 50 times YOLOv3's largest."""

NORM_EPS = 1e-5
"""What Darknet adds to a variance; its files do not store it."""

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.1, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "mish": lambda: nn.Mish(inplace=True),
    "swish": lambda: nn.SiLU(inplace=True),
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "elu": lambda: nn.ELU(inplace=True),
    "gelu": lambda: nn.GELU("tanh"),
}


class Convolutional(nn.Module):
    """Convolution, batch norm (absent when batch_normalize=0), activation."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, act: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        if norm is not None:
            self.norm = norm
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if hasattr(self, "norm"):
            x = self.norm(x)
        return self.act(x)


def norm_of(layer: Convolutional) -> nn.BatchNorm2d | nn.SyncBatchNorm | None:
    """The layer's batch norm; None where it has none, or where it was folded away and an identity is left.

    Raises: CompressError where something else stands in its place, which no Darknet file can hold.
    """
    norm = getattr(layer, "norm", None)
    if norm is None or isinstance(norm, nn.Identity):
        return None
    if not isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) or norm.running_mean is None:
        raise CompressError(f"Darknet knows batch norm with running statistics, found {norm}")
    return norm


class Route(nn.Module):
    """Several maps side by side along channels, or one of `groups` equal parts of each."""

    def __init__(self, groups: int, group_id: int) -> None:
        super().__init__()
        self.groups, self.group_id = groups, group_id

    def forward(self, *maps: Tensor) -> Tensor:
        if self.groups > 1:
            maps = tuple(x.chunk(self.groups, 1)[self.group_id] for x in maps)  # (B, C, H, W) -> (B, C / groups, H, W)
        return maps[0] if len(maps) == 1 else torch.cat(maps, 1)


class Shortcut(nn.Module):
    """The sum of two or more maps of one shape, then an activation."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            x = x + other
        return self.act(x)


class Upsample(nn.Module):
    """Every pixel repeated `scale` x `scale` times."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = float(scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.scale, mode="nearest")


class Reorg(nn.Module):
    """Space into channels as Darknet's [reorg] does it: the input's numbers are read as if they lay otherwise.

    A map (C, H, W) is taken for one of (C / s^2, H * s, W * s); of that, pixel (s * i + r, s * j + q) goes to row i and
    column j of the channels that belong to (r, q); the numbers that come out are read as a map (C * s^2, H / s, W / s).
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        s = self.stride
        x = x.reshape(b, c // (s * s), h, s, w, s).permute(0, 3, 5, 1, 2, 4)  # (B, C, H, W) -> (B, s, s, C / s^2, H, W)
        return x.reshape(b, c * s * s, h // s, w // s)


class Maxpool(nn.Module):
    """Maxima over windows that start `padding // 2` before the map and may end as far behind it as Darknet's do."""

    def __init__(self, size: int, stride: tuple[int, int], padding: int) -> None:
        super().__init__()
        before, after = padding // 2, padding - padding // 2
        self.size, self.stride, self.padding, self.ceil = size, stride, 0, False
        self.border: tuple[int, int, int, int] | None = None
        if before == after and 2 * before <= size:
            self.padding = before
        elif before == 0 and stride == (after + 1, after + 1):
            self.ceil = True
        else:
            self.border = (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        if self.border is not None:
            x = F.pad(x, self.border, value=-torch.inf)
        return F.max_pool2d(x, self.size, self.stride, self.padding, ceil_mode=self.ceil)


def make_layer(section: Section, shapes: Sequence[Shape]) -> tuple[nn.Module, Shape]:
    """The module of one section. shapes: of the maps that enter it, in order.

    Raises: CompressError where they do not fit, or where the section asks for what is not built here.
    """
    for key, plain in PLAIN.get(section.kind, {}).items():
        if section.word(key, plain) != plain:
            raise section.mistake(f"{key}={section.word(key)} is not supported; expected {key}={plain}", key)
    return _MAKERS[section.kind](section, shapes)


def _activation(section: Section, default: str) -> nn.Module:
    name = section.word("activation", default)
    if name not in ACTIVATIONS:
        raise section.mistake(f"unknown activation '{name}'{nearest(name, ACTIVATIONS)}", "activation")
    return ACTIVATIONS[name]()


def _strides(section: Section, default: int) -> tuple[int, int]:
    stride = section.integer("stride", default, at_least=1)
    return section.integer("stride_y", stride, at_least=1), section.integer("stride_x", stride, at_least=1)


def _strided(section: Section, room: Shape, stride: tuple[int, int]) -> Shape:
    """The map that windows make which can move by `room` = (channels, rows, columns)."""
    shape = room[0], room[1] // stride[0] + 1, room[2] // stride[1] + 1
    if min(shape) < 1:
        raise section.mistake("nothing is left of the map; the image is too small for this network")
    return shape


def _show(shape: Shape) -> str:
    return f"{shape[0]} channels of {shape[1]}x{shape[2]}"


def _convolutional(section: Section, shapes: Sequence[Shape]) -> tuple[nn.Module, Shape]:
    channels, height, width = shapes[0]
    filters = section.integer("filters", at_least=1)
    size = section.integer("size", 1, at_least=1)
    stride = _strides(section, 1)
    groups = section.integer("groups", 1, at_least=1)
    padding = size // 2 if section.integer("pad", 0) else section.integer("padding", 0, at_least=0)
    dilation = section.integer("dilation", 1, at_least=1) if size > 1 else 1
    if channels % groups or filters % groups:
        what = f"groups={groups} must divide filters={filters} and the {channels} channels that enter"
        raise section.mistake(what, "groups")
    if dilation > 1 and 2 * padding != size - 1:
        raise section.mistake(f"dilation={dilation} needs an odd size (found {size}) and pad=1", "dilation")
    weights = filters * (channels // groups) * size * size
    if weights > LARGEST:
        raise section.mistake(f"asks for {weights:,} weights; expected at most {LARGEST:,}")
    normal = section.integer("batch_normalize", 0) != 0
    conv = nn.Conv2d(
        channels, filters, size, stride, padding * dilation, dilation=dilation, groups=groups, bias=not normal
    )
    norm = nn.BatchNorm2d(filters, eps=NORM_EPS) if normal else None
    layer = Convolutional(conv, norm, _activation(section, "logistic"))
    return layer, _strided(section, (filters, height + 2 * padding - size, width + 2 * padding - size), stride)


def _route(section: Section, shapes: Sequence[Shape]) -> tuple[nn.Module, Shape]:
    groups = section.integer("groups", 1, at_least=1)
    group_id = section.integer("group_id", 0, at_least=0)
    if group_id >= groups:
        raise section.mistake(f"group_id={group_id}: expected less than groups={groups}", "group_id")
    if len({shape[1:] for shape in shapes}) > 1:
        found = ", ".join(f"{h}x{w}" for _, h, w in shapes)
        raise section.mistake(f"joins maps of different sizes: {found}; is the image size a multiple of 32?", "layers")
    for shape in shapes:
        if shape[0] % groups:
            raise section.mistake(f"groups={groups} must divide the {shape[0]} channels that enter", "groups")
    return Route(groups, group_id), (sum(shape[0] // groups for shape in shapes), *shapes[0][1:])


def _shortcut(section: Section, shapes: Sequence[Shape]) -> tuple[nn.Module, Shape]:
    if len(set(shapes)) > 1:
        raise section.mistake(f"adds maps of different shapes: {', '.join(map(_show, shapes))}", "from")
    return Shortcut(_activation(section, "linear")), shapes[0]


def _upsample(section: Section, shapes: Sequence[Shape]) -> tuple[nn.Module, Shape]:
    channels, height, width = shapes[0]
    scale = section.integer("stride", 2, at_least=1)
    return Upsample(scale), (channels, height * scale, width * scale)


def _reorg(section: Section, shapes: Sequence[Shape]) -> tuple[nn.Module, Shape]:
    channels, height, width = shapes[0]
    stride = section.integer("stride", 1, at_least=1)
    if channels % stride**2 or height % stride or width % stride:
        needs = f"{stride**2} must divide its channels and {stride} its sides"
        raise section.mistake(f"stride={stride}: {needs}, found {_show(shapes[0])}", "stride")
    return Reorg(stride), (channels * stride**2, height // stride, width // stride)


def _maxpool(section: Section, shapes: Sequence[Shape]) -> tuple[nn.Module, Shape]:
    channels, height, width = shapes[0]
    stride = _strides(section, 1)
    size = section.integer("size", section.integer("stride", 1), at_least=1)
    padding = section.integer("padding", size - 1, at_least=0)
    if padding > 2 * (size - 1):
        raise section.mistake(f"padding={padding}: expected at most 2 x (size={size} - 1)", "padding")
    shape = _strided(section, (channels, height + padding - size, width + padding - size), stride)
    return Maxpool(size, stride, padding), shape


def _avgpool(section: Section, shapes: Sequence[Shape]) -> tuple[nn.Module, Shape]:
    return nn.AdaptiveAvgPool2d(1), (shapes[0][0], 1, 1)


def _dropout(section: Section, shapes: Sequence[Shape]) -> tuple[nn.Module, Shape]:
    probability = section.number("probability", 0.5)
    if not 0 <= probability < 1:
        raise section.mistake(f"probability={probability}: expected 0 <= probability < 1", "probability")
    return nn.Dropout(probability), shapes[0]


def _yolo(section: Section, shapes: Sequence[Shape]) -> tuple[nn.Module, Shape]:
    return nn.Identity(), shapes[0]


_MAKERS: Mapping[str, Callable[[Section, Sequence[Shape]], tuple[nn.Module, Shape]]] = {
    "convolutional": _convolutional,
    "route": _route,
    "shortcut": _shortcut,
    "upsample": _upsample,
    "reorg": _reorg,
    "maxpool": _maxpool,
    "avgpool": _avgpool,
    "dropout": _dropout,
    "yolo": _yolo,
}
