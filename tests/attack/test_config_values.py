"""Every key of every config with a dozen wrong values: each ends in one line that names the key, or may stand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from config_walk import VALUES, compositions, hold, is_stated, keys, make

from backdrift.sde.value_types import LARGEST_INTEGER


@pytest.mark.slow
def test_no_value_ends_in_anything_but_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for one, key in keys(compositions()):
        if not is_stated(one, key):
            wrong.append(f"{one.command} {one.choice} {key}: no type is stated")
        for written in VALUES:
            shown = f"{one.command} {one.choice} {key}={written}"
            try:
                config = hold(one, key, written)
            except ValueError as error:
                counts["refused"] += 1
                if "\n" in str(error) or not str(error).startswith(f"{key}: expected "):
                    wrong.append(f"{shown}: {error}")
                continue
            except Exception as error:
                wrong.append(f"{shown}: {type(error).__name__} {error}")
                continue
            try:
                make(config, key)
                counts["taken"] += 1
            except ValueError as error:
                counts["refused when made"] += 1
                if "\n" in str(error) or key.split(".")[0] not in str(error).split(": ")[0]:
                    wrong.append(f"{shown}: {error}")
            except Exception as error:
                wrong.append(f"{shown}, made: {type(error).__name__} {error}")
    print(f"\n{sum(counts.values())} values: {dict(counts)}")
    assert not wrong, "\n".join([f"{len(wrong)} of {sum(counts.values())}:", *wrong])
    assert sum(counts.values()) >= 500 and LARGEST_INTEGER < 10**30
    assert not any(tmp_path.iterdir())
