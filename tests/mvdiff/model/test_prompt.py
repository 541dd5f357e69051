"""The prompt: encoded once, learned, or with a word whose row alone is trained."""

from dataclasses import replace

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from mvdiff.errors import InputError
from mvdiff.model.build import create
from mvdiff.model.folder import load, save
from tests.mvdiff.model.conftest import large_batch, smooth_picture

WORD_TEXT = "a [MOUSE] on white ground"


def encoded(folder, text):
    """float [77, width], by transformers alone."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    model = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    ids = tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        return model(ids).last_hidden_state[0]


def test_a_text_is_encoded_once_and_kept(start, zero123plus, tmp_path):
    model = start(prompt_text="a small brown mouse")
    expected = encoded(zero123plus, "a small brown mouse")
    assert torch.allclose(model.context.prompt, expected, atol=1e-5)
    assert torch.allclose(model.context.empty_prompt, encoded(zero123plus, ""), atol=1e-5)
    assert not model.context.prompt.requires_grad
    save(model, tmp_path / "saved")
    assert not (tmp_path / "saved" / "text_encoder").exists()
    assert torch.equal(load(tmp_path / "saved").context.prompt, model.context.prompt)


def test_another_prompt_is_another_context(start):
    one, other = start(prompt_text="a mouse"), start(prompt_text="a teapot")
    batch = large_batch(one)
    with torch.no_grad():
        assert (one(batch) - other(batch)).abs().max() > 1e-4


def test_a_prompt_that_is_too_long_is_refused(start):
    with pytest.raises(InputError, match=r"prompt takes \d+ tokens.*77"):
        start(prompt_text="unforgettable" * 20)
    with pytest.raises(InputError, match=r"prompt_text=.*75 words"):
        start(prompt_text="mouse " * 76)


def test_the_stored_prompt_says_what_it_is_of(start, large, tmp_path):
    model = start(prompt="token", prompt_text=WORD_TEXT)
    save(model, tmp_path / "saved")
    again = create(large(tmp_path / "saved", pretrained_rig=None), [smooth_picture(0)[None]], 0)
    assert again.context.config["text"] == WORD_TEXT and again.context.config["learned"]
    assert not start().context.config["learned"]


def test_a_learnable_prompt_starts_at_its_text_and_learns(start, zero123plus):
    model = start(prompt="learnable")
    assert torch.allclose(model.context.prompt, encoded(zero123plus, model.settings.prompt_text), atol=1e-5)
    model(large_batch(model)).mean().backward()
    assert model.context.prompt.grad.abs().max() > 0


def test_of_a_new_word_only_the_row_is_trained(start):
    model = start(prompt="token", prompt_text=WORD_TEXT)
    before = {name: value.clone() for name, value in model.word.text_encoder.state_dict().items()}
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad and "word" in name]
    assert trained == ["word.row"]
    optimizer = torch.optim.SGD([model.word.row], lr=1.0)
    model(large_batch(model)).mean().backward()
    assert model.word.row.grad.abs().max() > 0
    row = model.word.row.detach().clone()
    optimizer.step()
    assert not torch.equal(model.word.row, row)
    assert all(torch.equal(value, before[name]) for name, value in model.word.text_encoder.state_dict().items())


def test_a_new_word_starts_as_a_mouse(start, zero123plus):
    word = start(prompt="token", prompt_text=WORD_TEXT).word
    table = word.text_encoder.get_input_embeddings().weight
    tokens = CLIPTokenizer.from_pretrained(zero123plus / "tokenizer")("mouse", add_special_tokens=False).input_ids
    assert torch.allclose(word.row, table[tokens].mean(0))
    assert word().shape == (77, table.shape[1])
    assert word.place.sum() == 1


def test_the_trained_word_is_published_as_a_plain_prompt(start, tmp_path):
    model = start(prompt="token", prompt_text=WORD_TEXT)
    with torch.no_grad():
        before = model.word()
        model.word.row += torch.randn(model.word.row.shape, generator=torch.Generator().manual_seed(0))
        expected = model.word()
        assert (expected - before).abs().max() > 1e-2
    save(model, tmp_path / "saved")
    loaded = load(tmp_path / "saved").eval()
    assert loaded.word is None
    assert torch.allclose(loaded.context.prompt, expected)
    batch = large_batch(model)
    with torch.no_grad():
        assert torch.allclose(loaded(batch), model.eval()(batch), atol=1e-5)


def test_twins_train_words_of_their_own(start):
    model = start(prompt="token", prompt_text=WORD_TEXT)
    twin = model.twin()
    with torch.no_grad():
        twin.word.row += torch.randn(twin.word.row.shape, generator=torch.Generator().manual_seed(0))
        assert (twin.word() - model.word()).abs().max() > 1e-3
    assert twin.word.text_encoder.get_input_embeddings().weight is model.word.text_encoder.get_input_embeddings().weight


def test_conditions_are_dropped_sample_by_sample(start):
    model = start()
    batch = replace(large_batch(model, samples=3), dropped=torch.tensor([False, True, False]))
    other = replace(batch, reference=255 - batch.reference, glance=255 - batch.glance)
    with torch.no_grad():
        before, after = model(batch), model(other)
    assert torch.allclose(before[1], after[1], atol=1e-6)
    assert (before - after).abs()[[0, 2]].min() > 1e-5
