"""The forward pass of Llama and Qwen2: grouped-query attention and a gated MLP.

Letters: T tokens, H hidden width, A query heads, K key heads, W head width, M = A / K queries per
key head, I MLP width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .cache import Cache, Heads, Step
from .model import LeanModel, NotLean, folded, interleave_halves, norm, stored, turn

ONE_GROUP_WIDTH = 256
"""Up to this many floats, the keys of all heads lie side by side and one product over a block
diagonal of queries serves all heads: the multiplications by zero cost less than more products."""


@dataclass(frozen=True, slots=True)
class Block:
    """One layer. `w_in` yields queries, keys and values of all heads, `w_up` gates and ups."""

    w_in: Tensor
    b_in: Tensor | None
    w_out: Tensor
    b_out: Tensor | None
    w_up: Tensor
    b_up: Tensor | None
    w_down: Tensor
    b_down: Tensor | None


class LlamaLean(LeanModel):
    """The weights of a LlamaForCausalLM or Qwen2ForCausalLM, folded for decoding.

    Raises:
        NotLean: sliding windows, partial or length-dependent rotation, another activation.
    """

    def __init__(self, model: Any, *, dtype: torch.dtype, length: int) -> None:
        super().__init__(model, dtype=dtype, length=length)
        config = model.config
        if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
            raise NotLean("sliding-window attention")
        first = model.model.layers[0].self_attn
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = first.head_dim
        if 2 * self.turns_LF.shape[1] != self.width:
            raise NotLean("a rotation of only a part of each head")
        self.one_group = self.key_heads * self.width <= ONE_GROUP_WIDTH
        self.blocks = [self._block(layer) for layer in model.model.layers]

    def _block(self, layer: Any) -> Block:
        source, mlp = layer.self_attn, layer.mlp
        before, between = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        scale = source.scaling * self.turn_scale**2
        parts, biases = [], []
        for linear, factor, is_turned in (
            (source.q_proj, scale, True),
            (source.k_proj, 1.0, True),
            (source.v_proj, 1.0, False),
        ):
            weight = folded(linear, before) * factor
            bias = weight.new_zeros(weight.shape[1])
            if linear.bias is not None:
                bias = linear.bias.detach().double() * factor
            parts.append(self._pair(weight) if is_turned else weight)
            biases.append(self._pair(bias) if is_turned else bias)
        has_bias = any(p.bias is not None for p in (source.q_proj, source.k_proj, source.v_proj))
        up_bias = None
        if mlp.gate_proj.bias is not None:
            up_bias = torch.cat([mlp.gate_proj.bias.detach(), mlp.up_proj.bias.detach()])
        return Block(
            w_in=self._stored(torch.cat(parts, dim=1)),
            b_in=self._stored(torch.cat(biases)) if has_bias else None,
            w_out=self._stored(folded(source.o_proj)),
            b_out=self._bias(source.o_proj),
            w_up=self._stored(
                torch.cat([folded(mlp.gate_proj, between), folded(mlp.up_proj, between)], dim=1)
            ),
            b_up=None if up_bias is None else self._stored(up_bias),
            w_down=self._stored(folded(mlp.down_proj)),
            b_down=self._bias(mlp.down_proj),
        )

    def _stored(self, weight: Tensor) -> Tensor:
        return stored(weight, self.dtype)

    def _bias(self, linear: Any) -> Tensor | None:
        return None if linear.bias is None else self._stored(linear.bias.detach())

    def _pair(self, weight: Tensor) -> Tensor:
        """Put the columns of each head that rotate together side by side."""
        by_head = weight.unflatten(-1, (-1, self.width))
        return interleave_halves(by_head, self.width).flatten(-2)

    def new_cache(self, rows: int) -> Cache:
        groups = 1 if self.one_group else self.key_heads
        width = self.width * self.key_heads // groups
        heads = Heads(groups, self.heads // groups, width, width)
        return Cache(len(self.blocks), heads, rows, self.dtype, self.embedding_VH.device)

    def hidden(self, cache: Cache, step: Step, tokens_T: Tensor) -> Tensor | None:
        x_TH = self.embedding_VH.index_select(0, tokens_T)
        turns_T1F = self.turns_LF.index_select(0, step.positions_T)[:, None]
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            queries = self._fill(cache, step, index, block, x_TH, turns_T1F)
            if index == last and step.rows_U is not None:
                return None  # a prompt's outputs are not wanted, only its keys and values
            mixed_TX = self._mix(cache.attend(index, step, queries), step)
            add_product(x_TH, mixed_TX, block.w_out, block.b_out)
            both_TX = product(norm(x_TH, self.eps), block.w_up, block.b_up)
            wide = block.w_down.shape[0]
            inner_TI = F.silu(both_TX[:, :wide]).mul_(both_TX[:, wide:])
            add_product(x_TH, inner_TI, block.w_down, block.b_down)
        return x_TH

    def _fill(
        self, cache: Cache, step: Step, index: int, block: Block, x_TH: Tensor, turns_T1F: Tensor
    ) -> Tensor:
        """Write the layer's keys and values; return its queries as `Cache.attend` wants them."""
        both = product(norm(x_TH, self.eps), block.w_in, block.b_in)
        turned = (self.heads + self.key_heads) * self.width
        turn(both[:, :turned].unflatten(1, (-1, self.width)), turns_T1F)
        keys, values = both[:, self.heads * self.width : turned], both[:, turned:]
        query = both[:, : self.heads * self.width]
        if not self.one_group:
            keys, values = keys.reshape(-1, self.width), values.reshape(-1, self.width)
        cache.write(index, step, keys, values)
        repeats = self.heads // self.key_heads
        query_TKMW = query.unflatten(1, (self.key_heads, repeats, self.width))
        if self.one_group:
            queries = cache.scratch_queries(len(x_TH))
            self._own_blocks(queries, repeats).copy_(query_TKMW)
            return queries.view(-1, step.chunk * self.heads, queries.shape[-1])
        by_unit: Tensor = query_TKMW.unflatten(0, (-1, step.chunk)).transpose(1, 2)
        return by_unit.reshape(-1, step.chunk * repeats, self.width)

    def _own_blocks(self, wide_TAX: Tensor, repeats: int) -> Tensor:
        """The blocks (T, K, M, W) on the diagonal of (T, A, K * W)."""
        num, heads, width = wide_TAX.shape
        strides = (heads * width, repeats * width + self.width, width, 1)
        return wide_TAX.as_strided((num, self.key_heads, repeats, self.width), strides)

    def _mix(self, attended: Tensor, step: Step) -> Tensor:
        """What each head attended to, (T, A * W)."""
        repeats = self.heads // self.key_heads
        if self.one_group:
            wide = attended.view(-1, self.heads, attended.shape[-1])
            return self._own_blocks(wide, repeats).reshape(len(wide), -1)
        by_unit = attended.view(-1, self.key_heads, step.chunk, repeats * self.width)
        return by_unit.transpose(1, 2).reshape(-1, self.heads * self.width)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight, plus the bias where there is one."""
    return x @ weight if bias is None else torch.addmm(bias, x, weight)


def add_product(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Add x @ weight, and the bias where there is one, to `out` in place."""
    out.addmm_(x, weight)
    if bias is not None:
        out.add_(bias)
