#!/usr/bin/env python3
"""Pillow's answers for tests/image_resize_test.cpp:   python3 make_resize_golden.py > resize.json

Needs Pillow and numpy. A case is a made picture (the generator below, also in the test), an output size, a filter and a
box; the answer is the CRC-32C of the bytes of the result and the sum of the bytes. The passes are asked for one by one,
the horizontal one first, as every Pillow up to 12 does it inside; from 13 on the order depends on the sizes.
"""
import json
import random

import numpy as np
import PIL
from PIL import Image

FILTERS = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}


def noise(width, height, channels, seed):
    """x <- 1664525 x + 1013904223 mod 2^32; the byte is the top eight bits."""
    out = np.empty(width * height * channels, np.uint8)
    x = seed
    for i in range(out.size):
        x = (x * 1664525 + 1013904223) & 0xFFFFFFFF
        out[i] = x >> 24
    return out.reshape(height, width, channels)


def crc32c(data):
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


rng = random.Random(1)
SIZES = [1, 2, 3, 5, 7, 16, 17, 31, 32, 33, 48, 64, 65, 97]
cases = []
for number in range(320):
    channels = 3 if number % 4 else 1
    w, h, out_w, out_h = (rng.choice(SIZES) for _ in range(4))
    if number % 10 == 0:
        out_w = w  # only one pass
    if number % 10 == 1:
        out_h = h
    name = rng.choice(list(FILTERS))
    if number % 3 == 0:
        box = None
    elif number % 3 == 1:
        x, y = rng.randrange(w), rng.randrange(h)
        box = (x, y, rng.randint(1, w - x), rng.randint(1, h - y))
    else:  # not whole numbers, but exact in binary
        x, y = rng.randrange(8 * w) / 8, rng.randrange(16 * h) / 16
        box = (x, y, rng.randint(1, int(8 * (w - x))) / 8, rng.randint(1, int(16 * (h - y))) / 16)
    image = noise(w, h, channels, number)
    source = Image.fromarray(image if channels == 3 else image[:, :, 0])
    x, y, box_w, box_h = box or (0, 0, w, h)
    if name == "nearest":
        result = source.resize((out_w, out_h), FILTERS[name], box=(x, y, x + box_w, y + box_h))
    else:
        wide = source.resize((out_w, h), FILTERS[name], box=(x, 0, x + box_w, h))
        result = wide.resize((out_w, out_h), FILTERS[name], box=(0, y, out_w, y + box_h))
    result = np.asarray(result).tobytes()
    cases.append([w, h, channels, number, out_w, out_h, name, *(box or (0, 0, w, h)), crc32c(result), sum(result)])

print('{"made by": "make_resize_golden.py, Pillow %s",' % PIL.__version__)
print(' "columns": ["width", "height", "channels", "seed", "out width", "out height", "filter", "box x", "y", "w", "h",'
      ' "crc32c", "sum"],')
print(' "cases": [\n  ' + ",\n  ".join(json.dumps(c) for c in cases) + "\n]}")
