"""Where things lie: everything that is fetched or made goes below one git-ignored folder of the repository."""
import os

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(HERE))
CACHE = os.environ.get("TOKENFLOW_TRAIN_CACHE") or os.path.join(REPOSITORY, ".cache", "train")
PACKAGES = os.path.join(CACHE, "packages")
PHOTOS = os.path.join(CACHE, "photos.npz")
TEACHER = os.path.join(CACHE, "teacher")
HELDOUT = os.path.join(HERE, "heldout.json")
SOURCES = os.path.join(HERE, "sources.json")
MODEL = os.path.join(REPOSITORY, "models", "tokenflow-tiny")
SAMPLES = os.path.join(REPOSITORY, "samples")


def package_folder(name):
    """The folder a package is unpacked to."""
    return os.path.join(PACKAGES, name.replace("@", "").replace("/", "-"))
