#!/usr/bin/env python3
"""Writes augment.json: what Pillow, timm and torchvision make of a small picture, to compare with.

    python3 tests/golden/make_augment.py > tests/golden/augment.json      (made with Pillow 13.0.0, timm and torchvision)

The picture is computed the same way in tests/augment_ops_test.cpp. Results are kept as 24 digits of the SHA-256 of their
bytes and the sum of the bytes.
"""
import hashlib
import json
import math
import sys

import numpy as np
import PIL
import timm
import torch
import torchvision
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from timm.data import auto_augment as aa
from torchvision.ops import roi_align


def picture(width, height, channels):
    """Smooth colours with noise from a linear congruence; values from 10 to 240, so that autocontrast has work."""
    out, state = np.zeros((height, width, channels), np.uint8), 12345
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                state = (state * 1103515245 + 12345) % 2**31
                out[y, x, c] = 10 + (5 * x + 3 * y * (c + 1) + (x * y) // 4 + (state >> 16) % 40) % 231
    return Image.fromarray(out if channels == 3 else out[:, :, 0])


def kept(image):
    a = np.asarray(image)
    return f"{hashlib.sha256(a.tobytes()).hexdigest()[:24]} {int(a.astype(np.int64).sum())}"


def operations(image):
    rgb = image.mode == "RGB"
    fill = (124, 116, 104) if rgb else 124
    out = {"picture": image, "invert": ImageOps.invert(image), "equalize": ImageOps.equalize(image),
           "autocontrast": ImageOps.autocontrast(image), "flip": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)}  # fmt: skip
    for t in (0, 26, 128, 200, 256):
        out[f"solarize {t}"] = ImageOps.solarize(image, t)
    for a in (0, 33, 99, 128):
        out[f"solarize_add {a}"] = aa.solarize_add(image, a)
    for b in (1, 2, 4, 7, 8):
        out[f"posterize {b}"] = aa.posterize(image, b)
    for f in (0.0, 0.1, 0.19, 0.5, 0.87, 1.0, 1.3, 1.81, 1.9):
        out[f"color {f}"] = ImageEnhance.Color(image).enhance(f)
        out[f"contrast {f}"] = ImageEnhance.Contrast(image).enhance(f)
        out[f"brightness {f}"] = ImageEnhance.Brightness(image).enhance(f)
        out[f"sharpness {f}"] = ImageEnhance.Sharpness(image).enhance(f)
    for r in (0.1, 0.37, 0.5, 1.0, 1.7, 2.0, 5.3):
        out[f"blur {r}"] = image.filter(ImageFilter.GaussianBlur(r))
    if rgb:
        out["grey"] = image.convert("L").convert("RGB")
    for name, resample in (("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)):
        k = {"resample": resample, "fillcolor": fill}
        for f in (0.27, -0.11, 0.3):
            out[f"shear_x {f} {name}"] = aa.shear_x(image, f, **dict(k))
            out[f"shear_y {f} {name}"] = aa.shear_y(image, f, **dict(k))
        for f in (0.405, -0.2, 0.45):
            out[f"translate_x {f} {name}"] = aa.translate_x_rel(image, f, **dict(k))
            out[f"translate_y {f} {name}"] = aa.translate_y_rel(image, f, **dict(k))
        for d in (27.0, -13.7, 0.0, 180.0, 90.0, -90.0, 30.0):
            out[f"rotate {d} {name}"] = aa.rotate(image, d, **dict(k))
    return {name: kept(result) for name, result in out.items()}


def evaluation(width, height, size, crop_pct, resample):
    """torchvision's evaluation transform without the normalisation."""
    t = torchvision.transforms
    mode = {"bilinear": t.InterpolationMode.BILINEAR, "bicubic": t.InterpolationMode.BICUBIC}[resample]
    chain = t.Compose([t.Resize(math.floor(size / crop_pct), interpolation=mode), t.CenterCrop(size)])
    return kept(chain(picture(width, height, 3)))


def normalised():
    """ToTensor and Normalize, as f32 bytes."""
    t = torchvision.transforms
    chain = t.Compose([t.ToTensor(), t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    return hashlib.sha256(chain(picture(17, 17, 3)).numpy().tobytes()).hexdigest()


def padded(mode):
    t = torchvision.transforms
    return kept(t.Pad(4, padding_mode=mode)(picture(17, 13, 3)))


def token_labels():
    """RoI-align of a map of 5 classes on 6 x 4 cells, softmax over 7 classes, smoothing 0.1."""
    height, width, classes, k = 6, 4, 7, 2
    dense = torch.zeros(1, classes, height, width)
    scores, names = [], []
    for r in range(k):
        for y in range(height):
            for x in range(width):
                c = (x + 2 * y + 3 * r) % classes
                v = float(np.float16(1.5 + x - 0.5 * y + 0.25 * r * x))
                scores.append(v), names.append(c)
                dense[0, c, y, x] = v
    cases = []
    for view in ([0.0, 0.0, 1.0, 1.0], [0.1, 0.2, 0.7, 0.95], [-0.2, 0.3, 0.5, 1.25], [0.55, 0.5, 0.6, 0.9]):
        x0, y0, x1, y1 = view
        box = torch.tensor([[0, x0 * width, y0 * height, x1 * width, y1 * height]], dtype=torch.float32)
        row = {"view": view}
        for g in (1, 3):
            z = roi_align(dense, box, (g, g), spatial_scale=1.0, sampling_ratio=-1, aligned=True)
            p = torch.softmax(z.double(), 1) * (0.9 + 0.1 / classes) + 0.1 / classes
            row[str(g)] = [round(float(v), 7) for v in p[0].permute(1, 2, 0).reshape(-1)]
        cases.append(row)
    return {"shape": [classes, height, width, k], "scores": scores, "classes": names, "cases": cases}


json.dump({
    "versions": {"pillow": PIL.__version__, "timm": timm.__version__, "torchvision": torchvision.__version__},
    "rgb": operations(picture(29, 23, 3)),
    "square": operations(picture(19, 19, 3)),
    "grey": operations(picture(21, 26, 1)),
    "evaluation": [[w, h, s, p, r, evaluation(w, h, s, p, r)] for w, h, s, p, r in [
        (100, 75, 48, 0.875, "bicubic"), (75, 100, 48, 0.9, "bilinear"), (50, 37, 33, 0.96, "bicubic"),
        (61, 40, 40, 1.15, "bicubic"), (40, 61, 41, 1.15, "bicubic"), (32, 48, 64, 1.0, "bilinear"),
        (90, 45, 45, 1.0, "bicubic"), (33, 200, 34, 0.875, "bilinear")]],
    "normalised": normalised(),
    "pad": {"constant": padded("constant"), "reflect": padded("reflect")},
    "token_labels": token_labels(),
}, sys.stdout, indent=0)  # fmt: skip
print()
