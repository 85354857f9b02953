"""Loads what ACCRETE_EXPORT_VIT=FOLDER build/tests/vit_files_test wrote with timm and transformers, and compares the
logits with those of the models that it was made from: python check_vit.py FOLDER"""

import pathlib
import sys

import timm
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers import DeiTForImageClassificationWithTeacher

HERE = pathlib.Path(__file__).parent
checked = 0
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    name, _, style = folder.name.rpartition("-as-")
    expected = load_file(HERE / name / "expected.safetensors")
    if style == "timm":
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
        config = timm.data.resolve_data_config(model=model)
        assert tuple(config["mean"]) == (0.1, 0.2, 0.3) and config["input_size"] == (3, 16, 16), config
        call = model
    else:
        teacher = "WithTeacher" in (folder / "config.json").read_text()
        model = (DeiTForImageClassificationWithTeacher if teacher else AutoModelForImageClassification).from_pretrained(folder)
        pixels = AutoImageProcessor.from_pretrained(folder)(torch.full((3, 40, 60), 255, dtype=torch.uint8), return_tensors="pt")["pixel_values"]
        assert pixels.shape == (1, 3, 16, 16) and abs(pixels[0, 1].mean() - 1.6) < 1e-5, pixels.mean((0, 2, 3))
        call = lambda x: model(x).logits
    model.eval()
    with torch.no_grad():
        gap = (call(expected["images"]) - expected["logits"]).abs().max().item() / expected["logits"].abs().max().item()
    print(f"{folder.name:28} logits differ by {gap:.1e}")
    assert gap < 1e-5
    checked += 1
assert checked > 0
