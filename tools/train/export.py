"""Write the shipped model and its golden arrays: `python3 tools/train/export.py [--checkpoint FILE] [--out FOLDER]`.

The averaged weights are rounded to half precision; the golden arrays are computed in float32 from exactly those.
"""
import argparse
import json
import os

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import shipped
import tensors
from data import to_tensor
from model import SHAPE
from paths import CACHE, MODEL, SAMPLES
from photos import center_crop

GOLDEN = ("chelsea-cat", "coffee-cup", "rocket-launch", "nagasaki-boats")
CONFIG = {
    "teacher": "clipb_224",
    "imageSize": SHAPE["imageSize"],
    "trainedImageSize": SHAPE["imageSize"],
    "scales": SHAPE["scales"],
    "codebookSize": SHAPE["codebookSize"],
    "semanticCodeDim": SHAPE["semanticCodeDim"],
    "pixelCodeDim": SHAPE["pixelCodeDim"],
    "semanticEncoderHeads": SHAPE["semanticHeads"],
    "semanticDecoderHeads": SHAPE["semanticDecoderHeads"],
    "outputSize": SHAPE["imageSize"],
    "groupNorm": SHAPE["groupNorm"],
}


def write_model(state, folder):
    names = [name for name in state["model"]]
    values = {**state["model"], **state["average"]}
    arrays = {name: values[name].numpy().astype(np.float16) for name in names}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise SystemExit(f"{name} does not fit half precision")
    tensors.save(os.path.join(folder, "model.safetensors"), arrays, {"format": "pt", "license": "Apache-2.0"})
    with open(os.path.join(folder, "config.json"), "w", encoding="utf8") as file:
        json.dump(CONFIG, file, indent=2)
        file.write("\n")


@torch.no_grad()
def quantise(model, h):
    """The official multi-scale quantisation in double-checked form: sum, indices, and second best minus best distance."""
    grid, table = model.quantize.scales[-1], model.quantize.table()
    residual, total, indices, margins = h, torch.zeros_like(h), [], []
    for scale in model.quantize.scales:
        pooled = residual if scale == grid else F.adaptive_avg_pool2d(residual, scale)
        z = model.quantize.normalize(pooled.permute(0, 2, 3, 1).reshape(-1, h.shape[1]))
        index = (z @ table.t()).argmax(1)
        best = (2 * (z.double() @ table.double().t())).topk(2, dim=1).values
        q = table[index].view(len(h), scale, scale, -1).permute(0, 3, 1, 2)
        if scale != grid:
            q = F.interpolate(q, size=(grid, grid), mode="bicubic", align_corners=False)
        residual, total = residual - q, total + q
        indices.append(index.view(len(h), -1))
        margins.append((best[:, 0] - best[:, 1]).view(len(h), -1))
    return total, torch.cat(indices, 1), torch.cat(margins, 1)


@torch.no_grad()
def write_golden(folder):
    model, config = shipped.load(folder)
    crops = [
        np.asarray(center_crop(Image.open(os.path.join(SAMPLES, name + ".jpg")).convert("RGB"), config["imageSize"]))
        for name in GOLDEN
    ]
    x = to_tensor(np.stack(crops))
    f, indices, margin = quantise(model, model.encode(x))
    arrays = {
        "input": x.numpy(),
        "indices": indices.numpy().astype(np.int32),
        "margin": margin.numpy().astype(np.float64),
        "quantized": f.numpy(),
        "semantic": model.decode_semantic(f).numpy(),
        "pixels": model.decode_pixels(f).numpy(),
    }
    golden = os.path.join(folder, "golden")
    os.makedirs(golden, exist_ok=True)
    for name, array in arrays.items():
        np.save(os.path.join(golden, name + ".npy"), array)
    close = int((margin < 1e-4).sum())
    print(f"golden arrays of {len(x)} images; {close} of {margin.numel()} indices have a margin under 1e-4")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", default=os.path.join(CACHE, "run", "checkpoint.pt"))
    parser.add_argument("--out", default=MODEL)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    os.makedirs(arguments.out, exist_ok=True)
    write_model(torch.load(arguments.checkpoint, map_location="cpu"), arguments.out)
    write_golden(arguments.out)
    size = sum(os.path.getsize(os.path.join(root, f)) for root, _, files in os.walk(arguments.out) for f in files)
    print(f"{arguments.out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
