import multiprocessing
import os
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from matrix.engines.base import HOW
from matrix.stage import Result, Stage
from matrix.store import Mode, Store, StoreConfig, StoreError, fingerprints, read_manifest


@dataclass(kw_only=True)
class Knobs:
    text: str = "bread"
    times: int = 1
    threads: int = field(default=1, metadata=HOW)
    diary: str | None = field(default=None, metadata=HOW)
    """File that gets a line for every run."""
    fail: bool = field(default=False, metadata=HOW)
    pause: float = field(default=0.0, metadata=HOW)
    engine: str = field(default="", metadata=HOW)
    """A way to run that changes the result after all, as another engine's rounding may."""


@dataclass(kw_only=True)
class Bake(Stage):
    """Writes what it is told to, half of it before it may fail."""

    name: ClassVar[str] = "bake"
    knobs: Knobs

    def readable(self) -> str:
        return self.knobs.text

    def run(self, work: Path) -> None:
        if self.knobs.diary:
            with Path(self.knobs.diary).open("a") as diary:
                diary.write("baked\n")
        dough = work / "dough.txt"
        if dough.exists():
            (work / "journal.jsonl").write_text('{"found":"dough"}\n')
        dough.write_text("flour")
        time.sleep(self.knobs.pause)
        if self.knobs.fail:
            raise RuntimeError("the oven is cold")
        (work / "deep").mkdir(exist_ok=True)
        (work / "deep" / "rows.jsonl").write_text(f'"{self.knobs.text}{self.knobs.engine}"\n' * self.knobs.times)
        (work / "usage.json").write_text('{"calls": 3}')


@dataclass(kw_only=True)
class Sell(Stage):
    name: ClassVar[str] = "sell"
    price: int = 2
    loaf: Result

    def run(self, work: Path) -> None:
        sold = (self.loaf.path / "deep" / "rows.jsonl").read_text()
        (work / "sold.txt").write_text(f"{self.price} {sold}")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def diary(tmp_path):
    return tmp_path / "diary"


def opened(root, mode="reuse", stages=()):
    return Store(StoreConfig(root=str(root), mode=Mode(mode), stages=list(stages)))


def bake(diary=None, seed=0, **knobs):
    return Bake(seed=seed, knobs=Knobs(diary=str(diary) if diary else None, **knobs))


def runs(diary):
    return len(diary.read_text().splitlines()) if diary.exists() else 0


def both(store, diary=None, **knobs):
    loaf = store.get(bake(diary, **knobs))
    return loaf, store.get(Sell(seed=0, loaf=loaf))


class TestReuse:
    def test_a_stage_runs_once(self, root, diary):
        first, second = opened(root).get(bake(diary)), opened(root).get(bake(diary))
        assert (first.hit, second.hit) == (False, True)
        assert runs(diary) == 1
        assert first.path == second.path == root / "bake" / f"bread-{first.key[:12]}"
        assert first.name == f"bake-{first.key[:12]}"

    def test_what_decides_the_result_gets_a_place_of_its_own(self, root, diary):
        made = [opened(root).get(bake(diary, **knobs)) for knobs in ({}, {"times": 2}, {"text": "rolls"}, {"seed": 1})]
        assert len({result.path for result in made}) == runs(diary) == 4
        assert opened(root).get(bake(diary, threads=8)).hit

    def test_visits_tell_what_happened(self, root):
        store = opened(root)
        loaf, sale = both(store)
        assert [visit.result for visit in store.visits] == [loaf, sale]
        assert store.visits[0].manifest["usage"] == {"calls": 3}
        assert store.current is None

    def test_a_store_can_be_moved(self, root, tmp_path, diary):
        both(opened(root), diary)
        moved = shutil.move(root, tmp_path / "moved")
        assert all(result.hit for result in both(opened(moved), diary))


class TestPublish:
    def test_the_manifest_tells_everything(self, root):
        _, sale = both(opened(root), times=2)
        loaf = next((root / "bake").glob("*/manifest.json")).parent
        manifest = read_manifest(loaf)
        assert manifest["identity"]["config"]["knobs"]["times"] == 2
        assert manifest["config"]["knobs"]["threads"] == 1
        assert manifest["outputs"]["deep/rows.jsonl"]["rows"] == 2
        assert manifest["outputs"].keys() == {"dough.txt", "deep/rows.jsonl", "usage.json"}
        assert manifest["environment"]["python"]
        assert manifest["seconds"] >= 0
        assert read_manifest(sale.path)["inputs"] == {"loaf": fingerprints(loaf)}
        assert fingerprints(loaf).keys() == {"dough.txt", "deep/rows.jsonl"}  # usage differs from run to run

    def test_a_stage_that_raises_publishes_nothing_and_goes_on_later(self, root, diary):
        store = opened(root)
        with pytest.raises(RuntimeError, match="the oven is cold"):
            store.get(bake(diary, fail=True))
        assert store.current is not None
        assert store.current.name == "bake"
        (partial,) = (p for p in (root / "bake").iterdir() if p.is_dir())
        assert partial.name.endswith(".partial")
        assert not (partial / "manifest.json").exists()
        made = opened(root).get(bake(diary))
        assert not made.hit
        assert runs(diary) == 2
        assert (made.path / "journal.jsonl").read_text() == '{"found":"dough"}\n'
        assert not partial.exists()

    def test_the_time_of_an_interrupted_run_counts(self, root):
        with pytest.raises(RuntimeError):
            opened(root).get(bake(fail=True, pause=0.2))
        made = opened(root).get(bake())
        assert read_manifest(made.path)["seconds"] >= 0.2
        assert not list(made.path.glob(".seconds"))

    def test_a_run_that_ended_between_manifest_and_publication_goes_on(self, root):
        made = opened(root).get(bake())
        made.path.rename(made.path.with_name(made.path.name + ".partial"))
        assert not opened(root).get(bake()).hit
        assert opened(root).get(bake()).hit
        assert "manifest.json" not in read_manifest(made.path)["outputs"]

    def test_the_manifest_is_the_last_file_to_be_written(self, root):
        made = opened(root).get(bake())
        times = {p: p.stat().st_mtime_ns for p in made.path.rglob("*") if p.is_file()}
        assert max(times, key=times.get).name == "manifest.json"

    def test_a_folder_without_manifest_is_no_result(self, root, diary):
        made = opened(root).get(bake(diary))
        (made.path / "manifest.json").unlink()
        with pytest.raises(OSError, match=re.escape(made.path.name)):
            opened(root).get(bake(diary))

    def test_the_first_writer_wins(self, root, tmp_path):
        """On a disk that does not honour locks another process may publish while this one still works."""
        elsewhere = opened(tmp_path / "other").get(bake())
        (elsewhere.path / "marker").write_text("first")

        @dataclass(kw_only=True)
        class Slow(Bake):
            def run(self, work: Path) -> None:
                super().run(work)
                shutil.copytree(elsewhere.path, work.with_name(work.name.removesuffix(".partial")))

        made = opened(root).get(Slow(seed=0, knobs=Knobs()))
        assert (made.path / "marker").read_text() == "first"
        assert not list(made.path.parent.glob("*.partial"))

    def test_two_processes_run_a_stage_once(self, root, diary):
        spawn = multiprocessing.get_context("spawn")
        workers = [spawn.Process(target=get_in_process, args=(root, diary)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0]
        assert runs(diary) == 1


def get_in_process(root, diary):
    opened(root).get(bake(diary, pause=0.5))


class TestVerify:
    def test_a_changed_file(self, root):
        made = opened(root).get(bake())
        file = made.path / "deep" / "rows.jsonl"
        file.write_text('"breax"\n')
        with pytest.raises(
            StoreError, match=re.escape(f"{file} was changed after it was published. Remove {made.path}")
        ):
            opened(root).get(bake())

    @pytest.mark.parametrize("change", [Path.unlink, lambda file: file.write_text("longer than before")])
    def test_a_missing_file_and_one_of_another_size(self, root, change):
        made = opened(root).get(bake())
        change(made.path / "deep" / "rows.jsonl")
        with pytest.raises(StoreError, match=r"rows\.jsonl is not what bread-.* was published with. Remove "):
            opened(root).get(bake())

    def test_a_file_that_was_only_touched_is_fine(self, root):
        made = opened(root).get(bake())
        os.utime(made.path / "dough.txt")
        assert opened(root).get(bake()).hit

    def test_an_input_that_was_made_again_with_other_content(self, root):
        _, sale = both(opened(root))
        store = opened(root, "refresh", ["bake"])
        loaf = store.get(bake(engine="other"))
        with pytest.raises(StoreError, match=r"files that differ: deep/rows\.jsonl") as caught:
            store.get(Sell(seed=0, loaf=loaf))
        assert str(sale.path) in str(caught.value)
        assert str(loaf.path) in str(caught.value)
        assert "store.mode=refresh" in str(caught.value)

    def test_an_input_that_was_made_again_with_the_same_content(self, root, diary):
        loaf, _ = both(opened(root), diary)
        shutil.rmtree(loaf.path)
        loaf, sale = both(opened(root), diary)
        assert (loaf.hit, sale.hit) == (False, True)
        assert runs(diary) == 2

    def test_a_default_that_moved(self, root, monkeypatch):
        """Identity leaves defaults out, so the key stays and only the stored config gives it away."""

        @dataclass(kw_only=True)
        class Knobs(globals()["Knobs"]):
            times: int = 5
            threads: int = field(default=4, metadata=HOW)

        made = opened(root).get(bake())
        moved = Bake(seed=0, knobs=Knobs())
        assert moved.key() == made.key
        with pytest.raises(StoreError, match=r"made with other defaults: knobs\.times was 1, is 5. Set the old"):
            opened(root).get(moved)


class TestRefresh:
    def test_runs_everything_again(self, root, diary):
        both(opened(root), diary)
        store = opened(root, "refresh")
        assert [result.hit for result in both(store, diary)] == [False, False]
        assert runs(diary) == 2

    def test_runs_named_stages_again(self, root, diary):
        both(opened(root), diary)
        assert [result.hit for result in both(opened(root, "refresh", ["sell"]), diary)] == [True, False]
        assert [result.hit for result in both(opened(root, "refresh", ["bake"]), diary)] == [False, True]
        assert runs(diary) == 2

    def test_runs_a_stage_that_is_asked_for_twice_once(self, root, diary):
        store = opened(root, "refresh")
        assert [store.get(bake(diary)).hit for _ in range(2)] == [False, True]
        assert runs(diary) == 1

    def test_goes_on_from_an_interrupted_run(self, root):
        with pytest.raises(RuntimeError):
            opened(root).get(bake(fail=True))
        assert (opened(root, "refresh").get(bake()).path / "journal.jsonl").exists()

    def test_what_is_replaced_stays_until_its_successor_is_whole(self, root, diary):
        made = opened(root).get(bake(diary))
        with pytest.raises(RuntimeError):
            opened(root, "refresh").get(bake(diary, fail=True))
        assert opened(root).get(bake(diary)).hit
        assert not opened(root, "refresh").get(bake(diary)).hit
        assert [p.name for p in made.path.parent.iterdir() if p.is_dir()] == [made.path.name]


class TestOffline:
    def test_takes_what_is_there(self, root):
        both(opened(root))
        assert all(result.hit for result in both(opened(root, "offline")))

    def test_what_is_missing_is_an_error_that_names_the_nearest(self, root, diary):
        made = opened(root).get(bake(diary))
        with pytest.raises(StoreError, match=r"store\.mode=offline, and .*bake.* is not there") as caught:
            opened(root, "offline").get(bake(diary, times=2))
        assert f"nearest is {made.path.name}, differs in config.knobs" in str(caught.value)
        assert runs(diary) == 1


class TestPlan:
    def test_runs_nothing_and_tells_hits_and_misses(self, root, diary):
        both(opened(root), diary)
        store = opened(root, "plan")
        assert [result.hit for result in both(store, diary)] == [True, True]
        assert [result.hit for result in both(store, diary, times=2)] == [False, False]
        assert runs(diary) == 1
        assert len(list(root.glob("*/*/manifest.json"))) == 2

    def test_leaves_an_empty_disk_empty(self, root):
        both(opened(root, "plan"))
        assert not root.exists()

    def test_keys_are_those_of_the_run(self, root):
        planned = both(opened(root, "plan"))
        assert [r.key for r in planned] == [r.key for r in both(opened(root))]

    def test_a_miss_names_the_nearest_result_and_what_differs(self, root):
        for knobs in ({"text": "rolls", "times": 9, "seed": 4}, {"times": 3, "seed": 1}):
            opened(root).get(bake(**knobs))
        store = opened(root, "plan")
        store.get(bake(times=2, seed=1))
        assert re.fullmatch(r"nearest is bread-\w{12}, differs in config\.knobs\.times: 3 -> 2", store.visits[0].why)

    def test_a_miss_without_anything_to_compare(self, root):
        store = opened(root, "plan")
        store.get(bake())
        assert store.visits[0].why == ""

    def test_an_interrupted_stage_is_called_so(self, root):
        with pytest.raises(RuntimeError):
            opened(root).get(bake(fail=True))
        store = opened(root, "plan")
        assert not store.get(bake()).hit
        assert store.visits[0].why == "interrupted: goes on where it stopped"
