"""Errors of Metal that are not about memory, as sentences. Others met them: github.com/ml-explore/mlx, issues 1231, 3267, 3397, 3803,
4389 and 4464."""

from ..errors import DeviceFailed, UserError, is_device_failure

NO_DEVICE, NO_KERNEL = "No Metal device", "[metal::Device] Unable to load"
CAUSES = {
    "Impacting Interactivity": "macOS stopped it for the sake of the display",
    "Timeout": "macOS stopped it because a part took too long",
    "Resource limit": "it has too many arrays",
}
REMEDY = (
    "close other programs, and let the display sleep (pmset displaysleepnow); if it happens again, set "
    "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1 in the environment, or start a new run with a smaller `batch_size` and a larger "
    "`gradient_accumulation_steps`"
)


def explain_failure(error: RuntimeError | MemoryError) -> UserError | None:
    """An error of a GPU that failed, is missing, or lacks a kernel, with the remedy; None for any other error."""
    text = str(error).rstrip(".")
    if is_device_failure(error):
        cause = next((f": {cause}" for words, cause in CAUSES.items() if words in text), "")
        return DeviceFailed(f"the GPU failed{cause} ({text})", REMEDY)
    if NO_DEVICE in text:
        problem = "this session has no GPU, as over ssh or in a virtual machine"
        return UserError(problem, "log in at the Mac itself, or choose `device` cpu")
    if NO_KERNEL in text:
        remedy = "run pip install --force-reinstall mlx; mlx-gpt doctor compares the versions"
        return UserError(f"MLX does not fit its kernels for the GPU ({text.splitlines()[0]})", remedy)
    return None
