"""Errors of Metal that are not about memory, as sentences. Others met them: github.com/ml-explore/mlx, issues 1231, 3267, 3397, 3803,
4389 and 4464."""

from ..errors import DeviceFailed, UserError, is_device_failure

NO_DEVICE = "No Metal device"
NO_KERNELS = "[metal::Device] Unable to", "Failed to load the default metallib", "Failed to make new command queue"
REMEDY = (
    "close other programs, and let the display sleep (pmset displaysleepnow); if it happens again, set "
    "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1 in the environment, or start a new run with a smaller `batch_size` and a larger "
    "`gradient_accumulation_steps`"
)
FEWER_ARRAYS = "if it happens again, start a new run with a smaller `n_layer`, or fewer `gradient_accumulation_steps`"
CAUSES = {  # words in Metal's error: the cause, and the remedy
    "Impacting Interactivity": (": macOS stopped it for the sake of the display", REMEDY),
    "Timeout": (": macOS stopped it because a part took too long", REMEDY),
    "Resource limit": (": it has too many arrays", FEWER_ARRAYS),
    "": ("", REMEDY),
}


def explain_failure(error: RuntimeError | MemoryError) -> UserError | None:
    """An error of a GPU that failed, is missing, or lacks a kernel, with the remedy; None for any other error."""
    text = str(error).rstrip(".")
    if is_device_failure(error):
        cause, remedy = next(found for words, found in CAUSES.items() if words in text)
        return DeviceFailed(f"the GPU failed{cause} ({text})", remedy)
    if NO_DEVICE in text:
        problem = "MLX finds no GPU in this session, as in a sandbox or a virtual machine"
        return UserError(
            problem, "run it in Terminal on the Mac itself: MLX for macOS needs the GPU, also for `device` cpu"
        )
    if any(words in text for words in NO_KERNELS):
        remedy = "update macOS, and run pip install --force-reinstall mlx; mlx-gpt doctor compares the versions"
        return UserError(f"MLX does not fit this GPU ({' '.join(text.split())})", remedy)
    return None
