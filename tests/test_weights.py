"""Reading, renaming, merging and splitting tensors; a model gets all of its own and no other."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tokenreduce.errors import AdapterError
from tokenreduce.weights import load_weights, merge_lora, read_weights, rename, split


def held(**tensors: Tensor) -> dict:
    """Return tensors as they are read, with dots for double underscores in names."""
    return {n.replace("__", "."): partial(Tensor.clone, t) for n, t in tensors.items()}


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "two.safetensors")
    save_file({"stale": torch.zeros(3)}, tmp_path / "three.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    weights = read_weights(tmp_path)
    assert {name: read().tolist() for name, read in weights.items()} == {"a": [1, 1], "b": [0] * 3}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"nothing", r"model\.safetensors: no weights can be read"),
        ("pytorch_model.bin", b"nothing", r"pytorch_model\.bin: no weights can be read"),
        ("model.safetensors.index.json", b"{}", "no index of weights"),
        ("model.safetensors.index.json", b"[1]", "no index of weights"),
        ("notes.txt", b"", r"no \.safetensors and no \.bin file"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AdapterError, match=message):
        read_weights(tmp_path)


def test_code_in_a_bin_file_is_not_run(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple:
            return (Path.write_text, (tmp_path / "was_run", "yes"))

    torch.save({"a": Runs()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(AdapterError, match="no weights can be read"):
        read_weights(tmp_path)
    assert not (tmp_path / "was_run").exists()


def test_rules_apply_in_order_and_two_names_never_become_one() -> None:
    weights = held(model__norm=torch.ones(1), head=torch.zeros(1))
    rules = [(r"^model\.", "lm.model."), (r"^head$", "lm.head")]
    assert list(rename(weights, rules)) == ["lm.model.norm", "lm.head"]
    with pytest.raises(AdapterError, match=r"both 'model\.norm' and 'head'"):
        rename(weights, [(r"^.*$", "same")])


def test_updates_by_hand() -> None:
    weights = held(
        q__base_layer__weight=torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        q__base_layer__bias=torch.tensor([5.0, 6.0]),
        q__lora_A__default__weight=torch.tensor([[1.0, 0.0], [0.0, 2.0]]),
        q__lora_B__default__weight=torch.tensor([[10.0, 20.0], [30.0, 40.0]]),
        k__weight=torch.zeros(2),
    )
    merged = merge_lora(weights, alpha=1)
    assert sorted(merged) == ["k.weight", "q.bias", "q.weight"]
    # B @ A = [[10, 40], [30, 80]], times 1 / 2.
    assert merged["q.weight"]().tolist() == [[6.0, 22.0], [18.0, 44.0]]


def test_updates_of_half_precision_are_added_in_full() -> None:
    """1 + 2^-9 is not a bfloat16: 256 updates of 2^-9 / 256 would vanish one by one."""
    weights = held(
        q__base_layer__weight=torch.ones(1, 1, dtype=torch.bfloat16),
        q__lora_A__default__weight=torch.full((1, 1), 2.0**-5, dtype=torch.bfloat16),
        q__lora_B__default__weight=torch.full((1, 1), 2.0**-4, dtype=torch.bfloat16),
    )
    assert merge_lora(weights, alpha=1)["q.weight"]().item() == 1 + 2.0**-9


def test_an_update_that_does_not_fit_its_matrix_is_named() -> None:
    """Shapes that multiply are not enough: a row would be added to every row."""
    base = {
        "q__base_layer__weight": torch.ones(2, 3),
        "q__lora_A__default__weight": torch.ones(1, 3),
    }
    for up in (torch.ones(1, 1), torch.ones(2, 2)):
        weights = held(**base, q__lora_B__default__weight=up)
        with pytest.raises(AdapterError, match=r"'q' is \[2, 3\], and its update is"):
            merge_lora(weights, alpha=1)["q.weight"]()


@pytest.mark.parametrize(
    "gone", ["q.base_layer.weight", "q.lora_A.default.weight", "q.lora_B.default.weight"]
)
def test_half_an_update_is_named(gone: str) -> None:
    weights = held(
        q__base_layer__weight=torch.ones(2, 2),
        q__lora_A__default__weight=torch.ones(1, 2),
        q__lora_B__default__weight=torch.ones(2, 1),
    )
    del weights[gone]
    with pytest.raises(AdapterError, match=gone.replace(".", r"\.")):
        merge_lora(weights, alpha=4)


def test_fused_tensors_are_cut_along_rows() -> None:
    weights = held(attn__qkv__weight=torch.arange(12.0).view(6, 2), norm=torch.ones(1))
    parts = split(weights, r"qkv", ["q", "k", "v"])
    assert sorted(parts) == ["attn.k.weight", "attn.q.weight", "attn.v.weight", "norm"]
    assert parts["attn.k.weight"]().tolist() == [[4.0, 5.0], [6.0, 7.0]]
    uneven = split(held(qkv=torch.ones(7)), r"qkv", ["q", "k", "v"])
    with pytest.raises(AdapterError, match="'qkv' has 7 rows"):
        uneven["q"]()


def test_a_model_gets_all_of_its_own_and_nothing_else() -> None:
    model, where = nn.Linear(2, 1), Path("folder")
    weights = held(weight=torch.tensor([[3.0, 4.0]]), bias=torch.tensor([5.0]))
    load_weights(model, weights, where)
    assert (model.weight.tolist(), model.bias.tolist()) == ([[3.0, 4.0]], [5.0])
    assert model.weight.requires_grad
    extra = {**weights, "rotary_emb.inv_freq": weights["bias"]}
    load_weights(model, extra, where)
    with pytest.raises(
        AdapterError, match=r"hold 1 tensors .* the first is 'rotary_emb\.inv_freq'"
    ):
        load_weights(model, extra, where, allowed=())
    with pytest.raises(AdapterError, match=r"folder: the weights lack 1 .* the first is 'bias'"):
        load_weights(model, {"weight": weights["weight"]}, where)
    with pytest.raises(AdapterError, match=r"'bias' is \[2\] in the weights and \[1\]"):
        load_weights(model, {**weights, **held(bias=torch.ones(2))}, where)


def test_every_message_names_tensors_as_the_checkpoint_does() -> None:
    model = nn.Linear(2, 1)
    rules = {"rules": [(r"^old/", "")], "published": [(r"^", "old/")]}
    weights = held(**{"old/weight": torch.tensor([[3.0, 4.0]]), "old/bias": torch.tensor([5.0])})
    load_weights(model, weights, Path("folder"), **rules)
    assert (model.weight.tolist(), model.bias.tolist()) == ([[3.0, 4.0]], [5.0])
    for change, message in (
        ({"old/bias": None}, r"lack 1 .* 'old/bias'"),
        ({"old/extra": torch.ones(1)}, r"hold 1 tensors .* 'old/extra'"),
        ({"new/extra": torch.ones(1)}, r"hold 1 tensors .* 'new/extra'"),
        ({"old/bias": torch.ones(2)}, r"'old/bias' is \[2\] in the weights and \[1\]"),
    ):
        wrong = weights | {
            n: None if t is None else partial(Tensor.clone, t) for n, t in change.items()
        }
        with pytest.raises(AdapterError, match=message):
            load_weights(model, {n: r for n, r in wrong.items() if r}, Path("folder"), **rules)


def test_a_head_that_is_the_embedding_need_not_be_stored() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    source, target = Qwen2ForCausalLM(config), Qwen2ForCausalLM(config)
    stored = {n: partial(Tensor.clone, t) for n, t in source.state_dict().items()}
    del stored["lm_head.weight"]
    load_weights(target, stored, Path("folder"))
    assert torch.equal(target.lm_head.weight, source.lm_head.weight)
    del stored["model.embed_tokens.weight"]
    with pytest.raises(AdapterError, match=r"lack 2 .* 'lm_head\.weight'"):
        load_weights(target, stored, Path("folder"))
