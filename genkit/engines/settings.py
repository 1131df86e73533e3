"""torch's settings of a CUDA device on which bits depend. They hold for the whole process."""

import torch


def set_exact(device: torch.device) -> None:
    """On CUDA: convolutions that give the same bits each time, and no TF32.

    cuDNN would otherwise choose among its algorithms, some of which add numbers in an order of the
    moment. TF32 keeps 10 of float32's 23 bits; torch allows it in convolutions by default.
    ``--precision bf16`` is there for those who want speed for bits. On other devices: nothing.
    """
    if device.type != "cuda":
        return
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    allow_tf32(False)


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products and convolutions may compute in TF32.

    By torch's older settings in every version: the newer ones make ``torch.backends.cudnn.flags``
    fail, which some models need.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def describe(device: torch.device) -> dict[str, str]:
    """``cudnn_deterministic`` and ``tf32``, each ``on`` or ``off``; on CUDA only."""
    if device.type != "cuda":
        return {}
    return {
        "cudnn_deterministic": "on" if torch.backends.cudnn.deterministic else "off",
        "tf32": "on" if _tf32() else "off",
    }


def _tf32() -> bool:
    return bool(torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)
