"""`python -m tests.corpus.generate` writes the corpus of this version. What a released version has written never changes."""

from pathlib import Path

import anyio
import msgspec
from tests.corpus.samples import samples
from tests.corpus.stores import read, write

FOLDER = Path(__file__).parent / "v1"
FILE = "stores.db"
EXPECTED = "expected.json"


def generate(folder: Path) -> None:
    """Write each sample, the file of the stores, and what is in all of them."""
    folder.mkdir(exist_ok=True)
    expected: dict[str, object] = {}
    for name, (data, value) in samples().items():
        (folder / name).write_bytes(data)
        expected[name] = value
    (folder / FILE).unlink(missing_ok=True)
    anyio.run(write, folder / FILE)
    expected[FILE] = anyio.run(read, folder / FILE)
    (folder / EXPECTED).write_bytes(msgspec.json.format(msgspec.json.encode(expected), indent=1))


if __name__ == "__main__":
    generate(FOLDER)
