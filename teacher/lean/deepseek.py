"""DeepSeek-V3's forward pass for models with few heads and few experts.

Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1) is stored in one of two
ways, whichever keeps fewer floats per token. A small model has few heads: their keys and values
together are shorter than the latent they are unfolded from (320 against 576 for tiny-r1, which
also needs 8 times fewer operations), so they are cached. With many heads the latent itself is
cached and the unfolding is absorbed into queries and outputs.

All experts are computed for all tokens, in one product, and weighted with the router's weights,
which are zero for the experts not chosen: at a batch of 32, one product at full speed beats sixteen
small ones, and its shape never changes.

Letters: T tokens, H hidden width, A heads, Q query rank, K latent width, N and R the widths of a
head's unrotated and rotated key, V of its value, E experts, I expert width, G expert groups.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .cache import Cache, Heads, Step
from .model import LeanModel, NotLean, folded, interleave_halves, norm, stored, turn

MAX_EXPERTS = 32
"""Above this, computing every expert for every token costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Attention:
    """One layer's attention. `w_in` yields, side by side: query latent (Q, or the queries
    themselves), norm part, rotated key (R), and the unfolded keys and values (A * N, A * V) where
    those are folded into it. The norm part has the latent's length: it is the latent itself, or a
    shorter vector of the same length.
    """

    w_in: Tensor
    b_in: Tensor | None
    w_query: Tensor | None
    w_unfold: Tensor | None
    up_key_ANK: Tensor | None
    up_value_AKV: Tensor | None
    w_out: Tensor
    b_out: Tensor | None


@dataclass(frozen=True, slots=True)
class Mlp:
    """One layer's feed-forward part. `w_in` yields gates, ups, and the router's logits if any."""

    w_in: Tensor
    w_out: Tensor
    router_bias_E: Tensor | None


class DeepseekLean(LeanModel):
    """The weights of a DeepseekV3ForCausalLM, folded for decoding.

    Args:
        absorbed: cache the latent; None: whichever is shorter.

    Raises:
        NotLean: more experts than `MAX_EXPERTS`, or a variant that is not handled here.
    """

    def __init__(
        self, model: Any, *, dtype: torch.dtype, length: int, absorbed: bool | None = None
    ) -> None:
        super().__init__(model, dtype=dtype, length=length)
        config = model.config
        if config.n_routed_experts > MAX_EXPERTS:
            raise NotLean(f"{config.n_routed_experts} experts are more than {MAX_EXPERTS}")
        self.config = config
        self.latent_eps = model.model.layers[0].self_attn.kv_a_layernorm.variance_epsilon
        self.heads = config.num_attention_heads
        self.nope, self.rope = config.qk_nope_head_dim, config.qk_rope_head_dim
        self.value, self.latent = config.v_head_dim, config.kv_lora_rank
        unfolded = self.heads * (self.nope + self.value)
        self.absorbed = unfolded > self.latent if absorbed is None else absorbed
        self.attentions = [self._attention(layer) for layer in model.model.layers]
        self.mlps = [self._mlp(layer) for layer in model.model.layers]

    def _attention(self, layer: Any) -> Attention:
        """Fold norms, the softmax scale and, where it pays, the latent's unfolding."""
        source, before = layer.self_attn, layer.input_layernorm.weight
        if source.q_lora_rank is None:
            first, query = folded(source.q_proj, before), None
            first = self._order_queries(first, source.scaling)
        else:
            first = folded(source.q_a_proj, before)
            query = self._order_queries(
                folded(source.q_b_proj, source.q_a_layernorm.weight), source.scaling
            )
        down, key_rope = folded(source.kv_a_proj_with_mqa, before).split(
            [self.latent, self.rope], dim=1
        )
        biases = self._input_biases(source, first.shape[1])
        up_AKX = (
            folded(source.kv_b_proj, source.kv_a_layernorm.weight)
            .unflatten(1, (self.heads, self.nope + self.value))
            .transpose(0, 1)
        )
        up_key_AKN, up_value_AKV = up_AKX.split([self.nope, self.value], dim=2)
        parts, unfold = [first, down, self._pair(key_rope)], None
        if not self.absorbed:
            unfold = torch.cat(
                [up.transpose(0, 1).flatten(1) for up in (up_key_AKN, up_value_AKV)], dim=1
            )
            if biases is None and down.shape[0] <= self.latent:
                parts = [first, torch.linalg.qr(down.t()).R.t(), parts[2], down @ unfold]
                unfold = None
        return Attention(
            w_in=self._stored(torch.cat(parts, dim=1)),
            b_in=None if biases is None else self._stored(biases),
            w_query=None if query is None else self._stored(query),
            w_unfold=None if unfold is None else self._stored(unfold),
            up_key_ANK=self._stored(up_key_AKN.transpose(1, 2)) if self.absorbed else None,
            up_value_AKV=self._stored(up_value_AKV) if self.absorbed else None,
            w_out=self._stored(folded(source.o_proj)),
            b_out=None if source.o_proj.bias is None else self._stored(source.o_proj.bias.detach()),
        )

    def _input_biases(self, source: Any, width: int) -> Tensor | None:
        """The biases of the first product, or None where there are none."""
        if source.kv_a_proj_with_mqa.bias is None:
            return None
        key = source.kv_a_proj_with_mqa.bias.detach().double()
        query = torch.zeros(width).double()
        if source.q_lora_rank is not None:
            query = source.q_a_proj.bias.detach().double()
        return torch.cat([query, key[: self.latent], self._pair(key[self.latent :])])

    def _stored(self, weight: Tensor) -> Tensor:
        return stored(weight, self.dtype)

    def _pair(self, weight: Tensor) -> Tensor:
        """Put the columns that rotate together side by side."""
        return weight if self.config.rope_interleave else interleave_halves(weight, self.rope)

    def _order_queries(self, weight: Tensor, scale: float) -> Tensor:
        """Columns by head (nope, rope) to (all nope, all rope), scaled.

        The rotation's own scale, once for the query and once for the key, is for the rotated part.
        """
        by_head = (weight * scale).unflatten(1, (self.heads, self.nope + self.rope))
        nope, rope = by_head.split([self.nope, self.rope], dim=2)
        rope = self._pair(rope) * self.turn_scale**2
        return torch.cat([nope.flatten(1), rope.flatten(1)], dim=1)

    def _mlp(self, layer: Any) -> Mlp:
        """Gates, ups and router in one product; routed and shared experts side by side."""
        source, before = layer.mlp, layer.post_attention_layernorm.weight
        if not hasattr(source, "experts"):
            gate, up = folded(source.gate_proj, before), folded(source.up_proj, before)
            return Mlp(
                self._stored(torch.cat([gate, up], dim=1)),
                self._stored(folded(source.down_proj)),
                None,
            )
        shared = source.shared_experts
        scale_H = before.detach().double()
        both_EXH = source.experts.gate_up_proj.detach().double() * scale_H
        gates, ups = (half.flatten(0, 1).t() for half in both_EXH.chunk(2, dim=1))
        downs = source.experts.down_proj.detach().double().transpose(1, 2).flatten(0, 1)
        router = folded(source.gate, before)
        w_in = [gates, folded(shared.gate_proj, before), ups, folded(shared.up_proj, before)]
        return Mlp(
            self._stored(torch.cat([*w_in, router], dim=1)),
            self._stored(torch.cat([downs, folded(shared.down_proj)])),
            self._stored(source.gate.e_score_correction_bias.detach()),
        )

    def new_cache(self, rows: int) -> Cache:
        width = self.latent if self.absorbed else self.heads * self.nope
        heads = Heads(
            groups=1,
            queries=self.heads,
            key_width=self.rope + width,
            value_width=self.latent if self.absorbed else self.heads * self.value,
            value_at=self.rope if self.absorbed else None,
        )
        return Cache(len(self.mlps), heads, rows, self.dtype, self.embedding_VH.device)

    def hidden(self, cache: Cache, step: Step, tokens_T: Tensor) -> Tensor | None:
        x_TH = self.embedding_VH.index_select(0, tokens_T)
        turns_T1F = self.turns_LF.index_select(0, step.positions_T)[:, None]
        last = len(self.mlps) - 1
        for index, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            queries = self._fill(cache, step, index, attention, norm(x_TH, self.eps), turns_T1F)
            if index == last and step.rows_U is not None:
                return None  # a prompt's outputs are not wanted, only its keys and values
            mixed = self._mix(cache.attend(index, step, queries), attention, len(x_TH))
            x_TH.addmm_(mixed, attention.w_out)
            if attention.b_out is not None:
                x_TH.add_(attention.b_out)
            self._feed_forward(mlp, x_TH)
        return x_TH

    def _fill(
        self,
        cache: Cache,
        step: Step,
        index: int,
        attention: Attention,
        x_TH: Tensor,
        turns_T1F: Tensor,
    ) -> Tensor:
        """Write the layer's keys and values; its queries, as `Cache.attend` wants them."""
        num_tokens, heads, nope, rope = len(x_TH), self.heads, self.nope, self.rope
        both = x_TH @ attention.w_in
        if attention.b_in is not None:
            both.add_(attention.b_in)
        first = (
            attention.w_query.shape[0] if attention.w_query is not None else heads * (nope + rope)
        )
        query = both[:, :first]
        if attention.w_query is not None:
            query = norm(query, self.latent_eps) @ attention.w_query
        turn(query[:, heads * nope :].unflatten(1, (heads, rope)), turns_T1F)

        kept = both.shape[1] - first - rope
        unfolded = heads * (nope + self.value)
        is_folded = not self.absorbed and attention.w_unfold is None
        length = kept - unfolded if is_folded else kept
        part = both[:, first : first + length]
        key_rope = both[:, first + length : first + length + rope]
        turn(key_rope[:, None], turns_T1F)
        squares = (part * part).sum(-1, keepdim=True)
        scale = squares.div_(self.latent).add_(self.latent_eps).rsqrt_()
        if self.absorbed:
            cache.write(index, step, torch.cat([key_rope, part * scale], dim=1), None)
        else:
            rest = (
                both[:, first + length + rope :] if is_folded else part @ attention.w_unfold  # type: ignore[operator]
            )
            rest.mul_(scale)
            keys = torch.cat([key_rope, rest[:, : heads * nope]], dim=1)
            cache.write(index, step, keys, rest[:, heads * nope :])
        return self._queries(cache, query, attention, num_tokens, step.chunk)

    def _queries(
        self, cache: Cache, query: Tensor, attention: Attention, num_tokens: int, chunk: int
    ) -> Tensor:
        """Queries against the cache's rows of (rotated key, keys of all heads | latent)."""
        heads, nope, rope = self.heads, self.nope, self.rope
        wide = cache.heads.key_width
        queries = cache.scratch_queries(num_tokens)
        queries[:, :, :rope] = query[:, heads * nope :].unflatten(1, (heads, rope))
        plain_TAN = query[:, : heads * nope].unflatten(1, (heads, nope))
        if attention.up_key_ANK is not None:
            queries[:, :, rope:] = torch.bmm(
                plain_TAN.transpose(0, 1), attention.up_key_ANK
            ).transpose(0, 1)
        else:
            own = queries.as_strided(
                (num_tokens, heads, nope), (heads * wide, wide + nope, 1), rope
            )
            own.copy_(plain_TAN)
        return queries.view(-1, chunk * heads, wide)

    def _mix(self, attended: Tensor, attention: Attention, num_tokens: int) -> Tensor:
        """Each head's own part of what was attended to, (T, A * V)."""
        heads, value = self.heads, self.value
        if attention.up_value_AKV is not None:
            by_head = attended.view(num_tokens, heads, self.latent).transpose(0, 1)
            return torch.bmm(by_head, attention.up_value_AKV).transpose(0, 1).flatten(1)
        wide = heads * value
        own = attended.as_strided((num_tokens, heads, value), (heads * wide, wide + value, 1))
        return own.flatten(1)

    def _feed_forward(self, mlp: Mlp, x_TH: Tensor) -> None:
        """Add the feed-forward part to x in place."""
        both = norm(x_TH, self.eps) @ mlp.w_in
        wide = mlp.w_out.shape[0]
        inner = F.silu(both[:, :wide]).mul_(both[:, wide : 2 * wide])
        if mlp.router_bias_E is not None:
            weight_TX = self._route(both[:, 2 * wide :], mlp.router_bias_E)
            inner.view(len(inner), weight_TX.shape[1], -1).mul_(weight_TX[..., None])
        x_TH.addmm_(inner, mlp.w_out)

    def _route(self, logits_TE: Tensor, bias_E: Tensor) -> Tensor:
        """Weights of the experts, then 1 for each shared one; zero for those not chosen.

        The bias moves the choice only. A group's score is the sum of its two best experts'.
        """
        config = self.config
        scores_TE = torch.sigmoid(logits_TE)
        choice_TE = scores_TE + bias_E
        if config.topk_group < config.n_group:
            by_group = choice_TE.unflatten(1, (config.n_group, -1))
            best_TG = by_group.topk(2, dim=-1)[0].sum(-1)
            closed_TG = torch.ones_like(best_TG, dtype=torch.bool)
            closed_TG.scatter_(1, best_TG.topk(config.topk_group, sorted=False)[1], False)
            by_group.masked_fill_(closed_TG[..., None], float("-inf"))
        top_TK = choice_TE.topk(config.num_experts_per_tok, sorted=False)[1]
        weight_TK = scores_TE.gather(1, top_TK)
        if config.norm_topk_prob:
            weight_TK.div_(weight_TK.sum(-1, keepdim=True).add_(1e-20))
        weight_TK.mul_(config.routed_scaling_factor)
        shape = (len(logits_TE), logits_TE.shape[1] + config.n_shared_experts)
        weights_TX = weight_TK.new_zeros(shape)
        weights_TX[:, logits_TE.shape[1] :] = 1
        return weights_TX.scatter_(1, top_TK, weight_TK)
