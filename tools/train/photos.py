"""Find the photographs inside the fetched packages."""
import glob
import io
import json
import os
import re
import struct
import zlib

from PIL import Image

from paths import SOURCES, package_folder

PICTURE = (".jpg", ".jpeg", ".png", ".webp")
RCC_COMPRESSED, RCC_FOLDER, RCC_ZSTD = 1, 2, 4


def read_rcc(data):
    """Yield (path, bytes) of every file in a Qt binary resource."""
    if data[:4] != b"qres":
        raise ValueError("not a Qt binary resource")
    version, tree, blob, names = struct.unpack(">4I", data[4:20])
    node_size = 14 if version < 2 else 22

    def name_at(offset):
        length = struct.unpack_from(">H", data, names + offset)[0]
        return data[names + offset + 6 : names + offset + 6 + 2 * length].decode("utf-16-be")

    def walk(index, prefix):
        at = tree + index * node_size
        name, flags = struct.unpack_from(">IH", data, at)
        path = os.path.join(prefix, name_at(name)) if index else ""
        if flags & RCC_FOLDER:
            count, first = struct.unpack_from(">II", data, at + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
        elif not flags & RCC_ZSTD:
            offset = blob + struct.unpack_from(">I", data, at + 10)[0]
            size = struct.unpack_from(">I", data, offset)[0]
            content = data[offset + 4 : offset + 4 + size]
            yield path, zlib.decompress(content[4:]) if flags & RCC_COMPRESSED else content

    yield from walk(0, "")


def files_of(entry):
    """Yield (path inside the package, bytes) of the pictures that a source entry selects, in a fixed order."""
    root = package_folder(entry["package"])
    found = sorted({f for pattern in entry["files"] for f in glob.glob(os.path.join(root, pattern), recursive=True)})
    for file in found:
        inside = os.path.relpath(file, root)
        with open(file, "rb") as handle:
            data = handle.read()
        if entry.get("rcc"):
            for name, content in sorted(read_rcc(data)):
                yield f"{inside}!/{name}", content
        else:
            yield inside, data


def selected(entry, path):
    """Whether the entry's `only` and `skip` patterns let a path through."""
    if not path.lower().endswith(PICTURE):
        return False
    if "only" in entry and not re.search(entry["only"], path):
        return False
    return not ("skip" in entry and re.search(entry["skip"], path))


def all_photos():
    """Yield (source entry, path, bytes) over all fetched packages."""
    with open(SOURCES, encoding="utf8") as file:
        sources = json.load(file)
    for entry in sources["apt"] + sources["npm"]:
        for path, data in files_of(entry):
            if selected(entry, path):
                yield entry, path, data


def decode(data, short_side=None):
    """Decode to an RGB PIL image; None where the picture has real transparency or cannot be read."""
    try:
        image = Image.open(io.BytesIO(data))
        if short_side and image.format == "JPEG":
            image.draft("RGB", (2 * short_side, 2 * short_side))
        image.load()
    except Exception:  # a picture this Pillow cannot read is no training picture
        return None
    if image.mode in ("I", "F", "I;16"):
        return None
    if image.mode in ("RGBA", "LA", "P"):
        alpha = image.convert("RGBA").getchannel("A")
        if sum(alpha.histogram()[:250]) > 0.02 * image.width * image.height:
            return None
    return image.convert("RGB")


def center_crop(image, size):
    """The centre crop of the official evaluation: halve with BOX while twice too large, then BICUBIC, then cut."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
