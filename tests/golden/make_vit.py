"""Writes vit_timm/, vit_distilled/, vit_deit3/, vit_mean/, vit_hf/, deit_hf/ and deit_plain_hf/ with timm and transformers:
OMP_NUM_THREADS=1 python make_vit.py  (torch 2.15, timm 1.0.31, transformers 5.24, safetensors 0.8).

Each folder is a model with random weights as the library's own writer leaves it (config.json, model.safetensors), and
expected.safetensors: images (B, 3, 16, 16), soft targets (B, 7), logits, the loss -mean(sum(targets * log_softmax)) and the
gradient of every tensor ("grad." + name), computed in double precision and rounded once. Further:
  vit_distilled   hard.*, soft.*: DeiT's distillation loss from vit_timm as the teacher, and its gradients at both heads
  vit_deit3       bce.*: binary cross-entropy, targets above 0 count as 1
  vit_hf, deit_hf large.*: pictures of 24 x 32, positions interpolated
"""

import json
import pathlib

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models import save_for_hf
from transformers import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher, ViTConfig, ViTForImageClassification

HERE = pathlib.Path(__file__).parent
CLASSES = 7
SIZES = dict(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, num_classes=CLASSES)
HF_SIZES = dict(image_size=16, patch_size=4, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
                num_labels=CLASSES)


def random_weights(model):
    with torch.no_grad():
        for key, p in model.named_parameters():
            scale = key.endswith("weight") and p.dim() == 1 or key.endswith("gamma")
            p.copy_((1.0 if scale else 0.0) + 0.2 * torch.randn_like(p))


def soft_loss(z, targets):
    return -(targets * z.log_softmax(-1)).sum(-1).mean()


def logits(model, images, **more):
    out = model(images, **more)
    return out if isinstance(out, torch.Tensor) else out.logits


def gradients(model, loss, prefix=""):
    model.zero_grad()
    loss.backward()
    return {f"{prefix}grad.{k}": p.grad.float().contiguous() for k, p in model.named_parameters() if p.grad is not None}


def make(name, model, save, more=lambda model, images, targets: {}):
    torch.manual_seed(11)
    model.eval()
    random_weights(model)
    folder = HERE / name
    save(model, folder)
    model = model.double()
    images = torch.randn(3, 3, 16, 16)
    targets = (2 * torch.randn(3, CLASSES)).softmax(-1)
    z = logits(model, images.double())
    loss = soft_loss(z, targets.double())
    expected = {"images": images, "targets": targets, "logits": z.detach().float().contiguous(), "loss": loss.detach().float().reshape(())}
    expected |= gradients(model, loss)
    expected |= more(model, images, targets.double())
    save_file(expected, folder / "expected.safetensors", metadata={"format": "pt"})
    print(name, sum(p.numel() for p in model.parameters()), "parameters, loss", loss.item())
    return model


def save_timm(model, folder):
    save_for_hf(model, folder, model_config={"label_names": [f"thing {i}" for i in range(CLASSES)]}, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())  # without what timm knows of the published weights
    for key in ("origin_url", "paper_ids", "paper_name", "url", "license", "hf_hub_id"):
        config["pretrained_cfg"].pop(key, None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def save_hf(model, folder):
    model.save_pretrained(folder)


def distillation(model, images, targets):
    """losses.py of DeiT: alpha 0.5, hard; alpha 0.3, tau 3, soft, divided by the number of elements."""
    model.set_distilled_training(True)
    model.train()
    with torch.no_grad():
        teacher = TEACHER(images.double())
    out = {}
    for kind in ("hard", "soft"):
        z, z_dist = model(images.double())
        if kind == "hard":
            loss = 0.5 * soft_loss(z, targets) + 0.5 * F.cross_entropy(z_dist, teacher.argmax(-1))
        else:
            kl = F.kl_div(F.log_softmax(z_dist / 3, -1), F.log_softmax(teacher / 3, -1), reduction="sum", log_target=True)
            loss = 0.7 * soft_loss(z, targets) + 0.3 * kl * 9 / z_dist.numel()
        grads = gradients(model, loss, kind + ".")
        out[kind + ".loss"] = loss.detach().float().reshape(())
        out |= {k: g for k, g in grads.items() if "head" in k or "cls_token" in k or "dist_token" in k}
    model.eval()
    return out


def binary(model, images, targets):
    sparse = torch.where(targets < targets.mean(), 0.0, targets)
    z = logits(model, images.double())
    loss = F.binary_cross_entropy_with_logits(z, sparse.gt(0).double())
    return {"bce.targets": sparse.float(), "bce.loss": loss.detach().float().reshape(()), "bce.grad.head.weight": gradients(model, loss)["grad.head.weight"]}


def larger(model, images, targets):
    large = torch.randn(3, 3, 24, 32)
    z = logits(model, large.double(), interpolate_pos_encoding=True)
    loss = soft_loss(z, targets)
    grads = gradients(model, loss, "large.")
    return {"large.images": large, "large.logits": z.detach().float().contiguous(), "large.loss": loss.detach().float().reshape(())} | {
        k: g for k, g in grads.items() if "embeddings" in k}


TEACHER = make("vit_timm", timm.create_model("vit_tiny_patch16_224", **SIZES | {"depth": 3}), save_timm)
make("vit_distilled", timm.create_model("deit_tiny_distilled_patch16_224", **SIZES, mlp_ratio=1.5), save_timm, distillation)
make("vit_deit3", timm.create_model("deit3_small_patch16_224", **SIZES), save_timm, binary)
make("vit_mean", timm.create_model("vit_tiny_patch16_224", **SIZES, global_pool="avg", reg_tokens=2, qkv_bias=False, act_layer="gelu_tanh"), save_timm)
names = dict(id2label={i: f"thing {i}" for i in range(CLASSES)}, label2id={f"thing {i}": i for i in range(CLASSES)})
make("vit_hf", ViTForImageClassification(ViTConfig(**HF_SIZES, **names)), save_hf, larger)
make("deit_hf", DeiTForImageClassificationWithTeacher(DeiTConfig(**HF_SIZES)), save_hf, larger)
make("deit_plain_hf", DeiTForImageClassification(DeiTConfig(**HF_SIZES | {"num_hidden_layers": 1}, qkv_bias=False)), save_hf)
