"""Each byte of what is stored is changed: `python -m tests.faults.damage -n 10000 --store sqlite`.

For the memory store these are the records that every store keeps; for SQLite it is the file.
"""

import random
import tempfile
import time
from pathlib import Path

import msgspec
from tests.corpus.generate import EXPECTED, FILE, FOLDER
from tests.corpus.samples import READERS
from tests.corpus.stores import read
from tests.faults.figures import Figure, Tally, main

from agent_runtime import AgentRuntimeError, CorruptRecord

RAW = "errors that are not ours"
OTHER = "changes that gave another value"
expected = msgspec.json.decode((FOLDER / EXPECTED).read_bytes())


def as_json(value: object) -> object:
    return msgspec.json.decode(msgspec.json.encode(value))


def names() -> list[str]:
    """The records of the corpus, by file name."""
    return sorted(name for name in expected if name != FILE)


def _records(count: int, chance: random.Random, tally: Tally) -> int:
    """Each byte of each record at least once, as often as it takes."""
    done = 0
    while done < count:
        for name in names():
            data = (FOLDER / name).read_bytes()
            reads = READERS[name.partition(".")[2]]
            for place in range(len(data)):
                changed = bytearray(data)
                changed[place] ^= chance.randrange(1, 256)
                done += 1
                try:
                    value = reads(bytes(changed))
                except CorruptRecord:
                    tally.saw("refused as CorruptRecord")
                except Exception as error:  # noqa: BLE001 - that there is none is what is counted
                    tally.wrong(RAW, f"{name}, byte {place}: {error!r}")
                else:
                    tally.saw("without effect")
                    if as_json(value) != expected[name]:
                        tally.wrong(OTHER, f"{name}, byte {place}")
    return done


async def _file(count: int, chance: random.Random, tally: Tally) -> int:
    data = (FOLDER / FILE).read_bytes()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / FILE
        for _ in range(count):
            changed = bytearray(data)
            where = chance.randrange(len(data))
            changed[where] ^= chance.randrange(1, 256)
            _put(path, bytes(changed))
            await _read_file(path, where, tally)
    return count


def _put(path: Path, data: bytes) -> None:
    for left in path.parent.iterdir():  # the log of the one before
        left.unlink()
    path.write_bytes(data)


async def _read_file(path: Path, where: int, tally: Tally) -> None:
    try:
        value = await read(path)
    except CorruptRecord:
        tally.saw("refused as CorruptRecord")
    except AgentRuntimeError as error:
        tally.saw(f"refused as {type(error).__name__}")
    except Exception as error:  # noqa: BLE001 - that there is none is what is counted
        tally.wrong(RAW, f"byte {where}: {error!r}")
    else:
        if as_json(value) == expected[FILE]:
            tally.saw("without effect")
        else:
            tally.wrong(OTHER, f"byte {where}, page {where // 4096}")


async def damage(store: str, count: int, seed: int) -> Figure:
    """Change `count` bytes, one at a time; figure R19."""
    since = time.perf_counter()
    tally = Tally(RAW, OTHER)
    chance = random.Random(seed)
    done = _records(count, chance, tally) if store == "memory" else await _file(count, chance, tally)
    return tally.figure("R19", store, done, "changed bytes", seed=seed, since=since)


if __name__ == "__main__":
    main(damage, {"memory": None, "sqlite": None}, count=10_000, description=__doc__)
