#!/usr/bin/env python3
"""The work of `bench data --in` in torchvision and timm, on one thread: same pictures, same sizes, same JSON.

    python3 apps/bench/peer_data.py --in PICTURES --json
    build/apps/bench data --in PICTURES --json

Pillow decodes, as in the usual training scripts; --draft lets it decode JPEG at a reduced size where the crop is large,
which torchvision's own transforms do not do.
"""
import argparse
import io
import json
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import PIL
import timm
import torch
import torchvision
from PIL import Image, ImageOps
from torchvision import transforms as T

torch.set_num_threads(1)


def readable(folder, count):
    """The first `count` files that Pillow can decode, as bytes: reading is measured by itself."""
    out = []
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            try:
                with open(path, "rb") as f:
                    data = f.read()
                Image.open(io.BytesIO(data)).convert("RGB")
            except Exception:
                continue
            out.append((path, data))
            if len(out) == count:
                return out
    return out


def spread(times):
    return {"median": statistics.median(times), "min": min(times), "max": max(times), "runs": len(times)}


def timed(seconds, body):
    """Seconds of one pass, by the clock and of processor time, which other programs disturb less."""
    body()
    wall, cpu, end = [], [], time.perf_counter() + seconds
    while len(wall) < 3 or time.perf_counter() < end:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        body()
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - begin_cpu)
    return spread(wall), spread(cpu)


def posterize(image, bits_to_keep, **_):
    """Pillow 13 refuses 0 bits, which timm asks for at full magnitude; that is black."""
    return ImageOps.posterize(image, bits_to_keep) if bits_to_keep > 0 else Image.new(image.mode, image.size)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--in", dest="folder", required=True, help="folder of pictures")
    p.add_argument("--size", type=int, default=224, help="side of the samples in pixels")
    p.add_argument("--pictures", type=int, default=64, help="how many take part")
    p.add_argument("--seconds", type=float, default=0.3, help="time for each figure")
    p.add_argument("--draft", action="store_true", help="also: decode to about the size that is needed (JPEG)")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    files = readable(a.folder, a.pictures)
    n, size = len(files), a.size
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    bicubic = T.InterpolationMode.BICUBIC
    basic = T.Compose([T.RandomResizedCrop(size, interpolation=bicubic), T.RandomHorizontalFlip(), T.ToTensor(),
                       T.Normalize(mean, std)])  # fmt: skip
    timm.data.auto_augment.NAME_TO_OP["PosterizeIncreasing"] = posterize
    deit = timm.data.create_transform(size, is_training=True, color_jitter=0.3, auto_augment="rand-m9-mstd0.5-inc1",
                                      interpolation="bicubic", re_prob=0.25, re_mode="pixel", re_count=1,
                                      mean=mean, std=std)  # fmt: skip
    # timm erases on the GPU unless told otherwise; here there is none.
    for t in deit.transforms:
        if hasattr(t, "device"):
            t.device = "cpu"
    mix = timm.data.Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=1000)
    evaluation = T.Compose([T.Resize(int(size / 0.875), interpolation=bicubic), T.CenterCrop(size), T.ToTensor(),
                            T.Normalize(mean, std)])  # fmt: skip

    def decoded(data):
        return Image.open(io.BytesIO(data)).convert("RGB")

    def read_all():
        for path, _ in files:
            with open(path, "rb") as f:
                f.read()

    def deit_batch():
        pairs = n // 2 * 2
        x = torch.stack([deit(decoded(data)) for _, data in files[:pairs]])
        mix(x, torch.zeros(pairs, dtype=torch.long))

    passes = {
        "read": read_all,
        "decode": lambda: [decoded(data) for _, data in files],
        "basic": lambda: [basic(decoded(data)) for _, data in files],
        "deit": deit_batch,
        "evaluation": lambda: [evaluation(decoded(data)) for _, data in files],
    }
    if a.draft:
        def drafted(data):
            image = Image.open(io.BytesIO(data))
            image.draft("RGB", (2 * size, 2 * size))
            return image.convert("RGB")

        passes["basic_draft"] = lambda: [basic(drafted(data)) for _, data in files]
    out = {"in": a.folder, "pictures": n, "size": size, "pillow": PIL.__version__, "torchvision": torchvision.__version__,
           "timm": timm.__version__}  # fmt: skip
    for key, body in passes.items():
        wall, cpu = timed(a.seconds, body)
        done = n // 2 * 2 if key == "deit" else n
        out[key] = {"images_per_second": done / wall["median"], "images_per_core_second": done / cpu["median"],
                    "threads": 1, "pass_seconds": wall, "pass_cpu_seconds": cpu}  # fmt: skip
    if a.json:
        print(json.dumps(out, indent=2))
        return
    print(f"{a.folder}: {n} pictures, to {size} x {size}; Pillow {PIL.__version__}, torchvision {torchvision.__version__}")
    for key in passes:
        print(f"{key:12} {out[key]['images_per_core_second']:9.1f} images/s of processor time; "
              f"by the clock {out[key]['images_per_second']:9.1f}")


if __name__ == "__main__":
    main()
