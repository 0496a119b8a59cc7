"""Measure the shipped model on the held-out photographs with PyTorch: `python3 tools/train/evaluate.py [--model FOLDER]`.

Prints one JSON object: PSNR and SSIM after each scale, the baselines, codes in use and the cosine to the teacher.
`--teacher CHECKPOINT` names the training checkpoint that holds the statistics the teacher's features are scaled with,
`--picture FILE` writes originals and reconstructions side by side.
"""
import argparse
import io
import json

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import shipped
from data import held_out, to_tensor
from model import psnr, to_pixels
from paths import MODEL


def ssim(y, x):
    """Mean SSIM with a uniform 7x7 window on 8-bit pixels scaled to [0, 1]."""
    a, b = to_pixels(y) / 255, (x + 1) / 2
    mean_a, mean_b, unbiased = F.avg_pool2d(a, 7, 1), F.avg_pool2d(b, 7, 1), 49 / 48
    var_a = unbiased * (F.avg_pool2d(a * a, 7, 1) - mean_a**2)
    var_b = unbiased * (F.avg_pool2d(b * b, 7, 1) - mean_b**2)
    covariance = unbiased * (F.avg_pool2d(a * b, 7, 1) - mean_a * mean_b)
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (value / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).flatten(1).mean(1)


def mean(values):
    return round(float(values.mean()), 3)


def jpeg(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
    return np.asarray(Image.open(buffer)), len(buffer.getvalue())


def baselines(images, x):
    result = {"mean colour": mean(psnr(x.mean((2, 3), keepdim=True).expand_as(x), x))}
    for side in (8, 16, 32):
        small = F.adaptive_avg_pool2d(x, side)
        large = F.interpolate(small, size=x.shape[-1], mode="bicubic", align_corners=False)
        result[f"{side}x{side} thumbnail"] = mean(psnr(large, x))
    for quality in (5, 10):
        files = [jpeg(image, quality) for image in images]
        result[f"JPEG quality {quality}"] = mean(psnr(to_tensor(np.stack([f[0] for f in files])), x))
        result[f"JPEG quality {quality} bytes"] = mean(np.array([f[1] for f in files]))
    return result


def parts(x, size=8):
    return x.split(size)


@torch.no_grad()
def measure(model, images):
    x = to_tensor(images)
    h = torch.cat([model.encode(part) for part in parts(x)])
    outputs = [model.quantize(part) for part in parts(h)]
    sums = [torch.cat([output[0][k] for output in outputs]) for k in range(len(model.quantize.scales))]
    by_scale = [torch.cat([model.decode_pixels(part) for part in parts(f)]) for f in sums]
    indices = torch.cat([torch.cat(output[2]) for output in outputs])
    y = by_scale[-1]
    result = {
        "photographs": len(images),
        "psnr": mean(psnr(y, x)),
        "psnr median": round(float(psnr(y, x).median()), 3),
        "ssim": mean(ssim(y, x)),
        "psnr by scale": [mean(psnr(out, x)) for out in by_scale],
        "tokens per photograph": sum(scale**2 for scale in model.quantize.scales),
        "codes in use": int(indices.unique().numel()),
        "codes": model.quantize.embedding_vqkd.num_embeddings,
        "baselines": baselines(images, x),
    }
    return result, sums, y


@torch.no_grad()
def semantic_cosines(model, sums, x, checkpoint):
    from teacher import Teacher

    state = torch.load(checkpoint, map_location="cpu")
    teacher = Teacher(model.shape["scales"][-1])
    target = torch.cat([(teacher(part) - state["target_mean"]) / state["target_std"] for part in parts(x)])
    cosines = []
    for f in sums:
        predicted = torch.cat([model.decode_semantic(part) for part in parts(f)])
        cosines.append(mean(F.cosine_similarity(predicted, target, dim=-1)))
    return cosines


def side_by_side(images, y, columns=10):
    decoded = to_pixels(y).byte().permute(0, 2, 3, 1).numpy()
    rows = []
    for start in range(0, len(images), columns):
        for source in (images, decoded):
            row = list(source[start : start + columns])
            row += [np.zeros_like(images[0])] * (columns - len(row))
            rows.append(np.concatenate(row, 1))
    return Image.fromarray(np.concatenate(rows, 0))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--teacher")
    parser.add_argument("--picture")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    model, _ = shipped.load(arguments.model)
    _, images = held_out()
    result, sums, y = measure(model, images)
    if arguments.teacher:
        result["semantic cosine by scale"] = semantic_cosines(model, sums, to_tensor(images), arguments.teacher)
    if arguments.picture:
        side_by_side(images, y).save(arguments.picture)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
