"""New tensors of one value: a dimension carries what the tensor carries whose size the code asked for.

Where the size is an attribute of a module, the dimension carries labels of its own that the attribute follows: the
first hidden state of a recurrent layer.
"""

from __future__ import annotations

from ..ints import Attribute, TracedInt, leaves
from ..labels import Block, Labels, Layout
from ..tape import Call
from .reshape import followed
from .table import rule

CREATE = ("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")


@rule(*CREATE)
def create(call: Call, labels: Labels) -> Layout:
    """`torch.zeros(n, x.shape[1], h, w)` has as many channels as x; a size written as a constant carries nothing."""
    if call.python is None or call.python[0] not in CREATE:
        return ()
    name, args, kwargs = call.python
    sizes = kwargs.get("size") or args[1 if name.startswith("new_") else 0 :]
    if len(sizes) and isinstance(sizes[0], tuple):
        sizes = sizes[0]
    blocks = []
    for dim, n in enumerate(call.outs[0].shape):
        if n == 1 or dim >= len(sizes):
            continue
        size = sizes[dim]
        found = followed(call, size, dim, labels)
        if isinstance(size, TracedInt) and any(isinstance(leaf, Attribute) for leaf in leaves(size.origin)):
            found = labels.fresh(n)
            labels.need(size, found, call.where)
            labels.weak.update(found.tolist())
        if found is not None:
            blocks.append(Block((dim,), found))
    return tuple(blocks)
