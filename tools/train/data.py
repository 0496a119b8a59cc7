"""Training batches and the held-out crops."""
import hashlib
import json

import numpy as np
import torch
from PIL import Image

from paths import HELDOUT, PHOTOS
from photos import all_photos, center_crop, decode

SHORT_SIDES = (130, 144, 176, 224, 288)
WEIGHTS = (3, 3, 2, 2, 1)


def to_tensor(images):
    """uint8 [B, H, W, 3] to float [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


class Photos:
    """Random crops of the training photographs, each photograph at several sizes."""

    def __init__(self, seed):
        self.random = np.random.RandomState(seed)
        with np.load(PHOTOS) as stored:
            self.pyramids = [self.pyramid(stored[name]) for name in sorted(stored.files)]

    @staticmethod
    def pyramid(image):
        shortest, levels = min(image.shape[:2]), []
        for side in SHORT_SIDES:
            if side == shortest:
                levels.append(image)
            elif side < shortest or side == SHORT_SIDES[0]:
                height, width = (max(side, round(n * side / shortest)) for n in image.shape[:2])
                levels.append(np.asarray(Image.fromarray(image).resize((width, height), Image.LANCZOS)))
        return levels

    def batch(self, count, size):
        crops = np.empty((count, size, size, 3), np.uint8)
        for crop in crops:
            levels = self.pyramids[self.random.randint(len(self.pyramids))]
            weights = np.array(WEIGHTS[: len(levels)], float)
            image = levels[self.random.choice(len(levels), p=weights / weights.sum())]
            top = self.random.randint(image.shape[0] - size + 1)
            left = self.random.randint(image.shape[1] - size + 1)
            cut = image[top : top + size, left : left + size]
            crop[:] = cut[:, ::-1] if self.random.rand() < 0.5 else cut
        return to_tensor(crops)


def held_out():
    """The held-out photographs as (list of their entries in heldout.json, uint8 [N, size, size, 3])."""
    with open(HELDOUT, encoding="utf8") as file:
        listed = json.load(file)
    wanted = {(photo["package"], photo["path"]): photo for photo in listed["photographs"]}
    crops = {}
    for entry, path, data in all_photos():
        photo = wanted.get((entry["package"], path))
        if photo:
            if hashlib.sha256(data).hexdigest() != photo["sha256"]:
                raise SystemExit(f"{path} of {entry['package']} has another content than heldout.json says")
            crops[entry["package"], path] = np.asarray(center_crop(decode(data), listed["size"]))
    missing = [key for key in wanted if key not in crops]
    if missing:
        raise SystemExit(f"missing {missing[0]} and {len(missing) - 1} more: run tools/train/fetch.py")
    return list(wanted.values()), np.stack([crops[key] for key in wanted])
