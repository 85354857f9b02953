"""Writes mixed.safetensors with the reference implementation: python make_safetensors.py  (torch, safetensors 0.8.0).

One tensor of each dtype; byte i of every tensor is (37 i + 11) mod 256, or mod 2 for bool. safetensors_test.cpp builds the same and
compares the files byte for byte.
"""

import pathlib

import torch
from safetensors.torch import save_file

TENSORS = {
    "b.weight": (torch.float32, (2, 3)),
    "a.weight": (torch.float32, (3,)),
    "half": (torch.float16, (5,)),
    "brain": (torch.bfloat16, (1, 3)),
    "double": (torch.float64, (2,)),
    "ids": (torch.int64, (3,)),
    "int": (torch.int32, (1,)),
    "short": (torch.int16, (3,)),
    "signed": (torch.int8, (3,)),
    "bytes": (torch.uint8, (7,)),
    "mask": (torch.bool, (5,)),
    "scalar": (torch.float32, ()),
    "empty": (torch.float32, (0, 4)),
    "n\u00e4me \"quoted\"\\\n\x01": (torch.float32, (1,)),
}


def fill(dtype, shape):
    tensor = torch.zeros(shape, dtype=dtype)
    count = tensor.numel() * tensor.element_size()
    values = [(37 * i + 11) % (2 if dtype == torch.bool else 256) for i in range(count)]
    return torch.tensor(values, dtype=torch.uint8).view(dtype).reshape(shape) if count else tensor


here = pathlib.Path(__file__).parent
save_file({name: fill(*spec) for name, spec in TENSORS.items()}, here / "mixed.safetensors", metadata={"format": "pt"})
