"""Writes volo_a/ and volo_b/ with timm: python make_volo.py  (torch 2.15, timm 1.0.31, safetensors 0.8).

Each folder is a model as timm leaves it (config.json, model.safetensors) with random weights and running statistics, and
expected.safetensors, computed in double precision and rounded once:

    images         (B, C, S, S)
    logits         of evaluation, (B, classes); other_logits: of other_images, which have another side (timm takes none
                   beside its own, so the table of positions is resampled here)
    cls, patches   what the heads say in training mode without MixToken
    mixed.cls, mixed.patches   with MixToken and the box of rows y1 .. y2 and columns x1 .. x2 in mix_box
    soft_targets, token_targets (B, classes), dense_targets (B, T, classes)
    loss.soft      CE(cls, soft_targets) + 0.5 CE(patches, soft_targets for each patch), training mode
    loss.token     CE(cls, soft_targets) + 0.5 CE(patches, token_targets for each patch)
    loss.mixed     with the box: CE(mixed.cls, soft_targets) + 0.5 CE(mixed.patches, dense_targets)
    grad.*         of loss.mixed in volo_a, of loss.soft in volo_b
    running.*      running statistics after one step in training mode

timm draws its box itself and with another rule; its function is replaced by one that returns ours. Its forward_train gives
the normed class token in place of the class logits; the head is applied here.
"""

import json
import pathlib

import timm.models.volo as volo
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

CASES = {
    # Three groups of transformers, one of them empty; an odd coarse grid; samples 0 and 3, 1 and 2 mix.
    "volo_a": (
        dict(layers=(2, 1, 0, 2), img_size=24, patch_size=4, stem_hidden_dim=4, embed_dims=(6, 10, 10, 10), num_heads=(3, 2, 2, 2),
             mlp_ratio=1.5, num_classes=7, use_mix_token=True), 4, (1, 3, 0, 2), 32),
    # One group, grey images, patches of 8, a fine grid that is twice odd.
    "volo_b": (
        dict(layers=(1, 2), img_size=48, patch_size=8, stem_hidden_dim=4, embed_dims=(4, 6), num_heads=(1, 3), downsamples=(True, False),
             outlook_attention=(True, False), mlp_ratio=2.0, in_chans=1, num_classes=5, use_mix_token=True), 2, (0, 2, 1, 3), 32),
}


def cross_entropy(z, t):
    return -(t * F.log_softmax(z, -1)).sum(-1).mean()


def make(name, args, samples, box, other):
    torch.manual_seed(11)
    model = volo.VOLO(**args)
    with torch.no_grad():
        for key, p in model.named_parameters():
            base = 1.0 if key.endswith("weight") and p.dim() == 1 else 0.0
            p.copy_(base + 0.2 * torch.randn_like(p))
        for key, b in model.named_buffers():
            if key.endswith("running_mean"):
                b.copy_(0.2 * torch.randn_like(b))
            elif key.endswith("running_var"):
                b.copy_(0.5 + torch.rand_like(b))
    folder = pathlib.Path(__file__).parent / name
    folder.mkdir(exist_ok=True)
    state = model.state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    size, classes, channels = args["img_size"], args["num_classes"], args.get("in_chans", 3)
    shape = {k: list(v) if isinstance(v, tuple) else v for k, v in args.items() if k not in ("img_size", "num_classes", "in_chans", "use_mix_token")}
    config = {"architecture": "volo_d1_224", "num_classes": classes, "num_features": args["embed_dims"][-1], "global_pool": "token",
              "model_args": shape | {"img_size": size, "in_chans": channels}, "pretrained_cfg": {"input_size": [channels, size, size], "num_classes": classes}}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    images = torch.randn(samples, channels, size, size)
    others = torch.randn(2, channels, other, other)
    T = (size // args["patch_size"] // 2) ** 2
    soft, token = (torch.rand(samples, classes).softmax(-1) for _ in range(2))
    dense = (3 * torch.rand(samples, T, classes)).softmax(-1)
    drawn_box = (box[0], box[2], box[1], box[3])  # timm's order: both beginnings, then both ends
    volo.rand_bbox = lambda *_, **__: drawn_box
    model = model.double()

    def fresh(training, mix):
        model.load_state_dict(state)
        model.train(training)
        model.mix_token = mix
        model.zero_grad()

    out = {"images": images, "other_images": others, "soft_targets": soft, "token_targets": token, "dense_targets": dense,
           "mix_box": torch.tensor(box, dtype=torch.int32)}
    fresh(False, False)
    out["logits"] = model(images.double())
    grid, table = other // args["patch_size"] // 2, model.pos_embed.data
    model.pos_embed.data = F.interpolate(table.permute(0, 3, 1, 2), size=(grid, grid), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    out["other_logits"] = model(others.double())
    model.pos_embed.data = table
    graded = "mixed" if name == "volo_a" else "soft"
    for mix in (False, True):
        fresh(True, mix)
        token_norm, patches, drawn = model.forward_train(images.double())
        assert drawn == (drawn_box if mix else (0, 0, 0, 0))
        cls = model.head(token_norm)
        front = "mixed." if mix else ""
        out |= {front + "cls": cls, front + "patches": patches}
        everywhere = lambda t: t.double()[:, None].expand(-1, T, -1)
        of_class = cross_entropy(cls, soft.double())
        if mix:
            out["loss.mixed"] = of_class + 0.5 * cross_entropy(patches, dense.double())
        else:
            out["loss.soft"] = of_class + 0.5 * cross_entropy(patches, everywhere(soft))
            out["loss.token"] = of_class + 0.5 * cross_entropy(patches, everywhere(token))
            out |= {"running." + k: b.clone() for k, b in model.named_buffers() if "running" in k}
        if mix == (graded == "mixed"):
            out["loss." + graded].backward()
            out |= {"grad." + k: p.grad.clone() for k, p in model.named_parameters()}
    out = {k: (v if v.dtype == torch.int32 else v.detach().float()).contiguous() for k, v in out.items()}
    save_file(out, folder / "expected.safetensors", metadata={"format": "pt"})


for name, case in CASES.items():
    make(name, *case)
