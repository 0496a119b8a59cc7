"""Make the data set: `python3 tools/train/prepare.py [--write-heldout]`.

Every photograph is decoded, shrunk to a short side of at most 288 pixels and de-duplicated by a 64-bit difference hash.
A photograph is held out when its file's SHA-256 is divisible by 6 and its source allows it (no series, no stereo pairs,
no paintings); whatever resembles a held-out photograph or one of `samples/` is then kept out of the training part.
`heldout.json` is the committed list; the run stops if the packages now give another one.
"""
import argparse
import glob
import hashlib
import json
import os
import re

import numpy as np
from PIL import Image

from paths import HELDOUT, PHOTOS, SAMPLES
from photos import all_photos, decode

SHORT_SIDE = 288
LONGEST = 2.5
DUPLICATE_BITS = 4
RESEMBLES_BITS = 8
HELD_OUT_MODULUS = 6


def difference_hash(image):
    gray = np.asarray(image.convert("L").resize((9, 8), Image.BOX)).astype(int)
    return (gray[:, 1:] > gray[:, :-1]).ravel()


def distance(a, b):
    """Bits that differ, the mirror image counting as the same picture."""
    mirrored = ~b.reshape(8, 8)[:, ::-1].ravel()
    return min(int((a != b).sum()), int((a != mirrored).sum()))


def shrink(image):
    scale = SHORT_SIDE / min(image.size)
    if scale < 1:
        size = max(SHORT_SIDE, round(image.width * scale)), max(SHORT_SIDE, round(image.height * scale))
        image = image.resize(size, Image.LANCZOS if scale > 0.2 else Image.BOX)
    limit = int(SHORT_SIDE * LONGEST)
    left, top = max(0, image.width - limit) // 2, max(0, image.height - limit) // 2
    return image.crop((left, top, left + min(limit, image.width), top + min(limit, image.height)))


def flat(image, monochrome):
    """Synthetic or empty: hardly any colours (unless known to be black and white), or hardly any contrast."""
    colours = np.asarray(image.resize((96, 96), Image.NEAREST)).reshape(-1, 3) // 8
    contrast = np.asarray(image.resize((64, 64), Image.BOX)).astype(np.float32).std()
    return contrast < 12 or (not monochrome and len(np.unique(colours, axis=0)) < 150)


def collect():
    photos = []
    for entry, path, data in all_photos():
        if len(data) < 6000:
            continue
        image = decode(data, SHORT_SIDE)
        if image is None or min(image.size) < 128:
            continue
        image = shrink(image)
        if flat(image, entry.get("monochrome", False)):
            continue
        digest = hashlib.sha256(data).hexdigest()
        never = "neverHeldOut" in entry and re.search(entry["neverHeldOut"], path)
        photos.append(
            {
                "package": entry["package"],
                "path": path,
                "sha256": digest,
                "held": not never and int(digest, 16) % HELD_OUT_MODULUS == 0,
                "image": image,
                "hash": difference_hash(image),
            }
        )
    return photos


def split(photos):
    """De-duplicate, held-out photographs first, then drop training pictures that resemble a held-out one or a sample."""
    samples = [difference_hash(Image.open(f).convert("RGB")) for f in sorted(glob.glob(os.path.join(SAMPLES, "*.jpg")))]
    held, train = [], []
    for photo in photos:
        if photo["held"] and all(distance(photo["hash"], other["hash"]) > DUPLICATE_BITS for other in held):
            held.append(photo)
    guarded = samples + [photo["hash"] for photo in held]
    for photo in photos:
        if photo["held"] or any(distance(photo["hash"], other) <= RESEMBLES_BITS for other in guarded):
            continue
        if all(distance(photo["hash"], other["hash"]) > DUPLICATE_BITS for other in train):
            train.append(photo)
    return train, held


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--write-heldout", action="store_true", help="write heldout.json instead of checking it")
    arguments = parser.parse_args()
    photos = collect()
    train, held = split(photos)
    listed = [{key: photo[key] for key in ("package", "path", "sha256")} for photo in held]
    if arguments.write_heldout:
        with open(HELDOUT, "w", encoding="utf8") as file:
            json.dump({"size": 128, "crop": "centre, official evaluation", "photographs": listed}, file, indent=1)
            file.write("\n")
    else:
        with open(HELDOUT, encoding="utf8") as file:
            if json.load(file)["photographs"] != listed:
                raise SystemExit("the packages give another held-out set than heldout.json")
    counts = {}
    for part, members in (("train", train), ("held", held)):
        for photo in members:
            counts.setdefault(photo["package"], {"train": 0, "held": 0})[part] += 1
    os.makedirs(os.path.dirname(PHOTOS), exist_ok=True)
    np.savez(PHOTOS, **{f"train{i:04d}": np.asarray(photo["image"]) for i, photo in enumerate(train)})
    print(f"{len(photos)} pictures, {len(train)} to train on, {len(held)} held out")
    for package, count in counts.items():
        print(f"  {package}: {count['train']} train, {count['held']} held out")


if __name__ == "__main__":
    main()
