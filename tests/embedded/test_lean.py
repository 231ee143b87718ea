"""The lean training forward equals the Hugging Face class, packed questions equal separate ones."""

import pytest
import torch

from tokenreduce.embedded import lean, recipe
from tokenreduce.embedded.architecture import build_model
from tokenreduce.embedded.clips import SIZE, Stream, make_clips
from tokenreduce.embedded.export import build_tokenizer
from tokenreduce.embedded.questions import PREFIX, VIDEO, VOCABULARY, WORD_ID, ask


@pytest.fixture(scope="module")
def model():
    model = build_model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # large weights: every path matters in the output
            scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.2
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return model


def test_packed_questions_give_the_logits_of_the_hugging_face_class(model):
    stream = Stream(3, 1)
    clips = make_clips(2, 4, stream)
    asked = ask(clips, stream)
    pixels = recipe.to_pixels(torch.from_numpy(clips.pixels).flatten(0, 1), torch.float32)
    weights = model.state_dict()
    with torch.no_grad():
        tokens = lean.vision(weights, pixels).view(2, 64, -1)
        words = torch.from_numpy(asked.tokens)
        hidden, _, _ = lean.decode(weights, lean.prefix(weights, tokens), words)
        packed = lean.logits(weights, hidden)
        start = [WORD_ID[w] for w in PREFIX] + [WORD_ID[VIDEO]] * 65
        for clip in range(2):
            videos = pixels.view(2, 4, 3, SIZE, SIZE)[clip : clip + 1]
            for question in range(0, len(asked.categories), 3):
                end = int(asked.answer_at[clip, question]) + 1
                ids = torch.tensor([start + asked.tokens[clip, question, :end].tolist()])
                alone = model(input_ids=ids, pixel_values_videos=videos).logits[0, -end:]
                torch.testing.assert_close(packed[clip, question, :end], alone, atol=1e-4, rtol=0)


def test_late_fusion_hides_the_video_below_the_layer_only(model):
    weights = model.state_dict()
    words = torch.from_numpy(ask(make_clips(1, 4, Stream(4)), Stream(5)).tokens)
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, 1, 64, 128, generator=generator)
    with torch.no_grad():
        blind = [
            lean.decode(weights, lean.prefix(weights, t), words, blind_below=14)[0]
            for t in (one, other)
        ]
        seeing = [
            lean.decode(weights, lean.prefix(weights, t), words, blind_below=6)[0]
            for t in (one, other)
        ]
    torch.testing.assert_close(blind[0], blind[1])
    assert (seeing[0] - seeing[1]).abs().max() > 1e-2


def test_removed_tokens_do_not_change_what_comes_after_that_layer(model):
    weights = model.state_dict()
    words = torch.from_numpy(ask(make_clips(1, 4, Stream(4)), Stream(5)).tokens)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(1, 64, 128, generator=generator)
    changed = tokens.clone()
    changed[:, 10:20] += 1.0
    gone = torch.zeros(1, 67, dtype=torch.bool)
    gone[:, 12:22] = True  # two system words come first
    with torch.no_grad():
        a, b = (
            lean.decode(weights, lean.prefix(weights, t), words, removed=(-1, gone))[0]
            for t in (tokens, changed)
        )
    torch.testing.assert_close(a, b)


def test_the_codec_filter_is_what_enlarging_and_bicubic_resizing_do():
    frames = torch.from_numpy(make_clips(1, 1, Stream(6)).pixels[0])
    large = frames.repeat_interleave(4, 1).repeat_interleave(4, 2).permute(0, 3, 1, 2)
    back = torch.nn.functional.interpolate(large, (64, 64), mode="bicubic", antialias=True)
    mine = recipe.to_pixels(frames, torch.float32) * 127.5 + 127.5
    apart = (mine - back.float()).abs()  # torch rounds after each of the two directions
    assert apart.max() <= 3.01
    assert apart.mean() < 0.5


def test_the_chat_template_gives_the_prompt_of_training():
    tokenizer = build_tokenizer()
    content = [{"type": "video"}, {"type": "text", "text": "What color is the circle?"}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert [VOCABULARY[i] for i in ids] == [
        *PREFIX,
        VIDEO,
        *["what", "color", "is", "the", "circle", "<|im_end|>", "assistant"],
    ]
    assert tokenizer("the unheard circle").input_ids[1] == tokenizer.unk_token_id
    assert (
        tokenizer.decode([WORD_ID["red"], WORD_ID["<|im_end|>"]], skip_special_tokens=True) == "red"
    )
