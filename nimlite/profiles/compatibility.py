"""What keeps a profile off the GPUs of a machine, whatever their memory."""

from nimlite.probe.machine import Gpu, Machine
from nimlite.profiles.manifest import Precision, Profile
from nimlite.profiles.nearest import capability_of
from nimlite.profiles.placement import placements

CAPABILITY = {
    Precision.BF16: (8, 0),
    Precision.FP16: (7, 5),
    Precision.FP8: (8, 9),
    Precision.INT8_SQ: (8, 0),
    Precision.INT8_WO: (8, 0),
    Precision.INT4_AWQ: (8, 0),
    Precision.INT4_GPTQ: (8, 0),
}
"""The first compute capability that multiplies in a precision, and that CUDA 13 and Triton compile
for. Beside weights of integers, activations are bf16."""


def least_capability(profile: Profile) -> tuple[int, int]:
    """The first compute capability that the profile runs on."""
    least = CAPABILITY[profile.precision]
    in_fp8 = profile.kv_precision is Precision.FP8
    return max(least, CAPABILITY[Precision.FP8]) if in_fp8 else least


def places(profile: Profile, machine: Machine) -> list[tuple[Gpu, ...]]:
    """The sets of GPUs that can compute the profile's precision, the emptiest of each group."""
    least = least_capability(profile)
    found = placements(machine, profile.num_gpus)
    return [gpus for gpus in found if capability_of(gpus[0].compute_capability) >= least]


def unfit(profile: Profile, machine: Machine) -> str | None:
    """Why no GPU here can run the profile however much memory it has; None: one can."""
    if profile.num_gpus > len(machine.gpus):
        seen = machine.gpu_problem or f"The machine has {len(machine.gpus)}."
        return f"It needs {profile.num_gpus} GPU(s). {seen}"
    if reason := _torch_problem(machine):
        return reason
    least = least_capability(profile)
    if not any(capability_of(gpu.compute_capability) >= least for gpu in machine.gpus):
        found = ", ".join(sorted({f"{g.name} ({g.compute_capability})" for g in machine.gpus}))
        what = profile.precision if CAPABILITY[profile.precision] == least else "an fp8 KV cache"
        return f"{what} needs compute capability {least[0]}.{least[1]}; this machine has {found}."
    if not places(profile, machine):
        return (
            f"It needs {profile.num_gpus} whole GPUs of one kind, of compute capability {least[0]}."
            f"{least[1]} or more, and with NVLink between all of them where the machine has it."
        )
    return None


def _torch_problem(machine: Machine) -> str | None:
    """Why the installed torch can't use the GPUs."""
    torch, cuda = machine.software.torch or "", machine.software.cuda
    _, _, build = torch.partition("+")
    if build == "cpu":
        return f"The installed torch ({torch}) is built for CPUs only; install one with CUDA."
    wanted = build[2:-1] if build.startswith("cu") else ""
    served = (cuda or "").partition(".")[0]
    if wanted.isdecimal() and served.isdecimal() and int(served) < int(wanted):
        return (
            f"The installed torch ({torch}) needs a driver for CUDA {wanted}; this machine's "
            f"({machine.software.driver}) serves CUDA {cuda}."
        )
    return None
