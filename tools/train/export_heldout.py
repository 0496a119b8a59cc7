"""Write the held-out crops as PNG files and as one array: `python3 tools/train/export_heldout.py [FOLDER]`.

FOLDER (by default `heldout` in the cache) receives 000.png, 001.png, ... in the order of heldout.json, `images.npy`
(uint8 [N, 128, 128, 3]) and `index.json` (one entry per photograph: file, package, path, sha256).
"""
import json
import os
import sys

import numpy as np
from PIL import Image

from data import held_out
from paths import CACHE


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(CACHE, "heldout")
    os.makedirs(folder, exist_ok=True)
    entries, images = held_out()
    index = []
    for number, (entry, image) in enumerate(zip(entries, images)):
        name = f"{number:03d}.png"
        Image.fromarray(image).save(os.path.join(folder, name))
        index.append({"file": name, **entry})
    np.save(os.path.join(folder, "images.npy"), images)
    with open(os.path.join(folder, "index.json"), "w", encoding="utf8") as file:
        json.dump(index, file, indent=1)
        file.write("\n")
    print(f"{len(images)} photographs in {folder}")


if __name__ == "__main__":
    main()
