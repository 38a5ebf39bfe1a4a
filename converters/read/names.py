"""Names of weights that files of any family hold beside those that are needed:
known, and left out without a word of refusal.

A name that the family's own networks have is never one of these: readers ask that first.
"""

from __future__ import annotations

import re

# What a text encoder's file holds beside the text encoder: the rest of CLIP, and what maps its last token into
# the common space.
_CLIP_ONLY = r"(.*\.)?(vision_model\..*|(text|visual)_projection(\.weight|\.bias)?|logit_scale)"
# A table of positions that is made again, for one size; and T5's second copy of its table of tokens.
_MADE_AGAIN = r"|(model\.diffusion_model\.|transformer\.)?pos_embed(\.pos_embed)?|(.*\.)?encoder\.embed_tokens\.weight"
# Training-time constants that the sampler's own tables replace, the losses of the VAE's training, what an embedding was
# trained with, the safety checker, and the tables of k-diffusion that some tools save with the model.
_IGNORABLE = re.compile(
    _CLIP_ONLY
    + _MADE_AGAIN
    + r"|(.*\.)?position_ids|betas|(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12])|logvar|lvlb_weights|global_step|model_ema\..*"
    r"|first_stage_model\.loss\..*"
    r"|first_stage_model\.model_ema\..*|embedding_manager\..*|safety_checker\..*|denoiser\..*"
    r"|cond_stage_model\.(decay|num_updates)|ddim_\w+"
)


def is_ignorable(name: str) -> bool:
    """Whether a weight of that name is known and not needed: position_ids, schedule buffers, moving averages, training
    losses, and what CLIP has beside its text encoder."""
    return len(name) <= 512 and _IGNORABLE.fullmatch(name) is not None


def is_clip_only(name: str) -> bool:
    """Whether a weight of that name is CLIP's, and Stable Diffusion has no use for it."""
    return len(name) <= 512 and re.fullmatch(_CLIP_ONLY, name) is not None


def ema_name(original: str) -> str:
    """The name of a UNet weight's moving average: ldm's LitEma drops the dots, which a buffer's name may not hold."""
    return "model_ema." + original.removeprefix("model.").replace(".", "")
