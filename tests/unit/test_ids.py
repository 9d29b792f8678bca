import random
import re
import time

from agent_runtime.ids import new_id, new_secret_id


def test_ids_are_unique_and_sort_by_time() -> None:
    ids: list[str] = []
    for _ in range(100):
        ids.append(new_id())
        time.sleep(1e-6)  # one step of the clock
    assert ids == sorted(set(ids))


def test_ids_fit_the_form_of_session_and_run_ids() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,128}", made) for made in (new_id(), new_secret_id()))


def test_secret_ids_share_nothing() -> None:
    assert len({new_secret_id()[:8] for _ in range(100)}) == 100


def test_a_seeded_application_neither_repeats_ids_nor_gets_other_numbers() -> None:
    random.seed(1)
    expected = random.random()
    random.seed(1)
    tails = {new_id()[16:]}
    assert random.random() == expected
    random.seed(1)
    assert new_id()[16:] not in tails
