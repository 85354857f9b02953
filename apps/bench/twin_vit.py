"""The PyTorch twin of a finished (or running) ViT run: the same model, initial weights, pictures and optimizer.

    python apps/bench/twin_vit.py RUN [--steps 1000] [--out twin.jsonl]     (torch, timm, numpy)

Reads RUN/config.json, draws the initial weights and the order of the pictures from the addresses of their random numbers
(addressed.py; nothing is exported from the run), trains timm's VisionTransformer in f32 on the CPU with torch.optim.AdamW,
and compares with RUN/metrics.jsonl. For runs on CIFAR or MNIST files at their own size with augmentation off:
data.augment.crop=center data.augment.flip=0, smoothing allowed.
"""

import gzip
import math
import pathlib

import numpy as np
import timm
import torch
import twin
from addressed import normal, permuted, uniform
from twin import refuse_unless


# ---- the run's pictures -----------------------------------------------------------------------------------------------
def read_pictures(folder):
    """Training pictures (N, C, H, W) u8 and labels, with the mean and deviation that the run uses by default."""
    batches = sorted(folder.glob("data_batch_*.bin")) or sorted(folder.glob("data_batch_*.bin.gz"))
    if batches:
        data = [np.frombuffer(gzip.decompress(b.read_bytes()) if b.suffix == ".gz" else b.read_bytes(), np.uint8) for b in batches]
        rows = np.concatenate(data).reshape(-1, 3073)
        return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    images = next(iter(folder.glob("train-images-idx3-ubyte*")), None)
    labels = next(iter(folder.glob("train-labels-idx1-ubyte*")), None)
    refuse_unless(images and labels, f"{folder} holds neither CIFAR nor IDX files")
    read = lambda p: gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes()
    raw = read(images)
    n, h, w = (int.from_bytes(raw[i : i + 4], "big") for i in (4, 8, 12))
    pixels = np.frombuffer(raw, np.uint8, offset=16).reshape(n, 1, h, w)
    return pixels, np.frombuffer(read(labels), np.uint8, offset=8).astype(np.int64), (0.1307,), (0.3081,)


class Pictures:
    def __init__(self, data, seed):
        self.pixels, self.labels, mean, deviation = read_pictures(pathlib.Path(data["path"]))
        mean, deviation = data["images"]["mean"] or mean, data["images"]["stddev"] or deviation
        self.mean = np.array(mean, np.float32).reshape(-1, 1, 1)
        self.deviation = np.array(deviation, np.float32).reshape(-1, 1, 1)
        self.seed, self.epoch = seed, len(self.labels)

    def batch(self, first, count):
        samples = np.arange(first, first + count)
        rows = np.empty(count, dtype=np.int64)
        for epoch in np.unique(samples // self.epoch):
            here = samples // self.epoch == epoch
            rows[here] = permuted(samples[here] % self.epoch, self.epoch, self.seed, int(epoch), "image.order")
        x = (self.pixels[rows].astype(np.float32) / np.float32(255) - self.mean) / self.deviation
        return torch.from_numpy(x), torch.from_numpy(self.labels[rows])


# ---- the run's configuration in PyTorch -----------------------------------------------------------------------------
def make_model(m, seed):
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=m["image_size"], patch_size=m["patch"], in_chans=m["channels"], num_classes=m["classes"], embed_dim=m["embed_dim"], depth=m["depth"],
        num_heads=m["num_heads"], mlp_ratio=(m["mlp_dim"] or 4 * m["embed_dim"]) / m["embed_dim"], qkv_bias=m["qkv_bias"])  # fmt: skip
    half = 1 / math.sqrt(m["channels"] * m["patch"] ** 2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith("patch_embed.proj."):
                values = uniform(seed, f"init:{name}", p.numel(), half)
            elif "norm" in name or name.endswith("bias"):
                p.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            else:
                values = normal(seed, f"init:{name}", p.numel(), {"timm": 1e-6}.get(m["init"], 0.02) if name == "cls_token" else 0.02)
            p.copy_(torch.from_numpy(values).view(p.shape))
    return model


class VitTwin:
    def __init__(self, recipe):
        m, data, a = recipe["model"], recipe["data"], recipe["data"]["augment"]
        refuse_unless(recipe["family"] == "vit", "expected a run of family vit")
        off = a["crop"] == "center" and not (a["flip"] or a["color_jitter"] or a["auto_augment"] or a["erase"] or a["mixup"] or a["cutmix"])
        refuse_unless(off and a["repeats"] == 1, "the run augments its pictures; expected crop=center, flip=0 and nothing else")
        random = [m["drop_path"], m["embed_dropout"], m["attn_dropout"], m["proj_dropout"], m["head_dropout"]]
        refuse_unless(random == [0] * 5, "the run has dropout or drop-path, whose random numbers PyTorch draws differently")
        plain = m["init"] in ("timm", "deit") and m["pool"] == "token" and not (m["distilled"] or m["registers"] or m["layer_scale"])
        refuse_unless(plain and m["loss"] == "cross_entropy" and not recipe["distill"]["teacher"], "expected a plain ViT or DeiT without a teacher")
        self.pictures = Pictures(data, recipe["seed"])
        self.epoch, self.sample_size, self.smoothing = self.pictures.epoch, 1, a["smoothing"]
        size = self.pictures.pixels.shape[-1]
        refuse_unless(m["image_size"] == data["resolution"] == size, f"expected pictures at their own size, data.resolution={size}")
        self.model = make_model(m, recipe["seed"])
        named = dict(self.model.named_parameters())
        plain = {n for n, p in named.items() if p.dim() < 2 or n in ("cls_token", "pos_embed")}
        self.optimizer = twin.adamw(recipe["optim"], [p for n, p in named.items() if n not in plain], [named[n] for n in named if n in plain])

    def loss(self, first, count):
        x, y = self.pictures.batch(first, count)
        return torch.nn.functional.cross_entropy(self.model(x), y, label_smoothing=self.smoothing)


twin.main(__doc__, VitTwin)
