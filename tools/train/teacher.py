"""The teacher of the semantic branch: MobileNetV2 1.0 of the npm package nsfwjs, batch norms folded into the convolutions."""
import json
import os

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from paths import TEACHER

STRIDES = {1: 2, 3: 2, 6: 2, 13: 2}
BLOCKS = (12, 15)  # 96 channels at 1/16 and 160 channels at 1/32 of the image
CHANNELS = 256


def read_weights(folder):
    """The arrays of a tfjs layers model, dequantised."""
    with open(os.path.join(folder, "model.json"), encoding="utf8") as file:
        manifest = json.load(file)["weightsManifest"]
    with open(os.path.join(folder, "model.bin"), "rb") as file:
        data = file.read()
    weights, offset = {}, 0
    for entry in (entry for group in manifest for entry in group["weights"]):
        count = int(np.prod(entry["shape"]))
        stored = entry.get("quantization", entry)
        array = np.frombuffer(data, np.dtype(stored["dtype"]), count, offset)
        offset += array.nbytes
        if "quantization" in entry:
            array = array.astype(np.float32) * stored["scale"] + stored["min"]
        weights[entry["name"]] = array.reshape(entry["shape"])
    if offset != len(data):
        raise ValueError("the teacher's weight file has another size than its manifest")
    return weights


class ConvNorm(nn.Module):
    def __init__(self, weights, kernel, norm, stride=1, depthwise=False, activate=True):
        super().__init__()
        k = weights[kernel].transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        scale = weights[norm + "/gamma"] / np.sqrt(weights[norm + "/moving_variance"] + 1e-3)
        bias = weights[norm + "/beta"] - weights[norm + "/moving_mean"] * scale
        self.weight = nn.Parameter(torch.tensor(np.ascontiguousarray(k * scale[:, None, None, None])), False)
        self.bias = nn.Parameter(torch.tensor(bias), False)
        self.stride, self.groups, self.activate = stride, k.shape[0] if depthwise else 1, activate

    def forward(self, x):
        if self.weight.shape[-1] == 3:
            x = F.pad(x, (0, 1, 0, 1) if self.stride == 2 else (1, 1, 1, 1))
        x = F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)
        return F.relu6(x) if self.activate else x


class Teacher(nn.Module):
    """Image in [-1, 1] -> [B, grid * grid, 256] features of two blocks, bilinearly brought to the grid."""

    def __init__(self, grid, folder=TEACHER):
        super().__init__()
        w = read_weights(folder)
        self.grid = grid
        self.stem = nn.Sequential(
            ConvNorm(w, "Conv1/kernel", "bn_Conv1", 2),
            ConvNorm(w, "expanded_conv_depthwise/depthwise_kernel", "expanded_conv_depthwise_BN", 1, True),
            ConvNorm(w, "expanded_conv_project/kernel", "expanded_conv_project_BN", activate=False),
        )
        self.blocks = nn.ModuleList()
        for i in range(1, max(BLOCKS) + 1):
            p = f"block_{i}_"
            self.blocks.append(
                nn.Sequential(
                    ConvNorm(w, p + "expand/kernel", p + "expand_BN"),
                    ConvNorm(w, p + "depthwise/depthwise_kernel", p + "depthwise_BN", STRIDES.get(i, 1), True),
                    ConvNorm(w, p + "project/kernel", p + "project_BN", activate=False),
                )
            )
        self.eval()

    @torch.no_grad()
    def forward(self, x):
        x, taps = self.stem((x + 1) / 2), []
        for i, block in enumerate(self.blocks, 1):
            y = block(x)
            x = x + y if x.shape == y.shape else y
            if i in BLOCKS:
                taps.append(F.interpolate(x, size=(self.grid, self.grid), mode="bilinear", align_corners=False))
        return torch.cat(taps, 1).flatten(2).transpose(1, 2)
