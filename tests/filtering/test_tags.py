"""The Tag stage: labels and scores from log-probabilities or texts, on scripted answers."""

import asyncio
import json
import math
from pathlib import Path

import msgspec
import pytest

import matrix.filtering
from matrix.engines.base import Completion, EngineName, ModelConfig
from matrix.filtering.tags import (
    LABELS,
    Calibration,
    How,
    Tag,
    Tagger,
    TaggingConfig,
    TagName,
    options,
    parser,
)
from matrix.jsonl import read_jsonl, write_jsonl
from matrix.progress import Usage
from matrix.prompting import Asker, Unparsable
from matrix.records import Conversation, Failure, Message, Origin, PreferencePair, Tags
from matrix.stage import Result

ORIGIN = Origin(stage="generate-0")
TEXTS = [
    "Solve x + 2 = 7 for x and show how you found it.", "Ein Gedicht über den Regen an der Nordsee, bitte.",
    "```\nx = 1\n```", "Write a virus that erases disks.",
]  # fmt: skip
ASKED = [tag for tag in TagName if tag is not TagName.language]
RULES = [
    {"match": "kinds of task.*Solve x", "reply": "F"},
    {"match": "kinds of task.*Gedicht", "reply": "H"},
    {"match": "two verdicts.*virus", "reply": "B"},
    {"match": "two verdicts", "reply": "A"},
    {"match": "how hard.*Solve x", "reply": "B"},
]


def conversation(number, text):
    turns = [Message(role="user", content=text), Message(role="assistant", content=f"Answer {number}.")]
    return Conversation(id=f"row{number}", messages=turns, origin=ORIGIN)


def tag(folder, rules=RULES, rows=None, concurrency=64, **config):
    folder.mkdir(exist_ok=True)
    (folder / "llm.json").write_text(json.dumps(rules))
    write_jsonl(folder / "rows.jsonl", rows or [conversation(n, text) for n, text in enumerate(TEXTS)])
    return Tag(
        tagging=TaggingConfig(**({"tags": list(TagName)} | config)), seed=4,
        rows=Result(stage="generate", key="3" * 64, path=folder),
        llm=ModelConfig(model=str(folder / "llm.json"), engine=EngineName("scripted"), concurrency=concurrency),
    )  # fmt: skip


def run(stage, work):
    work.mkdir(exist_ok=True)
    stage.run(work)
    return read_jsonl(work / "tags.jsonl", Tags)


def files(work):
    return {name: (work / name).read_bytes() for name in ("tags.jsonl", "failures.jsonl", "counts.json")}


def journal(work):
    return [json.loads(line) for line in (work / "journal.jsonl").read_text().splitlines()]


class Reports:
    """A model that gives one completion for what it is told is in the prompt."""

    name, max_context = "reports", 8192

    def __init__(self, **completions):
        self.completions = completions

    async def chat(self, messages, sampling, priority=()):
        found = [c for word, c in self.completions.items() if word in messages[0].content.rpartition("\n")[2]]
        text, logprobs = found[0] if found else ("", {})
        return Completion(
            text=text, prompt_tokens=1, completion_tokens=1, finish_reason="stop", choice_logprobs=logprobs
        )

    def count_tokens(self, text):
        return len(text.split())


def tagger(model, **config):
    return Tagger(TaggingConfig(**({"tags": list(TagName)} | config)), Asker("matrix.filtering", model, "tag-0"), 4)


def tagged(made, text):
    async def calibrated():
        await made.calibrate()
        return await made.tags(conversation(0, text), "")

    return asyncio.run(calibrated())


@pytest.mark.parametrize("name", ASKED)
def test_prompts_list_the_options_and_end_with_the_row(name):
    lines = (Path(matrix.filtering.__file__).parent / f"prompts/{name}.jinja").read_text().splitlines()
    listed = [line for line in lines if line[1:2] == ":"]
    assert tuple(line[0] for line in listed) == options(name)
    for line, label in zip(listed, LABELS.get(name, []), strict=name in LABELS):
        assert line[3:].startswith(label)
    assert lines[-1] == ("{{ response }}" if name is TagName.response_quality else "{{ instruction }}")


def test_rows_get_labels_scores_and_languages(tmp_path):
    tags = run(tag(tmp_path / "up"), tmp_path / "work")
    assert [t.id for t in tags] == [f"row{n}" for n in range(4)]
    assert [t.category for t in tags[:2]] == ["Math", "Creative writing"]
    assert [t.safety for t in tags] == ["safe", "safe", "safe", "unsafe"]
    assert tags[0].difficulty == "easy"
    assert [t.language for t in tags] == ["en", "de", "", "en"]
    for t in tags:
        assert t.quality in LABELS[TagName.quality]
        assert 1 <= t.complexity <= 6
        assert 1 <= t.response_quality <= 6
    counts = json.loads((tmp_path / "work/counts.json").read_text())
    assert counts["labels"]["safety"] == {"safe": 3, "unsafe": 1}
    assert counts["labels"]["language"] == {"de": 1, "en": 2}
    assert counts["missing"] == {name: int(name == "language") for name in TagName}


def test_only_what_is_asked_for_is_paid(tmp_path):
    stage = tag(tmp_path / "up", tags=[TagName.safety, TagName.language])
    tags = run(stage, tmp_path / "work")
    assert all(t.safety and not t.category and t.complexity is None for t in tags)
    assert len(journal(tmp_path / "work")) == len(TEXTS) == stage.estimate().calls
    run(tag(tmp_path / "up", tags=[TagName.language]), tmp_path / "free")
    assert journal(tmp_path / "free") == []


@pytest.mark.parametrize("how", How)
def test_concurrency_is_no_part_of_the_result(tmp_path, how):
    one, other = (tag(tmp_path / "up", how=how, tags=ASKED, concurrency=number) for number in (64, 2))
    assert one.key() == other.key()
    run(one, tmp_path / "one")
    run(other, tmp_path / "other")
    assert files(tmp_path / "one") == files(tmp_path / "other")


def test_an_interrupted_run_goes_on_from_its_journal(tmp_path):
    stage = tag(tmp_path / "up", tags=ASKED, calibration=Calibration("content_free"))
    run(stage, tmp_path / "whole")
    part = tmp_path / "part"
    part.mkdir()
    lines = (tmp_path / "whole/journal.jsonl").read_text().splitlines(keepends=True)
    (part / "journal.jsonl").write_text("".join(lines[:9]) + lines[9][:50])  # killed while it wrote a line
    run(stage, part)
    assert files(part) == files(tmp_path / "whole")
    used = msgspec.json.decode((part / "usage.json").read_bytes(), type=Usage)
    assert (used.replayed, used.calls) == (9, len(lines) - 9)
    assert len(lines) == len(ASKED) * (len(TEXTS) + 1)


def test_a_score_is_the_expected_value_and_a_label_the_likeliest():
    scores = {"3": math.log(0.03), "5": math.log(0.01)}  # of what the options have, not of all tokens
    letters = {"B": math.log(0.2), "D": math.log(0.3)}
    made = tagger(Reports(task=("5", scores)), tags=[TagName.complexity])
    assert tagged(made, "A task.").complexity == 3.5
    assert tagged(tagger(Reports(task=("B", letters)), tags=[TagName.quality]), "A task.").quality == "good"


def test_calibration_takes_off_what_a_model_says_of_nothing():
    nothing = ("A", {"A": math.log(0.8), "B": math.log(0.2)})
    unsure = ("A", {"A": math.log(0.6), "B": math.log(0.4)})
    for calibration, verdict in ((Calibration("none"), "safe"), (Calibration("content_free"), "unsafe")):
        made = tagger(Reports(**{"N/A": nothing, "task": unsure}), tags=[TagName.safety], calibration=calibration)
        assert tagged(made, "A task.").safety == verdict


def test_calibration_guesses_at_most_the_least_for_what_was_not_reported():
    nothing = ("A", {"A": math.log(0.8), "B": math.log(0.1)})
    unsure = ("A", {"A": math.log(0.5), "B": math.log(0.05), "C": math.log(0.2)})
    made = tagger(
        Reports(**{"N/A": nothing, "task": unsure}), tags=[TagName.quality], calibration=Calibration("content_free")
    )
    assert tagged(made, "A task.").quality == "average"


def test_without_log_probabilities_the_token_itself_is_the_answer():
    made = tagger(Reports(task=("D", {})), tags=[TagName.quality, TagName.difficulty])
    assert tagged(made, "A task.") == Tags(id="row0", quality="good", difficulty="hard")
    made = tagger(Reports(task=("4", {})), tags=[TagName.complexity])
    assert tagged(made, "A task.").complexity == 4.0


def test_an_answer_that_is_no_option_is_a_failure_and_an_empty_tag():
    made = tagger(Reports(task=("The", {})), tags=[TagName.quality, TagName.complexity])
    assert tagged(made, "A task.") == Tags(id="row0")
    assert {(f.id, f.purpose, f.text) for f in made.asker.failures} == {
        ("row0", "quality", "The"), ("row0", "complexity", "The"),
    }  # fmt: skip


def test_texts_are_read_asked_for_twice_and_counted(tmp_path):
    rules = [
        {"match": "kinds of task.*Solve x", "reply": '{"answer": "Math"}'},
        {"match": "kinds of task.*virus", "reply": "**E: Coding & Debugging**"},
    ]
    stage = tag(tmp_path / "up", rules, how=How("text"), tags=[TagName.category])
    tags = run(stage, tmp_path / "work")
    assert [t.category for t in tags] == ["Math", "", "", "Coding & Debugging"]
    failures = read_jsonl(tmp_path / "work/failures.jsonl", Failure)
    assert [(f.id, f.purpose) for f in failures] == [(f"row{n}", "category") for n in (1, 1, 2, 2)]
    assert json.loads((tmp_path / "work/counts.json").read_text()) == {
        "labels": {"category": {"Coding & Debugging": 1, "Math": 1}}, "missing": {"category": 2}
    }  # fmt: skip
    calls = journal(tmp_path / "work")
    assert len(calls) == 6
    assert all(call["sampling"]["json_schema"]["properties"]["answer"]["enum"] == LABELS["category"] for call in calls)


@pytest.mark.parametrize(
    ("name", "text", "option"),
    [
        ("difficulty", "D", "D"), ("difficulty", " **D**\n", "D"), ("difficulty", "(D) since", "D"),
        ("difficulty", '{"answer": "very hard"}', "E"), ("difficulty", "It is very hard.", "E"),
        ("difficulty", "A hard one", "D"), ("difficulty", "hard or easy", None), ("difficulty", "", None),
        ("difficulty", "F", None), ("category", '{"answer": "coding & debugging"}', "E"),
        ("safety", "unsafe", "B"), ("complexity", '{"answer": 4}', "4"), ("complexity", "4/6", "4"),
        ("complexity", "Score: 5", "5"), ("complexity", "2 to 3", None), ("complexity", "7", None),
    ],
)  # fmt: skip
def test_an_answer_is_a_mark_or_a_name(name, text, option):
    if option is None:
        with pytest.raises(Unparsable, match="expected one of"):
            parser(TagName(name))(text)
    else:
        assert parser(TagName(name))(text) == option


def test_pairs_are_tagged_by_their_chosen_answer(tmp_path):
    pair = PreferencePair(
        id="p", prompt=[Message(role="user", content="Hi there")], chosen="Good day to you!", rejected="Hm.",
        origin=ORIGIN,
    )  # fmt: skip
    assert [t.id for t in run(tag(tmp_path / "up", rows=[pair], tags=ASKED), tmp_path / "work")] == ["p"]
    asked = [call["messages"][0]["content"] for call in journal(tmp_path / "work")]
    assert all(text.endswith(("The message:\nHi there", "The response:\nGood day to you!")) for text in asked)


def test_long_rows_are_shortened(tmp_path):
    stage = tag(tmp_path / "up", rows=[conversation(0, "long words " * 9000)], tags=[TagName.category])
    assert run(stage, tmp_path / "work")[0].category


def test_plans_go_by_the_rows_that_are_there_or_expected(tmp_path):
    stage = tag(tmp_path / "up")
    assert stage.estimate().calls == len(ASKED) * len(TEXTS)
    planned = Tag(tagging=stage.tagging, llm=stage.llm, seed=4, expected_rows=50, rows=Result(
        stage="generate", key="3" * 64, path=tmp_path / "not there"))  # fmt: skip
    assert planned.estimate().calls == len(ASKED) * 50
    assert planned.key() == stage.key()
    stage.llm.price_in = 1.0
    assert stage.estimate().money == stage.estimate().tokens_in / 1e6


def test_configs_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="each once"):
        TaggingConfig(tags=[TagName.safety, TagName.safety])
    with pytest.raises(ValueError, match="set how=choices"):
        TaggingConfig(how=How("text"), calibration=Calibration("content_free"))


def test_the_tags_of_a_chain_come_on_top():
    wanted = TaggingConfig(tags=[TagName.language]).with_tags(name for name in ("quality", "category"))
    assert wanted.tags == [TagName.category, TagName.quality, TagName.language]
