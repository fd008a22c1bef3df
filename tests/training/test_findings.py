from training_samples import sentence

from matrix.records import Message
from matrix.training.chat import Renderer
from matrix.training.findings import tinted


def test_trained_tokens_stand_out(tokenizer):
    messages = [Message(role="user", content="A stage"), Message(role="assistant", content="reads\nrows \x1b[31m")]
    sequence = Renderer(tokenizer).sequence(messages)
    plain = tinted(sequence, tokenizer, colour=False).plain
    assert plain.endswith("assistant<|end_header_id|>⏎\n⏎\n⟦reads⏎\nrows �[31m<|eot_id|>⟧")
    coloured = tinted(sequence, tokenizer, colour=True)
    trained = [str(span.style) for span in coloured.spans if "reads" in coloured.plain[span.start : span.end]]
    assert trained == ["bold green"]
    assert "⟦" not in coloured.plain


def test_of_a_long_row_beginning_and_end_are_shown(tokenizer):
    messages = [Message(role="user", content=sentence(0, 400)), Message(role="assistant", content="typed rows")]
    sequence = Renderer(tokenizer).sequence(messages)
    plain = tinted(sequence, tokenizer, colour=False).plain
    assert f"… {len(sequence.ids) - 240:,} tokens …" in plain
    assert plain.startswith("<|begin_of_text|>")
    assert plain.endswith("⟦typed rows<|eot_id|>⟧")
